"""The steps of a release: a package is registered, checked by the gate, and promoted to serve its product.

Nothing that clients see changes before the gate has passed. From the ledger line `promoting` to the line
`promoted` an error is undone at once; a crash is undone by the next release, rollback or `relume serve`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_args

from flows.release.backend_parity import choose_backend
from flows.release.gate import GateReport, measure
from flows.release.ledger import Release
from flows.release.licences import SourceLicence, licences_of, require_allowed
from flows.release.lineage import Lineage, read_lineage
from flows.release.package import Package, open_package
from flows.release.peak_memory import peak_memory
from flows.release.promotion_report import write_promotion_report
from flows.release.registry import Registry, Version
from flows.release.rollout import roll_out
from flows.release.served_parity import PathDifference, compare_served, require_parity
from flows.release.served_product import ServedProduct, reach_server, release_lock
from flows.release.trial import CandidateFailedError, Entrant, try_out
from relume.errors import UserError
from relume.evaluation.settings import EvaluateSettings
from relume.files import write_json, write_text
from relume.home import remember_release
from relume.ingestion.lists import LIST
from relume.params import Params, ReleaseSettings, RolloutSettings, load_params
from relume.serving import repository as models
from relume.serving.backends import Served
from relume.serving.signing import keys_of, signing_key

_NO_LIST = '{"sources": [], "files": []}'
HELD_OUT = Path("data/curated/held_out/test")

P = ParamSpec("P")
R = TypeVar("R")


class Wrap(Protocol):
    """Wraps a function in one that runs or reports it, such as a Prefect task."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


def unwrapped(function: Callable[P, R], /) -> Callable[P, R]:
    """The function itself."""
    return function


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A package on its way through `register`, `gate` and `promote`.

    Attributes:
        package: The package, opened and checked.
        version: Its version in the registry.
        settings: The limits of the gate.
        evaluate: The task, and its levels.
        held_out: Folder of the held-out photographs that it is measured on.
        backend: What it is released for, a value of `release.backend` other than `auto`.
        licences: The terms of the photographs that it was trained on.
    """

    package: Package
    version: Version
    settings: ReleaseSettings
    evaluate: EvaluateSettings
    held_out: Path
    backend: str
    licences: Sequence[SourceLicence] = ()

    @property
    def release(self) -> Release:
        """The release that it becomes when it is promoted, as the ledger names it."""
        return Release(
            product=self.package.product,
            package=self.package.sha256,
            version=self.version.number,
            model=self.package.model_for(self.backend),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleaseOutcome:
    """The result of a release.

    Attributes:
        release: The release that serves now.
        server: Address of the server.
        promoted: False when this package served already, by the backend of the settings.
        repaired: What an interrupted release or rollback had left, and how it was repaired.
        gate: The gate's report as JSON values, empty when nothing was promoted.
        parity: The served-path comparison, one row an image.
        retired: Releases that were unloaded.
    """

    release: Release
    server: str
    promoted: bool
    repaired: list[str]
    gate: dict[str, Any] = dataclasses.field(default_factory=dict)
    parity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    retired: list[str] = dataclasses.field(default_factory=list)


def release_package(
    root: Path,
    home: Path,
    *,
    server: str | None = None,
    lineage: Lineage | None = None,
    registry: Registry | None = None,
    rollout: dict[str, float] | None = None,
    wrap: Wrap = unwrapped,
) -> ReleaseOutcome:
    """Releases the package of a checkout.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        server: gRPC address of a running Triton server; the embedded one, started if need be, when None.
        lineage: Where the package came from; read from the checkout when None.
        registry: The registry; that of `tracking_uri(home)` when None.
        rollout: Values of `release.rollout` instead of those of params.yaml.
        wrap: Wraps `register`, `gate` and `promote`, as Prefect tasks for example.

    Returns:
        What serves now. A package that serves already is not released again, unless it is for another backend.

    Raises:
        ModelMissingError: There is no package.
        UserError: The checkout changed since the package was built, or names another product.
        LicenceError: The product is for commercial use, and its photographs do not allow it; nothing was changed.
        ServerUnreachableError: A server does not answer; nothing was changed.
        GateRefusedError: The candidate failed the gate; nothing was changed.
        ParityError: The served path differs; what served before still serves.
        ReleaseError: The server cannot serve it; what served before still serves.
    """
    params, package = what_to_release(root, rollout)
    with release_lock(home) as this, reach_server(server, home) as (address, control):
        product = ServedProduct(package.product, home, address, control, registry or Registry(home))
        repaired = product.reconcile()
        current = product.current
        if current and serves_already(current, package, params.release, product.repository):
            product.move_aliases()
            return ReleaseOutcome(release=current, server=address, promoted=False, repaired=repaired)
        lineage = lineage or read_lineage(root, package, home)
        licences = licences_of(lineage.files.get(LIST, _NO_LIST), params.licences)
        require_allowed(licences, params.licences)
        candidate = wrap(register)(product, package, lineage, params, root / HELD_OUT, licences)
        report = wrap(gate)(product, candidate)
        report.require_passed()
        differences = wrap(promote)(product, candidate, this.at)
        retired = product.retire()
    remember_release(root, home)
    return ReleaseOutcome(
        release=candidate.release,
        server=address,
        promoted=True,
        repaired=repaired,
        gate=report.as_json(),
        parity=[dataclasses.asdict(difference) for difference in differences],
        retired=retired,
    )


def what_to_release(root: Path, rollout: dict[str, float] | None) -> tuple[Params, Package]:
    """The parameters of a checkout, with other values of `release.rollout` if there are any, and its package.

    Raises:
        ModelMissingError: There is no package.
        UserError: The package is of another product than the checkout.
    """
    params, package = load_params(root), open_package(root / "package")
    if package.product != params.package.product:
        raise UserError(
            "The package is of another product",
            where=package.folder,
            why=f"it is of {package.product}, and package.product in recipe.yaml is {params.package.product}",
            next_step="build the package again with `relume pipeline run`, or correct package.product",
        )
    if rollout:
        before = params.release.rollout
        values = (before.model_dump() if before else dict.fromkeys(("canary", "shadow"), 0.0)) | rollout
        release = params.release.model_copy(update={"rollout": RolloutSettings.model_validate(values)})
        params = params.model_copy(update={"release": release})
    return params, package


def serves_already(current: Release, package: Package, settings: ReleaseSettings, repository: Path) -> bool:
    """Whether what serves is a package, by the backend of the settings.

    Args:
        current: What serves.
        package: The package.
        settings: Of a release.
        repository: Triton's model repository.
    """
    by = models.backend_of_release(repository, current.model)
    return current.package == package.sha256 and settings.backend in ("auto", by)


def register(
    product: ServedProduct,
    package: Package,
    lineage: Lineage,
    params: Params,
    held_out: Path,
    licences: Sequence[SourceLicence] = (),
) -> Candidate:
    """Gives a package a version in the registry, which makes it the product's candidate.

    Raises:
        ParityError: The backend of the settings does not compute what float32 does; nothing was changed.
    """
    backend, proof = choose_backend(package.folder / "serving", held_out, params.release, product.home)
    version, _ = product.registry.register(
        package, run_commit=lineage.run_commit, params=lineage.params, files=lineage.files
    )
    candidate = Candidate(
        package=package,
        version=version,
        settings=params.release,
        evaluate=params.evaluate,
        held_out=held_out,
        backend=backend,
        licences=licences,
    )
    if proof:
        rows = {"backend": backend, "pictures": [dataclasses.asdict(each) for each in proof]}
        write_json(product.home / "reports" / "backend_parity" / f"{candidate.release.model}.json", rows)
    product.ledger.append("registered", candidate.release, run=version.run_id)
    product.move_aliases()
    return candidate


def gate(product: ServedProduct, candidate: Candidate) -> GateReport:
    """Runs a candidate in a server of its own, measures it against the champion, and keeps the report.

    The report lies in the home and with the version.

    Raises:
        CandidateFailedError: No server can serve it; the server that clients use never saw it.
        RelumeError: It could not be tried out or measured; that says nothing about it.
    """
    current, entrant = product.current, None
    champion = product.package_of(current) if current else None
    if current and champion:
        serves = models.backend_of_release(product.repository, current.model)
        entrant = Entrant(package=champion, model=current.model, backend=_computed_by(serves))
    own = Entrant(package=candidate.package, model=candidate.release.model, backend=_computed_by(candidate.backend))
    try:
        latency = try_out(own, entrant, product.home)
    except CandidateFailedError as error:
        product.ledger.append("refused", candidate.release, failed=[str(error.why or error)])
        product.registry.note(candidate.version, tags={"gate": "refused"})
        raise
    memory = peak_memory([each.folder / "serving" for each in (candidate.package, champion) if each])
    report = measure(
        candidate.package, champion, candidate.settings, candidate.evaluate, candidate.held_out, latency, memory
    )
    place = product.home / "reports" / "gate" / candidate.release.model
    write_json(place.with_suffix(".json"), report.as_json())
    write_text(place.with_suffix(".txt"), report.table())
    write_promotion_report(
        place.with_name(f"{place.name}.html"),
        report,
        candidate.package,
        champion,
        settings=candidate.settings,
        evaluate=candidate.evaluate,
        held_out=candidate.held_out,
        licences=candidate.licences,
        key=signing_key(keys_of(product.home)),
    )
    verdict = "refused" if report.failed else "passed"
    product.registry.note(candidate.version, tags={"gate": verdict}, texts={"gate.txt": report.table()})
    if report.failed:
        product.ledger.append("refused", candidate.release, failed=[str(check) for check in report.failed])
    return report


def promote(
    product: ServedProduct, candidate: Candidate, say: Callable[[str], None] = lambda _: None
) -> list[PathDifference]:
    """Loads a candidate beside the champion, checks its parity on the server, and points the product to it.

    Args:
        product: The product.
        candidate: That passed the gate.
        say: Is given what is being done while the candidate is tried on live images.

    Raises:
        ParityError: The served path differs.
        ReleaseError: The server cannot serve it, or it crossed a limit on live images.
    """
    release, champion, rollout = candidate.release, product.current, candidate.settings.rollout
    product.ledger.append("promoting", release, server=product.address)
    try:
        product.publish(candidate.package, release)
        open_package(candidate.package.folder, release=release.package)  # a run may have replaced it since the gate
        product.load(release.model)
        differences = _served_parity(product, candidate)
        if champion and rollout:
            roll_out(product, champion, release, rollout, say)
        product.serve(release)
    except (Exception, KeyboardInterrupt) as error:
        # What served before is restored; if that fails too, the next release does it because of the open line.
        product.serve_current()
        product.move_aliases()
        product.ledger.append("abandoned", release, reason=str(error) or "it was interrupted")
        product.retire()
        raise
    product.ledger.append("promoted", release, server=product.address)
    product.move_aliases()
    return differences


def _computed_by(backend: str) -> Served:
    """The backend of the embedded server, and of this process, that computes what another one does."""
    return cast(Served, backend) if backend in get_args(Served) else "onnxruntime"


def _served_parity(product: ServedProduct, candidate: Candidate) -> list[PathDifference]:
    model = candidate.release.model
    serving = candidate.package.folder / "serving"
    differences = compare_served(
        serving,
        product.address,
        model,
        candidate.held_out,
        candidate.settings,
        backend=_computed_by(candidate.backend),
        key=product.control.key,
    )
    rows = [dataclasses.asdict(difference) for difference in differences]
    write_json(product.home / "reports" / "served_parity" / f"{model}.json", rows)
    require_parity(differences, candidate.settings)
    return differences
