"""docs/runbooks.md: each fault is brought about, and the commands are run as they stand there."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flows.backup import write_backup
from flows.embedded_triton import EmbeddedTriton
from flows.monitoring.requests import Requests
from flows.platform import services
from flows.release.ledger import Ledger
from relume.monitoring.statistics import Statistics
from tests.real.embedded_triton import CHECKOUT, link_server
from tests.real.releases import BLURS, make_checkout, release, served

PAGE = (CHECKOUT / "docs" / "runbooks.md").read_text()
RUNBOOKS = {
    title: block.strip().splitlines()
    for title, block in re.findall(r"^## ([^\n]*)\n\n```\n(.*?)```", PAGE, re.M | re.S)
}
IMAGE = np.random.default_rng(3).integers(0, 256, (90, 130, 3), np.uint8)


class Place:
    """A checkout whose home has two releases, and a backup of it."""

    def __init__(self, folder: Path):
        self.root, self.home, self.safe = folder / "checkout", folder / "checkout" / ".relume", folder / "safe"
        self.safe.mkdir(parents=True)
        link_server(self.home)
        make_checkout(self.root)
        for name in ("flows", "prefect.yaml", "dvc.yaml", "components", "relume"):
            (self.root / name).symlink_to(CHECKOUT / name)
        (self.root / ".gitignore").write_text("/.relume\n/data\n/package\n")
        for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
            subprocess.run(command, cwd=self.root, check=True, capture_output=True)
        self.images = []
        for blur in BLURS[:2]:
            release(self.root, self.home, blur=blur)
            self.images.append(served(self.home, IMAGE))
        write_backup(self.home, self.safe / "relume.tar", keys=False)

    def run(self, title: str, codes: dict[int, int]) -> None:
        """Runs the commands of a runbook; all must end with 0 but those whose position has another code."""
        for number, command in enumerate(RUNBOOKS[title]):
            environment = os.environ | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(CHECKOUT),
                "DVC_SITE_CACHE_DIR": str(self.home / "dvc-site"),
            }
            environment.pop("RELUME_HOME", None)
            text = command.replace("/mnt/safe", str(self.safe))
            done = subprocess.run(
                text, shell=True, cwd=self.root, env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == codes.get(number, 0), f"{command}\n{done.stdout}{done.stderr}"

    def restores_as(self, number: int) -> bool:
        """Whether the product restores as one of the two releases."""
        return np.array_equal(served(self.home, IMAGE), self.images[number])


@pytest.fixture(scope="module")
def template(tmp_path_factory, module_environment):
    """What the tests copy: a release takes seconds."""
    place = Place(tmp_path_factory.mktemp("place"))
    services.down(place.home)
    return place


@pytest.fixture(scope="module")
def module_environment():
    """No server of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def place(template):
    """The place, with Triton serving; all is stopped afterwards and as it was before."""
    kept = template.home.with_name("kept")
    shutil.copytree(template.home, kept, symlinks=True)
    try:
        services._start_triton(template.home)
        yield template
    finally:
        services.down(template.home)
        shutil.rmtree(template.home)
        kept.rename(template.home)


def kill_triton(place: Place) -> None:
    os.kill(EmbeddedTriton(place.home).status().pid, signal.SIGKILL)


REFUSED = "import sys; from pathlib import Path; from tests.real.releases import release; "
REFUSED += "release(*map(Path, sys.argv[1:]), blur=6.0)"


def refuse(place: Place) -> None:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", REFUSED, str(place.root), str(place.home)]
    done = subprocess.run(command, cwd=place.root, env=environment, capture_output=True, text=True)
    assert "GateRefusedError" in done.stderr, done.stderr


def drift(place: Place) -> None:
    model, dice = Ledger(place.home).current("denoise").model, np.random.default_rng(0)
    with contextlib.closing(Requests(place.home)) as requests:
        for number in range(560):
            noise = float(dice.lognormal(1, 0.5)) * (5 if number >= 500 else 1)
            row = Statistics(seconds=1.0, noise=noise, sharpness=1.0, clipped=0.0, removed=noise, seams=0.0)
            requests.add(model, row)


def lose_database(place: Place) -> None:
    (place.home / "mlflow" / "mlflow.db").write_bytes(b"no database")


def lose_home(place: Place) -> None:
    services.down(place.home)
    installed = (place.home / "triton" / "env").resolve()
    shutil.rmtree(place.home)
    (place.home / "triton").mkdir(parents=True)
    (place.home / "triton" / "env").symlink_to(installed)


def break_ledger(place: Place) -> None:
    path = Ledger(place.home).path
    path.write_text(path.read_text().replace("promoting", "promoted", 1))


FAULTS: dict[str, tuple[Callable[[Place], object], dict[int, int], int]] = {
    "A release restores badly": (lambda place: None, {}, 0),
    "Triton is down": (kill_triton, {}, 1),
    "The gate refused a candidate": (refuse, {}, 1),
    "A drift alarm": (drift, {0: 4}, 1),
    "The disk is full": (lambda place: None, {}, 1),
    "MLflow's database is lost or damaged": (lose_database, {}, 1),
    "The home is lost": (lose_home, {}, 1),
    "The ledger is broken": (break_ledger, {0: 1}, 1),
}


def test_every_runbook_is_run():
    """Each section of the page has its fault here."""
    assert RUNBOOKS.keys() == FAULTS.keys()
    assert RUNBOOKS.keys() == set(re.findall(r"^## (.*)$", PAGE, re.M))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("title", FAULTS)
def test_a_runbook_ends_with_what_should_serve(place, title, monkeypatch):
    """Its commands end as they should, and the product restores as the release that should serve."""
    monkeypatch.setenv("RELUME_HOME", str(place.home))
    fault, codes, serves = FAULTS[title]
    fault(place)
    monkeypatch.delenv("RELUME_HOME")
    place.run(title, codes)
    assert place.restores_as(serves)
