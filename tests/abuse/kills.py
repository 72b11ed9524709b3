"""kill -9 of running releases, of each service, and of `relume up`: the next command brings the platform back.

No process is left, no port is held, the champion serves, ledger and aliases agree, and `status` and `doctor` say what
is the case, before and after.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil

from flows import processes
from flows.embedded_triton import EmbeddedTriton
from flows.platform import services
from flows.platform.doctor import examine
from flows.platform.status import read_status
from flows.prefect_settings import services_folder
from flows.processes import recorded_process, running_process
from flows.release.ledger import Ledger
from flows.release.package import open_package
from flows.release.release import release_package
from flows.release.rollback import roll_back
from flows.release.served_product import serve_champions
from relume.errors import ModelMissingError
from tests.abuse.rows import Row, Setting, relume, watched
from tests.abuse.served_home import IMAGE, own_home, processes_of, restored, strays
from tests.real.embedded_triton import CHECKOUT
from tests.real.releases import LINEAGE, die_at, expected, make_checkout, put_package

FAMILY = "kills"
SECONDS = 180.0  # after which a command counts as hanging; the slowest takes twenty on an idle machine
TURNS = (0.95, 1.0)  # blurs of the packages that are released in turn, so near that each passes against the other
QUICK = ("the product has been switched",)
# Commands as processes of their own, which take other ports than the usual ones.
UP = """
from tests.abuse.served_home import leave_usual_ports
from relume.cli import main
with leave_usual_ports():
    main(["up"])
"""
RELEASE = """
import sys
from pathlib import Path
from unittest.mock import patch
from flows.release.release import release_package
from tests.real.releases import LINEAGE
release_package(Path(sys.argv[1]), Path(sys.argv[2]), lineage=LINEAGE)
"""
Condition = Callable[[], bool]


def attack(setting: Setting) -> Iterator[Row]:
    """Kills releases and, when it is thorough, services and `relume up`; a row for each kind."""
    with own_home(setting.folder) as (root, home):
        (root / "flows").symlink_to(CHECKOUT / "flows")
        (root / "prefect.yaml").write_bytes((CHECKOUT / "prefect.yaml").read_bytes())
        platform = Platform(make_checkout(root), home)
        platform.put(TURNS[0])
        platform.release()
        for kind, (kill, command) in _moments(platform).items():
            if setting.thorough or kind in QUICK:
                yield _kill_release(platform, kind, kill, command)
        if setting.thorough:
            with patch.object(processes, "SILENT_SECONDS", 5.0):
                yield from _kill_services(platform)
                yield from _kill_up(platform)


class Platform:
    """A checkout and its home.

    Attributes:
        root: The checkout.
        home: The home.
        images: By release, what it restores the image to.
    """

    def __init__(self, root: Path, home: Path):
        self.root, self.home = root, home
        self.images: dict[str, np.ndarray] = {}
        self._blurs: dict[str, float] = {}

    @property
    def champion(self) -> str:
        """The release that the ledger says serves; empty when there is none."""
        current = Ledger(self.home).current("denoise")
        return current.model if current else ""

    def put(self, blur: float) -> str:
        """Puts a package into the checkout, and gives the name of its release."""
        put_package(self.root, blur=blur)
        model = open_package(self.root / "package").model
        self.images[model], self._blurs[model] = expected(self.root, IMAGE), blur
        return model

    def put_other(self) -> str:
        """Puts a package that is not the champion's into the checkout, and gives the name of its release."""
        return self.put(next(blur for blur in TURNS if blur != self._blurs[self.champion]))

    def release(self) -> None:
        """Releases the package of the checkout."""
        release_package(self.root, self.home, lineage=LINEAGE)

    def wrong(self) -> Iterator[str]:
        """What does not hold of a platform that was brought back."""
        ledger, server = Ledger(self.home), EmbeddedTriton(self.home).running()
        if not self.champion:
            yield "the champion is lost"
        elif server is None:
            yield "Triton does not run"
        elif not np.array_equal(restored(server), self.images[self.champion]):
            yield "the product does not restore as the champion of the ledger"
        yield from (f"{entry.event} {entry.release.model} is not finished" for entry in ledger.unfinished())
        yield from read_status(self.root, self.home).problems
        yield from (f"a process is left: {' '.join(each.cmdline())[:200]}" for each in strays(self.home))

    def looks(self) -> Iterator[str]:
        """What is wrong with `status` and `doctor`, of which each has to answer."""
        for look in ("status", "doctor"):
            if failure := watched(relume(look), seconds=SECONDS).failure:
                yield f"{look}: {failure}"


def _finish(row: Row, platform: Platform, command: Callable[[], object]) -> Row:
    """Runs the next command, and notes what does not hold afterwards."""
    failure = watched(lambda: (0, str(command())), seconds=SECONDS).failure
    row.wrong += [failure] if failure else []
    row.wrong += platform.wrong()
    row.survived = 0 if row.wrong else row.tried
    return row


def _killed(command: list[str], when: Condition) -> list[str]:
    """Runs a command and kills it, and nothing that it started, at a moment; says what was wrong with that."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, stdout=output, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + SECONDS
        try:
            while process.poll() is None and time.monotonic() < end:
                if when():
                    return []
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        return [f"the moment did not come, exit code {process.returncode}: {output.read()[-600:]}"]


def _moments(platform: Platform) -> dict[str, tuple[Callable[[], list[str]], Callable[[], object]]]:
    """By the moment, what kills a release there, and what is run next."""
    root, home = platform.root, platform.home
    command = [sys.executable, "-c", RELEASE, str(root), str(home)]

    def written(event: str) -> Callable[[], list[str]]:
        def kill() -> list[str]:
            lines = len(Ledger(home).entries())
            return _killed(command, lambda: event in [entry.event for entry in Ledger(home).entries()[lines:]])

        return kill

    def there(path: Path) -> Callable[[], list[str]]:
        return lambda: _killed(command, path.exists)

    def dying(event: str) -> Callable[[], list[str]]:
        def kill() -> list[str]:
            die_at(root, home, event)
            return []

        return kill

    trial = home / "triton" / "trial"
    serve = partial(serve_champions, home)
    return {
        "the package has been registered": (written("registered"), platform.release),
        "the trial server starts": (there(trial / "triton.json"), serve),
        "the trial server runs": (there(trial / "models"), partial(_roll_back, platform)),
        "it is promoting": (written("promoting"), platform.release),
        "the product has been switched": (dying("promoted"), serve),
        "the line promoted has been written": (dying("after promoted"), serve),
    }


def _roll_back(platform: Platform) -> None:
    """Rolls back, or says that there is nothing to go back to."""
    with contextlib.suppress(ModelMissingError):
        roll_back(platform.root, platform.home)


def _kill_release(platform: Platform, kind: str, kill: Callable[[], list[str]], command: Callable[[], object]) -> Row:
    row = Row(family=FAMILY, kind=f"a release when {kind}", tried=1)
    platform.put_other()
    row.wrong += kill()
    row.wrong += platform.looks()
    return _finish(row, platform, command)


def _up(platform: Platform) -> None:
    reports = services.up(platform.root, platform.home)
    failed = [f"{report.name}: {report.detail}" for report in reports if report.state == "failed"]
    if failed:
        raise AssertionError("; ".join(failed))


def _kill_services(platform: Platform) -> Iterator[Row]:
    """Each service is killed with the supervisor, which would start it again; then `up` is run."""
    home, folder = platform.home, services_folder(platform.home)
    _up(platform)

    def leader(name: str) -> psutil.Process:
        record = running_process(home / "triton" if name == "triton" else folder, name)
        assert record, f"{name} does not run"
        return psutil.Process(record.pid)

    def child(name: str) -> psutil.Process:
        return leader(name).children()[0]

    victims: dict[str, tuple[str, Callable[[], psutil.Process]]] = {
        "Triton": ("triton", lambda: leader("triton")),
        "the process of Triton's model": ("", lambda: child("triton")),
        "Prefect's server": ("prefect", lambda: leader("prefect")),
        "Prefect's worker": ("worker", lambda: leader("worker")),
        "MLflow's parent": ("mlflow", lambda: leader("mlflow")),
        "MLflow's child": ("", lambda: child("mlflow")),
        "Triton, only stopped,": ("", lambda: leader("triton")),
    }
    for kind, (service, victim) in victims.items():
        row = Row(family=FAMILY, kind=f"{kind} and the supervisor", tried=1)
        before = {name: recorded_process(folder, name) for name in ("mlflow", "prefect")}
        leader("supervisor").kill()
        victim().send_signal(signal.SIGSTOP if "stopped" in kind else signal.SIGKILL)
        time.sleep(0.5)
        row.wrong += platform.looks()
        row.wrong += _says(platform, {"supervisor": "dead"} | ({service: "dead"} if service else {}))
        _finish(row, platform, lambda: _up(platform))
        row.wrong += _says(platform, dict.fromkeys(("mlflow", "prefect", "worker", "supervisor", "triton"), "running"))
        for name, record in before.items():
            if record and (now := recorded_process(folder, name)) and now.address != record.address:
                row.wrong.append(f"{name} is at another address than before")
        row.survived = 0 if row.wrong else 1
        yield row
    yield _kill_supervised(platform, leader("mlflow"))


def _kill_supervised(platform: Platform, mlflow: psutil.Process) -> Row:
    """MLflow's parent, beside a supervisor that starts it again by itself."""
    row = Row(family=FAMILY, kind="MLflow's parent, with the supervisor", tried=1)
    folder, end = services_folder(platform.home), time.monotonic() + 60
    mlflow.kill()
    while time.monotonic() < end:
        record = running_process(folder, "mlflow")
        if record and record.pid != mlflow.pid and services.answers(f"{record.address}/health"):
            break
        time.sleep(0.2)
    return _finish(row, platform, lambda: None)


def _says(platform: Platform, states: dict[str, str]) -> Iterator[str]:
    """What `status` and `doctor` say otherwise than they should about services."""
    status = read_status(platform.root, platform.home)
    for service in status.services:
        if service.name in states and service.state != states[service.name]:
            yield f"status says that {service.name} is {service.state}, it is {states[service.name]}"
    for found in examine(platform.root, platform.home):
        if found.name in states and found.ok != (states[found.name] == "running"):
            yield f"doctor says {found.detail} of {found.name}, which is {states[found.name]}"


def _kill_up(platform: Platform) -> Iterator[Row]:
    """`relume up` is killed at some points; then `up`, or `down` and `up`, is run."""
    folder = services_folder(platform.home)
    for kind, when in {
        "MLflow's record has been written": (folder / "mlflow.json").exists,
        "its worker has started": (folder / "worker.json").exists,
    }.items():
        row = Row(family=FAMILY, kind=f"`relume up` when {kind}", tried=1)
        services.down(platform.home)
        row.wrong += [f"down left {' '.join(each.cmdline())[:200]}" for each in processes_of(platform.home)]
        row.wrong += _killed([sys.executable, "-c", UP], when)
        row.wrong += platform.looks()
        yield _finish(row, platform, lambda: _up(platform))
    row = Row(family=FAMILY, kind="`relume up` killed, then `relume down`", tried=1)
    services.down(platform.home)
    row.wrong += _killed([sys.executable, "-c", UP], (folder / "prefect.json").exists)
    addresses = [record.address for name in ("mlflow", "prefect") if (record := recorded_process(folder, name))]
    services.down(platform.home)
    row.wrong += [f"down left {' '.join(each.cmdline())[:200]}" for each in processes_of(platform.home)]
    held = {each.laddr.port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    row.wrong += [f"{address} is held" for address in addresses if int(str(address).rpartition(":")[2]) in held]
    row.survived = 0 if row.wrong else 1
    yield row
