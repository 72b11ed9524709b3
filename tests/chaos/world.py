"""What the rounds of a campaign start from: made once, when the first round needs it, and copied by each round."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import docker

from flows.release.anchor import anchor_ledger
from flows.release.ledger import Ledger, Release
from flows.release.package import open_package
from flows.release.registry import Registry
from relume.files import sha256_folder
from tests.chaos.served import MissedError, Served
from tests.components.test_training_steps import Checkout
from tests.flows.release.synthetic import make_photographs
from tests.flows.release.test_ledger import promote, release
from tests.flows.runners.conftest import PODMAN, serve
from tests.flows.toy import Toy, copy_toy, make_toy, prefect_server
from tests.real.embedded_triton import CHECKOUT
from tests.real.object_store import ObjectStore, object_store
from tests.real.test_release_retrain import make_graph

RETRAIN = """
from pathlib import Path
from flows.prefect_settings import use_local_prefect
from relume.home import relume_home
use_local_prefect(relume_home())
from flows.retrain import retrain
retrain()
"""
STAGES = ("first", "pretrain@one")  # of the toy's graph: two, of which the second reads what the first writes
OUTS = ("data/first", "models/bases/one")


class NotHereError(Exception):
    """This machine lacks what a kind of fault needs; the message says how to install it."""


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
    def prefect(self) -> str:
        """The API of a Prefect server."""
        return self.enter_context(prefect_server(self.folder / "prefect"))

    @functools.cached_property
    def engine(self) -> str:
        """The address of a container engine in which `toy` is an image; podman.sh says whose."""
        if shutil.which("podman") is None:
            raise NotHereError("podman is not installed: sh infra/containers/setup.sh")
        if subprocess.run([*PODMAN, "image", "exists", "relume-data"], cwd=CHECKOUT).returncode:
            raise NotHereError("the images of steps are not there: sh infra/containers/build.sh")
        with contextlib.chdir(CHECKOUT):
            service, address = serve(self.folder)
        self.callback(service.wait)
        self.callback(service.terminate)
        docker.DockerClient(address).images.get("relume-data").tag("toy")
        return address

    @functools.cached_property
    def clock(self) -> Path:
        """A library that moves the clock of processes into which it is preloaded."""
        if not (compiler := shutil.which("cc")):
            raise NotHereError("there is no C compiler: apt-get install gcc libc6-dev")
        library = self.folder / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        return library

    @functools.cached_property
    def retraining(self) -> tuple[Path, dict[str, str]]:
        """A checkout and a home after a retraining, with a photograph more, and what the next retraining leaves.

        Both packages have been judged, so that nothing is released.
        """
        place, photographs = self.folder / "retraining", self.folder / "photographs"
        make_photographs(photographs, count=1)
        make_graph(place / "checkout", photographs)
        for count in (1, 2):
            package = open_package(place / "checkout" / "prepared" / str(count))
            promote(
                Ledger(place / "home"),
                Release(product="denoise", package=package.sha256, version=str(count), model=package.model),
            )
        _retrain(place, self.prefect)
        shutil.copy(place / "checkout" / "data" / "curated" / "held_out" / "test" / f"{1:016x}.png", photographs)
        shutil.copytree(place, self.folder / "retrained" / "place", symlinks=True)
        _retrain(self.folder / "retrained" / "place", self.prefect)
        after = self.folder / "retrained" / "place"
        return place, retrained(after / "checkout", after / "home")

    @functools.cached_property
    def toy(self) -> Toy:
        """The same with a home of an earlier commit's run: databases and caches are there, and each stage is stale.

        Its runs report to one Prefect server, which spares each of them the start of its own.
        """
        toy = copy_toy(self.new, self.folder / "template", PREFECT_API_URL=self.prefect)
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


def start_retraining(root: Path, home: Path, api: str) -> subprocess.Popen:
    """Starts a retraining of a checkout, as the worker would."""
    environment = os.environ | {
        "PREFECT_API_URL": api,
        "RELUME_HOME": str(home),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "dvc-site"),
        "PYTHONPATH": str(CHECKOUT),
    }
    command = [sys.executable, "-c", RETRAIN]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def retrained(root: Path, home: Path) -> dict[str, str]:
    """What a retraining leaves."""
    return {
        "dvc.lock": (root / "dvc.lock").read_text(),
        "package": sha256_folder(root / "package"),
        "ledger": str([(entry.event, entry.release) for entry in Ledger(home).entries()]),
    }


def _retrain(place: Path, api: str) -> None:
    process = start_retraining(place / "checkout", place / "home", api)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, out + errors


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
