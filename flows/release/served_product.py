"""Makes what is served, and what the registry's aliases say, agree with the ledger."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from flows.release.ledger import Ledger, Release
from flows.release.package import Package, open_package
from flows.release.registry import Registry, Version
from relume.errors import ConfigError, ReleaseError, ServerUnreachableError
from relume.home import relume_home
from relume.serving import repository as models
from relume.serving.triton_control import TritonControl


class ReleaseInProgressError(ReleaseError):
    """Another release or rollback is going on in this RELUME_HOME."""


@contextlib.contextmanager
def release_lock() -> Iterator[None]:
    """Holds the right to move what is served; a second release, rollback or repair is refused at once.

    Raises:
        ReleaseInProgressError: Another one holds it.
    """
    path = relume_home() / "release.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise ReleaseInProgressError(
            "Another release or rollback is going on", where=path, next_step="wait for it, then try again"
        ) from None


@contextlib.contextmanager
def reach_server(server: str | None) -> Iterator[tuple[str, TritonControl]]:
    """Gives the address and the control of the server to release to.

    Args:
        server: gRPC address of a running server that reads the model repository in RELUME_HOME, or None for the
            embedded one, which is started when it is not running.

    Raises:
        ConfigError: The address is not one of gRPC.
        ServerUnreachableError: The given server does not answer.
        ServiceError: The embedded server does not start.
    """
    from flows import triton

    address = server or triton.start().grpc
    if address.startswith("http"):
        raise ConfigError(
            "Not a gRPC address",
            where=address,
            why="models are loaded over gRPC, because a load over HTTP stalls the server's other clients",
            next_step="give grpc://HOST:PORT",
        )
    with TritonControl(address) as control:
        if not control.live():
            raise ServerUnreachableError(
                "The Triton server does not answer, nothing was moved",
                where=address,
                next_step="start it, or leave the address out to use the embedded server",
            )
        yield address, control


class ServedProduct:
    """The served side of one product: its releases on a Triton server, and the ledger that says which should serve.

    Args:
        product: Name that clients use.
        control: Control of the server.
        ledger: The ledger.
    """

    def __init__(self, product: str, control: TritonControl, ledger: Ledger):
        from flows import triton

        self.product, self.control, self.ledger = product, control, ledger
        self.repository = triton.default_repository()

    def serve(self, release: Release, registry: Registry | None = None) -> None:
        """Loads a release and points the product to it; what serves already is left alone.

        Args:
            release: The release.
            registry: Where its package comes from when the repository does not hold it any more.
        """
        if release.model not in models.releases(self.repository):
            package = stored_package(release, registry or Registry())
            models.publish_release(package.folder / "serving", self.repository, release.model)
        if self.control.models().get(release.model) != "READY":
            self.control.load_release(release.model)
        elif not self.control.answers(release.model):  # its process died, which Triton does not notice
            self.control.reload_release(self.repository, release.model)
        in_repository = models.products(self.repository).get(self.product)
        if not self.control.product_release(self.product) == in_repository == release.model:
            self.control.switch_product(self.repository, self.product, release.model)

    def serve_current(self, registry: Registry | None = None) -> None:
        """Serves what the ledger says, nothing before the first promotion."""
        if current := self.ledger.current(self.product):
            self.serve(current, registry)
        else:
            self.withdraw()

    def withdraw(self) -> None:
        """Stops serving the product, as before its first release."""
        if self.control.models().get(self.product) == "READY":
            self.control.unload(self.product)
        models.remove_product(self.repository, self.product)

    def set_right(self, registry: Registry | None = None) -> list[str]:
        """Undoes a promotion, or finishes a rollback, that was cut short, and serves what the ledger says.

        Returns:
            What was repaired, as sentences for the user; empty when all was right.
        """
        repaired = []
        for entry in self.ledger.unfinished():
            if entry.release.product != self.product:
                continue
            if entry.event == "rolling_back":
                self.serve(entry.release, registry)
                self.ledger.append("rolled_back", entry.release, repaired=True)
                repaired.append(f"the rollback to {entry.release.model}, begun {entry.time}, was finished")
            else:
                self.serve_current(registry)
                self.ledger.append("abandoned", entry.release, reason="it was cut short", repaired=True)
                repaired.append(f"the promotion of {entry.release.model}, begun {entry.time}, was undone")
        self.serve_current(registry)
        if repaired:
            self.retire()
        return repaired

    def retire(self) -> list[str]:
        """Unloads and removes the releases that are neither current nor previous; the registry keeps them.

        Returns:
            Their names.
        """
        kept = {r.model for r in (self.ledger.current(self.product), self.ledger.previous(self.product)) if r}
        loaded = self.control.models()
        retired = []
        for model in models.releases(self.repository):
            if model.startswith(f"{self.product}-") and model not in kept:
                if loaded.get(model) == "READY":
                    self.control.unload(model)  # answers what is in flight and in the queue first
                models.remove_release(self.repository, model)
                retired.append(model)
        for folder in _packages().glob("*"):
            if not any(model.endswith(f"-{folder.name[:8]}") for model in kept):
                shutil.rmtree(folder)
        return retired

    def move_aliases(self, registry: Registry, *, candidate: str | None) -> None:
        """Points `champion` and `previous` to what the ledger says, and `candidate` to a version or nothing."""
        current, previous = self.ledger.current(self.product), self.ledger.previous(self.product)
        registry.set_aliases(
            self.product,
            champion=current.version if current else None,
            previous=previous.version if previous else None,
            candidate=candidate,
        )


def serve_champions() -> list[Release]:
    """Starts the embedded server and serves by it what the ledger says, repairing what a crash left.

    While a release or rollback is going on in another process, the server is started and left to it.

    Returns:
        The releases that serve; empty before the first release.

    Raises:
        ServiceError: The server does not start.
        ReleaseError: A champion cannot be served.
    """
    ledger = Ledger()
    products = sorted({entry.release.product for entry in ledger.entries()})
    with reach_server(None) as (_, control):
        try:
            with release_lock():
                for product in products:
                    ServedProduct(product, control, ledger).set_right()
        except ReleaseInProgressError:
            pass
    return [release for product in products if (release := ledger.current(product))]


def stored_package(release: Release, registry: Registry) -> Package:
    """The package of a release, from RELUME_HOME/packages or else from the registry."""
    folder = _packages() / release.package[:16]
    if (folder / "package.json").is_file():
        return open_package(folder)
    version = registry.find(release.product, release.package)
    if version is None:
        raise ReleaseError(
            "The registry does not know the package of a release",
            where=f"{release.model}, {release.product} version {release.version}",
            why="it was deleted, or MLFLOW_TRACKING_URI points to another registry than at the release",
            next_step="relume release, to release the package of this checkout",
        )
    return registry.fetch(version, folder)


def _packages() -> Path:
    """Where packages that were fetched from the registry are kept while they can still serve."""
    return relume_home() / "packages"


def release_of(version: Version, package: Package) -> Release:
    """The ledger's words for a registered package."""
    return Release(product=package.product, package=package.sha256, version=version.number, model=package.model)
