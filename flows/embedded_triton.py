"""The embedded Triton server: NVIDIA's own server on loopback, in an environment of its own below RELUME_HOME.

It runs in a session of its own and outlives the command that started it. In RELUME_HOME/triton,
server.json has its addresses, triton.json its process and triton.log its output.
"""

import dataclasses
import hashlib
import logging
import os
import threading
import time
from pathlib import Path

from filelock import FileLock

from flows.processes import free_port, running_process, start_process, stop_process
from relume.errors import RelumeError, ServerRefusedError, ServerUnreachableError, ServiceError
from relume.files import read_json, write_json
from relume.serving import repository as models
from relume.serving.shared_tiles import remove_orphans
from relume.serving.triton_control import TritonControl

_log = logging.getLogger(__name__)
_NAME = "triton"
_EXIT_SECONDS = 10
INSTALL = "sh infra/triton/install.sh"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonServer:
    """Where an embedded server listens and what it loads from.

    Attributes:
        grpc_port: Port of 127.0.0.1 for gRPC.
        http_port: Port for HTTP.
        metrics_port: Port for Prometheus metrics.
        repository: Its model repository.
    """

    grpc_port: int
    http_port: int
    metrics_port: int
    repository: str

    @property
    def grpc(self) -> str:
        """Address for TritonRestorer and TritonControl."""
        return f"grpc://127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        """Address for HTTP clients."""
        return f"http://127.0.0.1:{self.http_port}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProductState:
    """How the server serves a product of the repository.

    Attributes:
        release: The release that the repository says.
        served: The release that the server uses, None when it does not serve the product.
        answers: Whether a tile was restored just now.
    """

    release: str
    served: str | None
    answers: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonStatus:
    """What the embedded server is doing.

    Attributes:
        state: `not installed`, `stopped`, `dead` (it ended without `stop`), `silent` (it runs but does not answer)
            or `ready`.
        server: Its addresses while it runs.
        pid: Its process while it runs.
        products: Its products by name; empty unless it is ready.
        log: File with its output.
    """

    state: str
    server: TritonServer | None
    pid: int | None
    products: dict[str, ProductState]
    log: str


class EmbeddedTriton:
    """The embedded server of one home.

    Args:
        home: RELUME_HOME.
    """

    def __init__(self, home: Path):
        self.folder = home / "triton"
        self.log = self.folder / f"{_NAME}.log"

    @property
    def repository(self) -> Path:
        """Its model repository, unless it is started with another."""
        return self.folder / "models"

    @property
    def installed(self) -> bool:
        """Whether the server's environment is there."""
        return (self.folder / "env" / "stamp").is_file()

    def start(
        self,
        repository: str | Path | None = None,
        *,
        grpc_port: int = 8001,
        http_port: int = 8000,
        metrics_port: int = 8002,
        timeout: float = 60.0,
    ) -> TritonServer:
        """Starts the server in the background and loads the products of its repository.

        A product that cannot be loaded is logged and shown by `status`; it does not stop the server, because the next
        release repairs it. A server that runs already is left alone.

        Args:
            repository: The model repository, by default `self.repository`; it may be empty.
            grpc_port: Port of 127.0.0.1, Triton's usual one by default; any free one when it is taken.
            http_port: As above.
            metrics_port: As above.
            timeout: Seconds for the server to answer.

        Returns:
            Where it listens.

        Raises:
            ServiceError: It is not installed, did not start, or runs with another repository.
        """
        path = Path(repository or self.repository).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if found := self.running():
                if found.repository != str(path):
                    raise ServiceError(
                        "The Triton server runs with another model repository",
                        where=found.repository,
                        next_step="stop it with `relume down`, then try again",
                    )
                return found
            if not self.installed:
                raise ServiceError(
                    "The embedded Triton server is not installed", where=self.folder / "env", next_step=INSTALL
                )
            self._clean_up()
            path.mkdir(parents=True, exist_ok=True)
            server = TritonServer(
                grpc_port=free_port(grpc_port),
                http_port=free_port(http_port),
                metrics_port=free_port(metrics_port),
                repository=str(path),
            )
            write_json(self._record, dataclasses.asdict(server))
            with TritonControl(server.grpc) as control:
                start_process(
                    _NAME,
                    self._command(server),
                    folder=self.folder,
                    ready=control.live,
                    timeout=timeout,
                    address=server.grpc,
                    env=self._environment(),
                    cwd=self.folder,
                )
                for product in models.products(path):
                    try:
                        control.load_product(path, product)
                    except RelumeError as error:
                        _log.warning("The product %s cannot be served: %s", product, error.why or error)
        return server

    def stop(self) -> bool:
        """Stops the server: requests in flight are answered for some seconds, then it ends with everything it started.

        Returns:
            Whether it ran.
        """
        if not self.folder.is_dir():
            return False
        with self._lock():
            ran = self.running() is not None
            self._clean_up()
        return ran

    def running(self) -> TritonServer | None:
        """Where the server listens, or None when it does not run."""
        if not self._record.is_file() or running_process(self.folder, _NAME) is None:
            return None
        return TritonServer(**read_json(self._record))

    def status(self, *, timeout: float = 5.0) -> TritonStatus:
        """Checks the server, and lets each product restore a tile.

        A model's process can die while Triton still calls the model ready, so only an answer counts.

        Args:
            timeout: Seconds a product may take to answer.
        """
        server, process = self.running(), running_process(self.folder, _NAME)
        found: dict[str, ProductState] = {}
        if server is None or process is None:
            state = "stopped" if self.installed else "not installed"
            if self._record.exists():
                state = "dead"
            return TritonStatus(state=state, server=None, pid=None, products=found, log=str(self.log))
        with TritonControl(server.grpc) as control:
            state = "ready" if control.live() else "silent"
            if state == "ready":
                for product, release in models.products(server.repository).items():
                    served = control.product_release(product)
                    answers = served is not None and control.answers(product, timeout=timeout)
                    found[product] = ProductState(release=release, served=served, answers=answers)
        return TritonStatus(state=state, server=server, pid=process.pid, products=found, log=str(self.log))

    def repair(self) -> list[str]:
        """Loads the products of the repository that do not answer, as after a model's process died.

        Returns:
            Names of the products that answer again.
        """
        now = self.status()
        repaired = []
        if now.server is not None and now.state == "ready":
            with TritonControl(now.server.grpc) as control:
                for name, product in now.products.items():
                    if product.answers:
                        continue
                    try:
                        _load_again(control, now.server.repository, name, product.release)
                    except RelumeError as error:
                        _log.warning("The product %s cannot be served: %s", name, error.why or error)
                    else:
                        repaired.append(name)
        return repaired

    def supervise(self, end: threading.Event, *, repository: str | Path | None = None, interval: float = 5.0) -> None:
        """Keeps the server up until `end` is set, then stops it; the main part of a server in the foreground.

        It ends as well when another command stops the server.

        Args:
            end: Set it to stop, from a signal handler for example.
            repository: The model repository, by default `self.repository`.
            interval: Seconds between two checks.

        Raises:
            ServiceError: The server does not start, or ended three times in a minute.
        """
        starts: list[float] = []
        looked = False
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            while True:
                if self.running() is None:
                    with self._lock():  # a stop that is under way has not removed its record yet
                        stopped = looked and not self._record.exists()
                    if stopped:
                        return
                    starts = [moment for moment in starts if time.monotonic() - moment < 60] + [time.monotonic()]
                    if len(starts) > 3:
                        raise ServiceError(
                            "The Triton server ended three times in a minute", next_step=f"read {self.log}"
                        )
                    self.start(repository)
                elif repaired := self.repair():
                    _log.warning("These products did not answer and were loaded again: %s", ", ".join(repaired))
                looked = True
                if end.wait(interval):
                    return
        finally:
            self.stop()

    @property
    def _record(self) -> Path:
        """The file with the server's addresses; a server that was not stopped leaves it behind."""
        return self.folder / "server.json"

    def _lock(self) -> FileLock:
        """Held by whoever starts or stops the server."""
        return FileLock(self.folder / "server.lock")

    @property
    def _shared_memory_prefix(self) -> str:
        """How the names of this server's shared memory begin, so that what a crash left is not taken for another's."""
        return f"relume-triton-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}-"

    def _clean_up(self) -> None:
        """Ends what is left of a server and removes its shared memory and records."""
        # Models' processes that outlived their server have no request to answer.
        stop_process(self.folder, _NAME, grace=_EXIT_SECONDS + 5 if running_process(self.folder, _NAME) else 0)
        for path in Path("/dev/shm").glob(f"{self._shared_memory_prefix}*"):
            path.unlink(missing_ok=True)
        remove_orphans()
        self._record.unlink(missing_ok=True)

    def _command(self, server: TritonServer) -> list[str]:
        installation = self.folder / "env" / "tritonserver"
        return [
            str(installation / "bin" / "tritonserver"),
            f"--model-repository={server.repository}",
            f"--backend-directory={installation / 'backends'}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            "--strict-readiness=false",  # else the whole server reads unready while one model is loaded
            f"--exit-timeout-secs={_EXIT_SECONDS}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={server.grpc_port}",
            "--http-address=127.0.0.1",
            f"--http-port={server.http_port}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={server.metrics_port}",
            "--allow-gpu-metrics=false",
        ]

    def _environment(self) -> dict[str, str]:
        """This process's environment, with the server's Python first: its stubs find Python by PATH alone."""
        foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        return {name: value for name, value in os.environ.items() if name not in foreign} | {
            "PATH": f"{self.folder / 'env' / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def _load_again(control: TritonControl, repository: str, product: str, release: str) -> None:
    """Loads a product; if that fails, reloads its release first."""
    try:
        control.load_product(repository, product)
    except (ServerRefusedError, ServerUnreachableError):
        control.reload_release(repository, release)
        control.load_product(repository, product)
