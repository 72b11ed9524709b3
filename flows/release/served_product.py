"""Makes what is served, and what the registry's aliases say, agree with the ledger."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from flows.embedded_triton import EmbeddedTriton, end_trial, folder_of
from flows.home_schema import open_home
from flows.release.aliases import ALIASES, by_ledger, in_registry
from flows.release.anchor import anchor_in_release, anchor_ledger
from flows.release.ledger import Ledger, Release
from flows.release.package import Package, open_package
from flows.release.registry import Registry
from flows.turns import RELEASE, Turn, in_progress
from relume.errors import BrokenFileError, ConfigError, LedgerError, ReleaseError, RelumeError, ServerUnreachableError
from relume.home import tracking_uri
from relume.serving import repository as models
from relume.serving.route import Route
from relume.serving.signing import SIGNATURE, keys_of, require_signed, sign_release
from relume.serving.tensorrt_engine import engine_folder
from relume.serving.triton_control import TritonControl

_log = logging.getLogger(__name__)
_PACKAGES = "packages"  # in the home


class ReleaseInProgressError(ReleaseError):
    """Another release or rollback is in progress in this RELUME_HOME."""


@contextlib.contextmanager
def release_lock(home: Path) -> Iterator[Turn]:
    """Holds the lock on what is served; a second release, rollback or repair is refused at once.

    Meanwhile `relume status` shows that a release is in progress. What a killed one left of its trial is ended.

    Raises:
        ReleaseInProgressError: Another one is in progress.
    """
    open_home(home)
    path = home / "release.lock"
    try:
        with FileLock(path, timeout=0), in_progress(home, RELEASE) as this:
            end_trial(home)
            yield this
    except Timeout:
        raise ReleaseInProgressError(
            "Another release or rollback is in progress", where=path, next_step="wait until it ends, then try again"
        ) from None


@contextlib.contextmanager
def reach_server(server: str | None, home: Path) -> Iterator[tuple[str, TritonControl]]:
    """Gives the address and the control of the server to release to.

    Args:
        server: gRPC address of a running server that reads the model repository in RELUME_HOME, or None for the
            embedded one, which is started when it is not running.
        home: RELUME_HOME.

    Raises:
        ConfigError: The address is not one of gRPC, or that of another home's server.
        ServerUnreachableError: The given server does not answer.
        ServiceError: The embedded server does not start.
    """
    triton = EmbeddedTriton(home)
    address = server or triton.start().grpc
    if address.startswith("http"):
        raise ConfigError(
            "The address is not one of gRPC",
            where=address,
            why="models are loaded over gRPC, because a load over HTTP stalls the server's other clients",
            next_step="give the address as grpc://HOST:PORT",
        )
    own = triton.at(address)
    with TritonControl(address, key=own.key if own else None) as control:
        name = control.server()
        if name is None:
            raise ServerUnreachableError(
                "The Triton server does not answer; nothing was changed",
                where=address,
                next_step="start it, or leave out --server to use the embedded server",
            )
        if own is None and name.startswith("file:"):
            raise ConfigError(
                "The Triton server belongs to another home; nothing was changed",
                where=address,
                why=f"it serves the releases of {folder_of(name)}",
                next_step="leave the address out to use this home's server, or set RELUME_HOME to that folder",
            )
        yield address, control


class ServedProduct:
    """One product on a Triton server, and the ledger that says which of its releases should serve.

    Args:
        name: Name that clients use.
        home: RELUME_HOME, with the ledger and the server's model repository.
        address: gRPC address of the server.
        control: Control of the server.
        registry: The registry; that of `tracking_uri(home)` when None, which is opened when it is first needed.
    """

    def __init__(self, name: str, home: Path, address: str, control: TritonControl, registry: Registry | None = None):
        self.name, self.home, self.address, self.control = name, home, address, control
        self.ledger = Ledger(home)
        self.repository = EmbeddedTriton(home).repository
        self._registry = registry

    @property
    def registry(self) -> Registry:
        """The registry of its packages."""
        if self._registry is None:
            self._registry = Registry(self.home)
        return self._registry

    @property
    def current(self) -> Release | None:
        """The release that should serve, None before the first promotion."""
        return self.ledger.current(self.name)

    @property
    def previous(self) -> Release | None:
        """The release that a rollback goes back to, or None."""
        return self.ledger.previous(self.name)

    def package_of(self, release: Release) -> Package:
        """The package of a release, wherever it is kept."""
        return stored_package(release, self.home, self._registry)

    def serve(self, release: Release) -> None:
        """Loads a release and points the product to it; nothing changes when it serves already."""
        if not (self.repository / release.model / SIGNATURE).is_file():  # it is not there, or older than signatures
            self.publish(self.package_of(release), release)
        if self.control.models().get(release.model) != "READY":
            self.load(release.model)
        elif not self.control.answers(release.model):  # its process died, which Triton does not notice
            self.require_signed(release.model)
            self.control.reload_release(self.repository, release.model)
        self.point(Route(champion=release.model))

    def publish(self, package: Package, release: Release) -> None:
        """Writes a release into the model repository and signs it; one that is there must be what would be written.

        Raises:
            ReleaseError: It is not.
        """
        publish_signed(package, self.repository, release.model, package.backend_of(release.model), self.home)

    def require_signed(self, model: str) -> None:
        """Refuses a release that no trusted key has signed; asked before everything that makes the server load it.

        Raises:
            SignatureError: It is not signed, or not what was signed.
        """
        require_signed(self.repository / model, keys_of(self.home))

    def point(self, route: Route) -> None:
        """Points the product to releases that are loaded; nothing changes when it points to them already."""
        in_repository = models.products(self.repository).get(self.name)
        if not self.control.product_route(self.name) == in_repository == route:
            for model in filter(None, (route.champion, route.candidate)):
                self.require_signed(model)  # with a product the server loads anew what changed of its releases
            self.control.switch_product(self.repository, self.name, route)

    def load(self, model: str) -> None:
        """Loads a release of the repository; the process of one whose load does not end is ended.

        Raises:
            ReleaseError: The server cannot serve it, or it is not signed as it must be.
        """
        self.require_signed(model)
        try:
            self.control.load_release(model)
        except ReleaseError:
            if self.control.models().get(model) == "LOADING":
                EmbeddedTriton(self.home).end_model(model)
            raise

    def serve_current(self) -> None:
        """Serves what the ledger says, nothing before the first promotion."""
        if current := self.current:
            self.serve(current)
        else:
            self.withdraw()

    def withdraw(self) -> None:
        """Stops serving the product, as before its first release."""
        if self.control.models().get(self.name) == "READY":
            self.control.unload(self.name)
        models.remove_product(self.repository, self.name)

    def reconcile(self) -> list[str]:
        """Undoes an interrupted promotion, or finishes an interrupted rollback, and serves what the ledger says.

        Returns:
            What was repaired, as sentences for the user; empty when nothing had to be.
        """
        repaired = []
        for entry in self.ledger.unfinished():
            if entry.release.product != self.name:
                continue
            if entry.event == "rolling_back":
                self.serve(entry.release)
                self.ledger.append("rolled_back", entry.release, repaired=True)
                repaired.append(f"the rollback to {entry.release.model}, begun {entry.time}, was finished")
            else:
                self.serve_current()
                self.ledger.append("abandoned", entry.release, reason="it was interrupted", repaired=True)
                repaired.append(f"the promotion of {entry.release.model}, begun {entry.time}, was undone")
        self.serve_current()
        self.control.sweep_regions()
        self.retire()
        return [*repaired, *reconcile_aliases(self.name, self.home, self._registry)]

    def retire(self) -> list[str]:
        """Unloads and removes the releases that are neither current nor previous; the registry keeps them.

        Returns:
            Their names.
        """
        kept = {release.model for release in (self.current, self.previous) if release}
        loaded = self.control.models()
        retired = []
        for model in models.releases(self.repository):
            if model.startswith(f"{self.name}-") and model not in kept:
                if loaded.get(model) == "READY":
                    self._unload(model)
                models.remove_release(self.repository, model)
                retired.append(model)
        needed = {_package_folder(self.home, release) for release in self.ledger.can_serve()}
        for folder in (self.home / _PACKAGES).glob("[!.]*"):  # one that is being fetched begins with a dot
            if folder not in needed:
                shutil.rmtree(folder)
        return retired

    def _unload(self, model: str) -> None:
        """Unloads a release: what is in flight and in its queue is answered first.

        One whose process died is started again before that, because Triton would wait for the dead one for ever.
        """
        if not self.control.answers(model):
            with contextlib.suppress(RelumeError):
                self.require_signed(model)
                self.control.reload_release(self.repository, model)
        self.control.unload(model)

    def move_aliases(self) -> None:
        """Points the aliases to what the ledger says; where that fails, a warning says that the next release does."""
        _move_aliases(self.ledger, self.name, self.registry)


def reconcile_aliases(product: str, home: Path, registry: Registry | None = None) -> list[str]:
    """Points the aliases to what the ledger says, if they are elsewhere, as a crash leaves them.

    A registry that cannot be read or changed now holds nothing up: a warning is logged, and the next command does it.

    Returns:
        What was repaired, as sentences for the user; empty when nothing had to be.
    """
    ledger, uri = Ledger(home), registry.uri if registry else tracking_uri(home)
    found, wanted = in_registry(uri, product), by_ledger(ledger, product)
    if found is None or {alias: found.get(alias) for alias in ALIASES} == {a: wanted.get(a) for a in ALIASES}:
        return []
    try:
        moved = _move_aliases(ledger, product, registry or Registry(home))
    except RelumeError as error:  # the registry cannot be opened
        moved = _not_moved(error)
    return [f"the aliases of {product} in MLflow point to what the ledger says again"] if moved else []


def _move_aliases(ledger: Ledger, product: str, registry: Registry) -> bool:
    """Whether the registry took what the ledger says."""
    wanted = by_ledger(ledger, product)
    try:
        registry.set_aliases(product, **{alias: wanted.get(alias) for alias in ALIASES})
        if wanted:
            anchor_ledger(ledger, registry, product)
    except LedgerError as error:
        _log.warning("%s", error)
    except RelumeError as error:
        return _not_moved(error)
    return True


def _not_moved(error: RelumeError) -> bool:
    _log.warning("The aliases in MLflow were not set; the next release sets them: %s", error)
    return False


def serve_champions(home: Path) -> list[Release]:
    """Starts the embedded server and serves by it what the ledger says, repairing what a crash left.

    While a release or rollback is in progress in another process, the server is started and nothing else is done.

    Args:
        home: RELUME_HOME.

    Returns:
        The releases that serve; empty before the first release.

    Raises:
        ServiceError: The server does not start.
        ReleaseError: A champion cannot be served.
    """
    ledger = Ledger(home)
    products = ledger.products()
    with reach_server(None, home) as (address, control):
        try:
            with release_lock(home):
                for product in products:
                    ServedProduct(product, home, address, control).reconcile()
        except ReleaseInProgressError:
            pass
    return [release for product in products if (release := ledger.current(product))]


def publish_signed(package: Package, repository: Path, model: str, backend: str, home: Path) -> None:
    """Writes a package into a model repository as a release, and signs that with the home's key.

    Args:
        package: The package, opened and checked.
        repository: The model repository.
        model: The release's name.
        backend: What computes it there.
        home: RELUME_HOME.

    Raises:
        ReleaseError: As `relume.serving.repository.publish_release`, or it is signed, but not as it must be.
    """
    serving = package.folder / "serving"
    engine = engine_folder(serving, home)
    folder = models.publish_release(serving, repository, model, backend=backend, engine=engine)
    if not (folder / SIGNATURE).is_file():
        anchor_in_release(Ledger(home), folder)  # the signature covers it
    sign_release(folder, keys_of(home))


def stored_package(release: Release, home: Path, registry: Registry | None = None) -> Package:
    """The package of a release, from RELUME_HOME/packages or, if it is not there or damaged, from the registry."""
    folder = _package_folder(home, release)
    if (folder / "package.json").is_file():
        try:
            return open_package(folder, release=release.package)
        except (ReleaseError, BrokenFileError) as error:
            _log.warning("%s; the registry is asked for it", error.what)
    registry = registry or Registry(home)
    version = registry.find(release.product, release.package)
    if version is None:
        raise ReleaseError(
            "The registry does not have the package of a release",
            where=f"{release.model}, {release.product} version {release.version}",
            why="it was deleted, or MLFLOW_TRACKING_URI points to another registry than when it was released",
            next_step="run `relume release` to release the package of this checkout",
        )
    return registry.fetch(version, folder)


def _package_folder(home: Path, release: Release) -> Path:
    """Where a package that was fetched from the registry is kept while it can still serve."""
    return home / _PACKAGES / release.package[:16]
