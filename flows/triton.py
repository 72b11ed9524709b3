"""The embedded Triton server: NVIDIA's own server on loopback, in an environment of its own below RELUME_HOME.

It runs in a session of its own and outlives the command that started it. What it is and where it listens stands in
RELUME_HOME/triton/server.json, its process in triton.json, its output in triton.log.
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
from relume.home import relume_home
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
class ProductStatus:
    """How a product of the repository is served.

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
    products: dict[str, ProductStatus]
    log: str


def folder() -> Path:
    """Where everything of the embedded server lies."""
    return relume_home() / "triton"


def default_repository() -> Path:
    """The model repository of the embedded server."""
    return folder() / "models"


def installed() -> bool:
    """Whether the server's environment is there."""
    return (folder() / "env" / "stamp").is_file()


def start(
    repository: str | Path | None = None,
    *,
    grpc_port: int = 8001,
    http_port: int = 8000,
    metrics_port: int = 8002,
    timeout: float = 60.0,
) -> TritonServer:
    """Starts the server in the background and loads the products of its repository.

    A product that cannot be loaded is logged and shown by `status`; it does not stop the server, because the next
    release mends it. A server that runs already is left alone.

    Args:
        repository: The model repository, by default RELUME_HOME/triton/models; it may be empty.
        grpc_port: Port of 127.0.0.1, Triton's usual one by default; any free one when it is taken.
        http_port: As above.
        metrics_port: As above.
        timeout: Seconds for the server to answer.

    Returns:
        Where it listens.

    Raises:
        ServiceError: It is not installed, did not start, or runs with another repository.
    """
    path = Path(repository or default_repository()).resolve()
    folder().mkdir(parents=True, exist_ok=True)
    with FileLock(folder() / "server.lock"):
        if found := running():
            if found.repository != str(path):
                raise ServiceError(
                    "The Triton server runs with another model repository",
                    where=found.repository,
                    next_step="relume down",
                )
            return found
        if not installed():
            raise ServiceError("The embedded Triton server is not installed", where=folder() / "env", next_step=INSTALL)
        _clean_up()
        path.mkdir(parents=True, exist_ok=True)
        server = TritonServer(
            grpc_port=free_port(grpc_port),
            http_port=free_port(http_port),
            metrics_port=free_port(metrics_port),
            repository=str(path),
        )
        write_json(folder() / "server.json", dataclasses.asdict(server))
        with TritonControl(server.grpc) as control:
            start_process(
                _NAME,
                _command(server),
                folder=folder(),
                ready=control.live,
                timeout=timeout,
                address=server.grpc,
                env=_environment(),
                cwd=folder(),
            )
            for product in models.products(path):
                try:
                    control.load_product(path, product)
                except RelumeError as error:
                    _log.warning("%s cannot be served: %s", product, error.why or error)
    return server


def stop() -> bool:
    """Stops the server: requests in flight are answered for some seconds, then it ends with everything it started.

    Returns:
        Whether it ran.
    """
    if not folder().is_dir():
        return False
    with FileLock(folder() / "server.lock"):
        ran = running() is not None
        _clean_up()
    return ran


def status(*, timeout: float = 5.0) -> TritonStatus:
    """Looks at the server, and asks each product to restore a tile.

    A model's process can die while Triton still calls the model ready, so only an answer counts.

    Args:
        timeout: Seconds a product may take to answer.
    """
    server, process = running(), running_process(folder(), _NAME)
    found: dict[str, ProductStatus] = {}
    if server is None or process is None:
        state = "not installed" if not installed() else "stopped"
        if (folder() / "server.json").exists():
            state = "dead"
        return TritonStatus(state=state, server=None, pid=None, products=found, log=_log_file())
    with TritonControl(server.grpc) as control:
        state = "ready" if control.live() else "silent"
        if state == "ready":
            for product, release in models.products(server.repository).items():
                served = control.product_release(product)
                answers = served is not None and control.answers(product, timeout=timeout)
                found[product] = ProductStatus(release=release, served=served, answers=answers)
    return TritonStatus(state=state, server=server, pid=process.pid, products=found, log=_log_file())


def mend() -> list[str]:
    """Loads what the repository promises and the server does not give, as after a model's process died.

    Returns:
        Names of the products that answer again.
    """
    now = status()
    mended = []
    if now.server is not None and now.state == "ready":
        with TritonControl(now.server.grpc) as control:
            for name, product in now.products.items():
                if product.answers:
                    continue
                try:
                    _mend_product(control, now.server.repository, name, product.release)
                except RelumeError as error:
                    _log.warning("%s cannot be served: %s", name, error.why or error)
                else:
                    mended.append(name)
    return mended


def _mend_product(control: TritonControl, repository: str, product: str, release: str) -> None:
    """Loads a product; only if that does not help, starts its release anew."""
    try:
        control.load_product(repository, product)
    except (ServerRefusedError, ServerUnreachableError):
        control.reload_release(repository, release)
        control.load_product(repository, product)


def supervise(end: threading.Event, *, repository: str | Path | None = None, interval: float = 5.0) -> None:
    """Keeps the server up until `end` is set, then stops it; the main part of a server in the foreground.

    It ends as well when another command stops the server.

    Args:
        end: Set it to stop, from a signal handler for example.
        repository: The model repository, by default RELUME_HOME/triton/models.
        interval: Seconds between two looks.

    Raises:
        ServiceError: The server does not start, or ended three times in a minute.
    """
    starts: list[float] = []
    looked = False
    folder().mkdir(parents=True, exist_ok=True)
    try:
        while True:
            if running() is None:
                with FileLock(folder() / "server.lock"):  # a stop that is under way has not removed its record yet
                    stopped = looked and not (folder() / "server.json").exists()
                if stopped:
                    return
                starts = [moment for moment in starts if time.monotonic() - moment < 60] + [time.monotonic()]
                if len(starts) > 3:
                    raise ServiceError("The Triton server ends again and again", next_step=f"read {_log_file()}")
                start(repository)
            elif mended := mend():
                _log.warning("%s did not answer and was loaded again", ", ".join(mended))
            looked = True
            if end.wait(interval):
                return
    finally:
        stop()


def running() -> TritonServer | None:
    """Where the embedded server listens, or None when it does not run."""
    record = folder() / "server.json"
    if not record.is_file() or running_process(folder(), _NAME) is None:
        return None
    return TritonServer(**read_json(record))


def _log_file() -> str:
    return str(folder() / f"{_NAME}.log")


def _shared_memory_prefix() -> str:
    """Begins the names of this server's shared memory, so that what an unclean end left can be told from others'."""
    return f"relume-triton-{hashlib.sha256(str(folder()).encode()).hexdigest()[:8]}-"


def _clean_up() -> None:
    """Ends what is left of a server and removes its shared memory and records."""
    # Models' processes that outlived their server have nothing to finish.
    stop_process(folder(), _NAME, grace=_EXIT_SECONDS + 5 if running_process(folder(), _NAME) else 0)
    for path in Path("/dev/shm").glob(f"{_shared_memory_prefix()}*"):
        path.unlink(missing_ok=True)
    remove_orphans()
    (folder() / "server.json").unlink(missing_ok=True)


def _command(server: TritonServer) -> list[str]:
    installation = folder() / "env" / "tritonserver"
    return [
        str(installation / "bin" / "tritonserver"),
        f"--model-repository={server.repository}",
        f"--backend-directory={installation / 'backends'}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--strict-readiness=false",  # else the whole server reads unready while one model is loaded
        f"--exit-timeout-secs={_EXIT_SECONDS}",
        f"--backend-config=python,shm-region-prefix-name={_shared_memory_prefix()}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={server.grpc_port}",
        "--http-address=127.0.0.1",
        f"--http-port={server.http_port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={server.metrics_port}",
        "--allow-gpu-metrics=false",
    ]


def _environment() -> dict[str, str]:
    """This process's environment, with the server's Python first: its stubs find Python by PATH alone."""
    foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in foreign} | {
        "PATH": f"{folder() / 'env' / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
