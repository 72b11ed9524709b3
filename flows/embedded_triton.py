"""The embedded Triton server: NVIDIA's own server on loopback, in an environment of its own below RELUME_HOME.

It runs in a session of its own and outlives the command that started it. In RELUME_HOME/triton, server.json has its
addresses and the key of its control, and no other user may read it; triton.json has its process, triton.log its output.

Its control (loading and unloading models, shared memory, traces, logging) is for those who show the key, and so is
restoring over HTTP; restoring over gRPC is for all who reach it. It is named by the address of its home's folder, so
that no home takes another's for its own.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
from filelock import FileLock

from flows.home_schema import open_home
from flows.processes import on_free_ports, remove_record, running_process, start_process, still_answers, stop_process
from relume.errors import BrokenFileError, RelumeError, ServerRefusedError, ServerUnreachableError, ServiceError
from relume.files import atomic_file
from relume.network import keep_to_this_machine
from relume.reading import read_as
from relume.serving import repository as models
from relume.serving.shared_tiles import is_this_host, remove_orphans
from relume.serving.signing import keys_of, require_signed
from relume.serving.triton_control import TritonControl
from relume.serving.triton_transport import KEY_HEADER

_log = logging.getLogger(__name__)
_NAME = "triton"
_EXIT_SECONDS = 10
INSTALL = "sh infra/triton/install.sh"
# All that changes something, and what tells whose shared memory there is. Clients need the others to restore.
_RESTRICTED = "model-repository,shared-memory,trace,logging"
# This release of Triton ends by a segmentation fault at deeply nested JSON and at a body of many chunks, which any web
# page can send to loopback. Where the key is missing it reads no body.
_RESTRICTED_OVER_HTTP = f"{_RESTRICTED},inference"
# It copies the whole body of a form to the stack of a thread, whoever sends it, and ends where that is too small: each
# gets 1 GiB, which is address space only, except where the kernel counts that as used memory.
_LARGE_STACKS = 'if [ "$(cat /proc/sys/vm/overcommit_memory)" != 2 ]; then ulimit -S -s 1048576; fi; exec "$@"'
# What the server and the models' Python are given of this process's environment; above all no credentials.
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TMPDIR", "TZ")


def triton_elsewhere() -> str | None:
    """The gRPC address of another Triton that reads the home's releases, for entry points to read.

    Returns:
        RELUME_SERVER; None for the embedded server.
    """
    return os.environ.get("RELUME_SERVER") or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TritonServer:
    """Where an embedded server listens and what it loads from.

    Attributes:
        grpc_port: Port of 127.0.0.1 for gRPC.
        http_port: Port for HTTP.
        metrics_port: Port for Prometheus metrics.
        repository: Its model repository.
        key: Of its control.
    """

    grpc_port: int
    http_port: int
    metrics_port: int
    repository: str
    key: str | None = dataclasses.field(default=None, repr=False)

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
        trial: The home's second server, for models that never ran; see `trial_server`.
    """

    def __init__(self, home: Path, *, trial: bool = False):
        self._home = home
        self._installation = home / "triton" / "env"
        self.folder = home / "triton" / "trial" if trial else home / "triton"
        self.log = self.folder / f"{_NAME}.log"
        self._grace = 0 if trial else _EXIT_SECONDS + 5
        self.name = home.resolve().as_uri() + ("#trial" if trial else "")
        """The name that its server is started with, and that it reports to clients."""

    @property
    def repository(self) -> Path:
        """Its model repository, unless it is started with another."""
        return self.folder / "models"

    @property
    def installed(self) -> bool:
        """Whether the server's environment is there."""
        return (self._installation / "stamp").is_file()

    def start(
        self,
        repository: str | Path | None = None,
        *,
        grpc_port: int | None = 8001,
        http_port: int | None = 8000,
        metrics_port: int | None = 8002,
        timeout: float = 60.0,
    ) -> TritonServer:
        """Starts the server in the background and loads the products of its repository.

        A product that cannot be loaded is logged and shown by `status`; it does not stop the server, because the next
        release repairs it. A server that runs already is left alone, unless it does not answer any more: then it is
        ended and started anew.

        Args:
            repository: The model repository, by default `self.repository`; it may be empty.
            grpc_port: Port of 127.0.0.1, Triton's usual one by default; any free one when it is taken. One that
                replaces a server that was not stopped takes that one's ports, which clients know.
            http_port: As above.
            metrics_port: As above.
            timeout: Seconds for the server to answer.

        Returns:
            Where it listens.

        Raises:
            ServiceError: It is not installed, did not start, or runs with another repository.
        """
        path = Path(repository or self.repository).resolve()
        open_home(self._home)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            if found := self.running():
                if found.repository != str(path):
                    raise ServiceError(
                        "The Triton server runs with another model repository",
                        where=found.repository,
                        next_step="stop it with `relume down`, then try again",
                    )
                if still_answers(self.answering, alive=lambda: self.running() is not None):
                    return found
            if not self.installed:
                raise ServiceError(
                    "The embedded Triton server is not installed", where=self._installation, next_step=INSTALL
                )
            ports = self._ports_before() or [grpc_port, http_port, metrics_port]
            self._clean_up()
            path.mkdir(parents=True, exist_ok=True)
            server = on_free_ports(ports, partial(self._launch, path, timeout))
            with TritonControl(server.grpc, key=server.key) as control:
                for product in models.products(path):
                    try:
                        self._require_signed(path, product)
                        control.load_product(path, product)
                    except RelumeError as error:
                        if isinstance(error, ServerUnreachableError):
                            self.end_model(models.products(path)[product].champion)
                        _log.warning("The product %s cannot be served: %s", product, error.why or error)
        return server

    def _launch(
        self, repository: Path, timeout: float, grpc_port: int, http_port: int, metrics_port: int
    ) -> TritonServer:
        """Starts the server's process on these ports, with a key of its own, and waits until it answers."""
        key = secrets.token_hex(32)
        server = TritonServer(
            grpc_port=grpc_port, http_port=http_port, metrics_port=metrics_port, repository=str(repository), key=key
        )
        with atomic_file(self._record, mode=0o600) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(server), indent=2), encoding="utf-8")
        with TritonControl(server.grpc, key=key) as control:
            start_process(
                _NAME,
                self._command(server),
                folder=self.folder,
                ready=lambda: control.server() == self.name,
                timeout=timeout,
                address=server.grpc,
                env=self._environment(),
                cwd=self.folder,
                secret=key,
            )
        return server

    def stop(self) -> bool:
        """Stops the server: requests in flight are answered for some seconds, then it ends with everything it started.

        Returns:
            Whether it ran.
        """
        if not self.folder.is_dir():
            return False
        with self._lock():
            return self._clean_up()

    def running(self) -> TritonServer | None:
        """Where the server listens, or None when it does not run."""
        if not os.path.lexists(self._record) or running_process(self.folder, _NAME) is None:
            return None
        return read_as(TritonServer, self._record, next_step="run `relume down`, then start the server again")

    def answering(self) -> bool:
        """Whether the server, if it runs, answers and is this home's."""
        if (server := self.running()) is None:
            return True
        with TritonControl(server.grpc, key=server.key) as control:
            return control.server() == self.name

    def at(self, address: str) -> TritonServer | None:
        """This home's server if it is the one at an address, else None.

        Args:
            address: `HOST:PORT`, with or without `grpc://` or `http://`.
        """
        host, _, port = address.rpartition("//")[2].rpartition(":")
        server = self.running()
        if server is None or not is_this_host(host.strip("[]")):
            return None
        return server if port in (str(server.grpc_port), str(server.http_port)) else None

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
        with TritonControl(server.grpc, key=server.key) as control:
            state = "ready" if control.server() == self.name else "silent"
            try:
                for product, route in models.products(server.repository).items() if state == "ready" else ():
                    served = control.product_release(product)
                    answers = served is not None and control.answers(product, timeout=timeout)
                    found[product] = ProductState(release=route.champion, served=served, answers=answers)
            except ServerUnreachableError:  # it hangs, or ended, since
                state, found = "silent", {}
        return TritonStatus(state=state, server=server, pid=process.pid, products=found, log=str(self.log))

    def repair(self) -> list[str]:
        """Loads the products of the repository that do not answer, as after a model's process died.

        The server forgets the shared memory of clients that are gone as well.

        Returns:
            Names of the products that answer again.
        """
        now = self.status()
        repaired = []
        if now.server is not None and now.state == "ready":
            with TritonControl(now.server.grpc, key=now.server.key) as control:
                control.sweep_regions()
                for name, product in now.products.items():
                    if product.answers:
                        continue
                    try:
                        self._require_signed(Path(now.server.repository), name)
                        _load_again(control, now.server.repository, name, product.release)
                    except RelumeError as error:
                        if isinstance(error, ServerUnreachableError):
                            self.end_model(product.release)
                        _log.warning("The product %s cannot be served: %s", name, error.why or error)
                    else:
                        repaired.append(name)
        return repaired

    def end_model(self, release: str) -> None:
        """Ends the processes of a model whose load hangs; the server then gives the load up and serves the others."""
        if process := running_process(self.folder, _NAME):
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if f"/{release}/1/model.py" in " ".join(child.cmdline()):
                        child.kill()

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
                else:
                    with contextlib.suppress(ServerUnreachableError):  # it ends just now
                        if repaired := self.repair():
                            _log.warning("These products did not answer and were loaded again: %s", ", ".join(repaired))
                looked = True
                if end.wait(interval):
                    return
        finally:
            self.stop()

    def _require_signed(self, repository: Path, product: str) -> None:
        """Refuses a product whose champion no trusted key has signed."""
        require_signed(repository / models.products(repository)[product].champion, keys_of(self._home))

    @property
    def _record(self) -> Path:
        """The file with the server's addresses; a server that was not stopped leaves it behind."""
        return self.folder / "server.json"

    def _lock(self) -> FileLock:
        """Held while the server is started or stopped."""
        return FileLock(self.folder / "server.lock")

    @property
    def _shared_memory_prefix(self) -> str:
        """How the names of this server's shared memory begin, so that what a crash left is not taken for another's."""
        return f"relume-triton-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:8]}-"

    def _ports_before(self) -> list[int | None]:
        """The ports of a server that was not stopped; none when there was no such server."""
        with contextlib.suppress(BrokenFileError):
            before = read_as(TritonServer, self._record, next_step="none: another one is written")
            return [before.grpc_port, before.http_port, before.metrics_port]
        return []

    def _clean_up(self) -> bool:
        """Ends what is left of a server and removes its shared memory and records; says whether it ran."""
        try:
            ran = running_process(self.folder, _NAME) is not None
        except BrokenFileError:  # it may run
            ran = True
        # Models' processes that outlived their server have no request to answer.
        found = stop_process(self.folder, _NAME, grace=self._grace if ran else 0)
        for path in Path("/dev/shm").glob(f"{self._shared_memory_prefix}*"):
            path.unlink(missing_ok=True)
        remove_orphans()
        remove_record(self._record)
        return ran and found

    def _command(self, server: TritonServer) -> list[str]:
        installation = self._installation / "tritonserver"
        return [
            *("/bin/sh", "-c", _LARGE_STACKS, "sh"),
            str(installation / "bin" / "tritonserver"),
            # Relative to its working folder: it starts models by a shell and does not quote their paths.
            f"--model-repository={os.path.relpath(server.repository, self.folder.resolve())}",
            f"--backend-directory={os.path.relpath(installation / 'backends', self.folder)}",
            f"--id={self.name}",
            f"--http-restricted-api={_RESTRICTED_OVER_HTTP}:{KEY_HEADER}={server.key}",
            f"--grpc-restricted-protocol={_RESTRICTED}:{KEY_HEADER}={server.key}",
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
        """What the server needs, with its Python first on the path: its stubs find Python by PATH alone."""
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment = kept | {"PATH": f"{self._installation / 'bin'}:{os.defpath}"}
        keep_to_this_machine(environment)
        return environment


@contextlib.contextmanager
def trial_server(home: Path) -> Iterator[TritonServer]:
    """Gives a second server, with an empty repository and on any ports, for a model that never ran in one.

    Whatever the model does to it (it may crash or hang it), the server that clients use does not notice. It ends with
    the `with` statement, without waiting for anything; what a killed command left of it ends before.
    """
    end_trial(home)
    try:
        yield EmbeddedTriton(home, trial=True).start(grpc_port=None, http_port=None, metrics_port=None)
    finally:
        end_trial(home)


def end_trial(home: Path) -> None:
    """Ends the server of a trial and removes its folder; for who holds the lock on releases."""
    trial = EmbeddedTriton(home, trial=True)
    trial.stop()
    shutil.rmtree(trial.folder, ignore_errors=True)


def _load_again(control: TritonControl, repository: str, product: str, release: str) -> None:
    """Loads a product; if that fails, reloads its release first."""
    try:
        control.load_product(repository, product)
    except (ServerRefusedError, ServerUnreachableError):
        control.reload_release(repository, release)
        control.load_product(repository, product)


def folder_of(name: str) -> str:
    """The home of a server by the name that it tells, or the name itself when it is no embedded server's."""
    parts = urlsplit(name)
    return unquote(parts.path) if parts.scheme == "file" else name
