"""What the rounds of a campaign start from: made once, when the first round needs it, and copied by each round."""

import contextlib
import functools
import os
import shutil
import subprocess
import time
from pathlib import Path

from flows.release.anchor import anchor_ledger
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from relume.files import sha256_folder
from tests.chaos.served import MissedError, Served
from tests.components.test_training_steps import Checkout
from tests.flows.release.test_ledger import promote, release
from tests.flows.toy import Toy, copy_toy, make_toy, prefect_server
from tests.real.object_store import ObjectStore, object_store

STAGES = ("first", "pretrain@one")  # of the toy's graph: two, of which the second reads what the first writes
OUTS = ("data/first", "models/bases/one")


class World(contextlib.ExitStack):
    """The templates and the servers of a campaign. Leave it like any context, and the servers end.

    Args:
        folder: Where they are made.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        os.environ.pop("MLFLOW_TRACKING_URI", None)

    @functools.cached_property
    def new(self) -> Toy:
        """The toy's repository, and a home in which nothing ran."""
        return make_toy(self.folder / "new" / "toy", self.folder / "new" / "home")

    @functools.cached_property
    def toy(self) -> Toy:
        """The same with a home of an earlier commit's run: databases and caches are there, and each stage is stale.

        Its runs report to one Prefect server, which spares each of them the start of its own.
        """
        api = self.enter_context(prefect_server(self.folder / "prefect"))
        toy = copy_toy(self.new, self.folder / "template", PREFECT_API_URL=api)
        params = (toy.root / "params.yaml").read_text()
        toy.write("params.yaml", params.replace("least: 1.0e-6", "least: 2.0e-6").replace("width: 1}", "width: 5}"))
        toy.commit()
        toy.run(STAGES[-1])
        toy.write("params.yaml", params)
        toy.commit()
        (toy.notes / "journal").unlink()
        return toy

    @functools.cached_property
    def whole(self) -> Toy:
        """The template after an undisturbed run."""
        toy = copy_toy(self.toy, self.folder / "whole")
        toy.run(STAGES[-1])
        return toy

    @functools.cached_property
    def state(self) -> dict[str, str]:
        """What an undisturbed run leaves."""
        return state_of(self.whole)

    @functools.cached_property
    def changed(self) -> tuple[Toy, dict[str, str]]:
        """The template after an undisturbed run and with a stale second stage, and what a run of it leaves."""
        toy = copy_toy(self.whole, self.folder / "changed")
        params = (toy.root / "params.yaml").read_text()
        toy.write("params.yaml", params.replace("{width: 1}", "{width: 3}"))
        run = copy_toy(toy, self.folder / "changed-run")
        run.run(STAGES[-1])
        return toy, state_of(run)

    @functools.cached_property
    def trained(self) -> str:
        """The hash of an undisturbed training's result; `training_seconds` is how long it took."""
        checkout, began = Checkout(self.folder / "trained"), time.monotonic()
        checkout.run("pretrain nafnet")
        self._training_seconds = time.monotonic() - began
        return checkout.result("pretrain nafnet")

    @property
    def training_seconds(self) -> float:
        """How long an undisturbed training takes."""
        assert self.trained
        return self._training_seconds

    @functools.cached_property
    def released(self) -> Path:
        """A home with a registry and a ledger of three releases."""
        home = self.folder / "released"
        registry, ledger = Registry(home), Ledger(home)
        registry._client.create_registered_model("denoise")
        promote(ledger, *(release(letter) for letter in "abc"))
        anchor_ledger(ledger, registry, "denoise")
        return home

    @functools.cached_property
    def s3(self) -> ObjectStore:
        """An S3 server."""
        (self.folder / "s3").mkdir()
        return self.enter_context(object_store(self.folder / "s3", "photos", "dvc"))

    @functools.cached_property
    def served(self) -> Served:
        """A home whose champion is served by Triton, with a registry on PostgreSQL."""
        return self.enter_context(Served(self.folder / "served"))

    def home(self, folder: Path) -> Path:
        """A copy of the home with releases."""
        shutil.copytree(self.released, folder / "home")
        return folder / "home"


def state_of(toy: Toy) -> dict[str, str]:
    """What a run leaves: the lock and the outs. The times that the toy's steps write are none of it."""
    outs = {name: sha256_folder(toy.root / name) for name in OUTS}
    return outs | {"dvc.lock": (toy.root / "dvc.lock").read_text()}


def wait(process: subprocess.Popen, seconds: float) -> None:
    """Waits for a process to end, so many seconds at most.

    Raises:
        MissedError: It has ended.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        raise MissedError


def wait_for(process: subprocess.Popen, text: str, seconds: float = 120) -> None:
    """Reads what a process prints until a line has a text.

    Raises:
        MissedError: It ended before.
    """
    assert process.stdout
    end = time.monotonic() + seconds
    for line in process.stdout:
        if text in line:
            return
        assert time.monotonic() < end, f"it did not print {text}"
    raise MissedError
