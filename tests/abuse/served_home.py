"""A home whose champion serves under load, and what must hold of it after each attack."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import psutil

from flows.embedded_triton import EmbeddedTriton, TritonServer
from flows.platform import services
from flows.platform.status import read_status
from flows.prefect_settings import services_folder
from flows.processes import running_process
from flows.release.ledger import Ledger
from flows.release.release import release_package
from relume.serving.triton_client import TritonRestorer
from tests.abuse.rows import inside
from tests.real.clients import Clients
from tests.real.embedded_triton import link_server
from tests.real.releases import BLURS, LINEAGE, expected, make_checkout, put_package

IMAGE = np.random.default_rng(3).integers(0, 256, (90, 130, 3), np.uint8)


@contextlib.contextmanager
def own_home(folder: Path) -> Iterator[tuple[Path, Path]]:
    """An empty checkout, which is the current folder, and its home with the server's environment.

    All that runs here and starts from here uses them, and nothing is left running.

    Args:
        folder: Where they go.
    """
    root, home = folder / "checkout", folder / "home"
    link_server(home)
    with inside(root, home), leave_usual_ports():
        try:
            yield root, home
        finally:
            services.down(home)
            for process in processes_of(home):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@contextlib.contextmanager
def leave_usual_ports() -> Iterator[None]:
    """Services that are started here take any free ports: other tests may be about to take the usual ones."""
    usual = EmbeddedTriton.start.__kwdefaults__
    with (
        patch.dict(usual, dict.fromkeys(("grpc_port", "http_port", "metrics_port"))),
        patch.multiple(services, MLFLOW_PORT=None, PREFECT_PORT=None),
    ):
        yield


class ServedHome:
    """A checkout and a home, in which a champion serves clients.

    Attributes:
        root: The checkout.
        home: The home.
        clients: Those of the champion.
    """

    def __init__(self, root: Path, home: Path, clients: Clients):
        self.root, self.home, self.clients = root, home, clients
        self._failed, self._pid = 0, EmbeddedTriton(home).status().pid

    def wrong(self, *, answer: np.ndarray | None = None) -> Iterator[str]:
        """What does not hold after an attack, as sentences.

        Args:
            answer: What the product restores the image to now; that which the clients know when None.
        """
        champion = Ledger(self.home).current("denoise")
        answers = [answer] if answer is not None else list(self.clients.answers.values())
        self.clients.wait_for(1)
        failed, self._failed = self.clients.errors[self._failed :], len(self.clients.errors)
        yield from (f"a client's request failed: {error}" for error in failed[:1])
        yield from ("a client got an image of neither release" for seen in self.clients.seen if seen == "a mixture")
        self.clients.seen.clear()
        status = EmbeddedTriton(self.home).status()
        if status.pid != self._pid:
            yield f"the server is another process: {status.state}"
        if status.server and not any(np.array_equal(restored(status.server), each) for each in answers):
            yield "the product does not restore as its champion"
        if champion is None:
            yield "the champion is lost"
        yield from read_status(self.root, self.home).problems
        if (self.home / "triton" / "trial").exists():
            yield "the trial server's folder is left"
        yield from (f"a process is left: {' '.join(each.cmdline())[:200]}" for each in strays(self.home))


def restored(server: TritonServer, image: np.ndarray = IMAGE) -> np.ndarray:
    """The image as an ordinary client of the product gets it."""
    with TritonRestorer(server.grpc, "denoise") as restorer:
        return restorer.restore(image).image


@contextlib.contextmanager
def served_home(folder: Path, *, clients: int = 2) -> Iterator[ServedHome]:
    """A home with a released champion that serves so many clients, who pause so that the machine has time for more."""
    with own_home(folder) as (root, home):
        make_checkout(root)
        put_package(root, blur=BLURS[0])
        server = EmbeddedTriton(home).start()
        release_package(root, home, lineage=LINEAGE)
        with Clients([server.grpc] * clients, IMAGE, {"champion": expected(root, IMAGE)}, pause=0.1) as load:
            yield ServedHome(root, home, load)


def processes_of(home: Path) -> list[psutil.Process]:
    """The living processes that were started for a home, but this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            named = (environment.get("RELUME_HOME"), environment.get("RELUME_RECORD"))
            mine = any(str(home) in (name or "") for name in named) and process.pid != os.getpid()
            # The tracker of this process's shared memory ends with it.
            tracker = "resource_tracker" in " ".join(process.cmdline())
            if mine and not tracker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def strays(home: Path) -> list[psutil.Process]:
    """Processes of a home that belong to none of the services that its records name."""
    names = ("mlflow", "prefect", "worker", "supervisor")
    records = [running_process(services_folder(home), name) for name in names]
    records.append(running_process(home / "triton", "triton"))
    leaders = {record.pid for record in records if record}
    found = []
    for process in processes_of(home):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) not in leaders:
                found.append(process)
    return found
