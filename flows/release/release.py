"""A release from package to product: register, gate, load, prove, switch.

Nothing that clients see is moved before the gate has passed. From the ledger line `promoting` to the
line `promoted` an error is undone at once; a crash is undone by whoever looks next.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.release.gate import GateReport, measure
from flows.release.ledger import Ledger, Release
from flows.release.lineage import Lineage, read_lineage
from flows.release.package import Package, open_package
from flows.release.registry import Registry, Version
from flows.release.served_parity import PathDifference, compare_paths, parity_pictures, require_parity
from flows.release.served_product import ServedProduct, reach_server, release_lock, release_of, stored_package
from relume.files import write_json, write_text
from relume.home import relume_home
from relume.params import ReleaseSettings, load_params
from relume.serving import repository as models

HELD_OUT = Path("data/curated/held_out/test")

Step = Callable[..., Any]
"""Carries out one step of a release, given its name, a function and the function's arguments."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a release came to.

    Attributes:
        release: The release that serves now.
        server: Address of the server.
        promoted: False when this package served already.
        repaired: What an earlier, interrupted release had left and was set right.
        gate: The gate's report as JSON values, empty when nothing was promoted.
        parity: The served-path comparison, one row a picture.
        retired: Releases that were unloaded.
    """

    release: Release
    server: str
    promoted: bool
    repaired: list[str]
    gate: dict[str, Any] = dataclasses.field(default_factory=dict)
    parity: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    retired: list[str] = dataclasses.field(default_factory=list)


def plain_step(_name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Carries a step out by calling it."""
    return function(*args)


def release_package(
    root: Path,
    *,
    server: str | None = None,
    lineage: Lineage | None = None,
    registry: Registry | None = None,
    step: Step = plain_step,
) -> Outcome:
    """Releases the package of a checkout.

    Args:
        root: The top of the checkout.
        server: gRPC address of a running Triton server; the embedded one, started if need be, when None.
        lineage: Where the package came from; read from the checkout when None.
        registry: The registry; that of `tracking_uri()` when None.
        step: Carries out the steps, as Prefect tasks for example.

    Returns:
        What serves now. A package that serves already is not released again.

    Raises:
        ModelMissingError: There is no package.
        UserError: The checkout changed since the package was built.
        ServerUnreachableError: A server does not answer; nothing was moved.
        GateRefusedError: The candidate failed the gate; nothing was moved.
        ParityError: The served path differs; what served before serves on.
        ReleaseError: The server cannot serve it; what served before serves on.
    """
    settings = load_params(root).release
    package = open_package(root / "package")
    ledger = Ledger()
    with release_lock(), reach_server(server) as (address, control):
        registry = registry or Registry()
        champion = ServedProduct(package.product, control, ledger)
        repaired = champion.set_right(registry)
        current = ledger.current(package.product)
        if current and current.package == package.sha256:
            champion.move_aliases(registry, candidate=None)
            return Outcome(release=current, server=address, promoted=False, repaired=repaired)
        lineage = lineage or read_lineage(root, package)
        version = step("register", _register, registry, champion, package, lineage)
        report = step("gate", _gate, registry, champion, package, settings, root / HELD_OUT)
        _record_gate(registry, ledger, version, release_of(version, package), report)
        report.require_passed()
        differences = step("roll out", _roll_out, registry, champion, package, version, settings, root, address)
        retired = champion.retire()
    return Outcome(
        release=release_of(version, package),
        server=address,
        promoted=True,
        repaired=repaired,
        gate=report.as_json(),
        parity=[dataclasses.asdict(difference) for difference in differences],
        retired=retired,
    )


def _register(registry: Registry, champion: ServedProduct, package: Package, lineage: Lineage) -> Version:
    version, _ = registry.register(package, run_commit=lineage.run_commit, params=lineage.params, files=lineage.files)
    champion.move_aliases(registry, candidate=version.number)
    champion.ledger.append("registered", release_of(version, package), run=version.run_id)
    return version


def _gate(
    registry: Registry, champion: ServedProduct, package: Package, settings: ReleaseSettings, held_out: Path
) -> GateReport:
    current = champion.ledger.current(package.product)
    return measure(package, stored_package(current, registry) if current else None, settings, held_out)


def _record_gate(registry: Registry, ledger: Ledger, version: Version, release: Release, report: GateReport) -> None:
    place = relume_home() / "reports" / "gate" / release.model
    write_json(place.with_suffix(".json"), report.as_json())
    write_text(place.with_suffix(".txt"), report.table())
    verdict = "refused" if report.failed else "passed"
    registry.note(version, tags={"gate": verdict}, texts={"gate.txt": report.table()})
    if report.failed:
        ledger.append("refused", release, failed=[str(check) for check in report.failed])


def _roll_out(
    registry: Registry,
    champion: ServedProduct,
    package: Package,
    version: Version,
    settings: ReleaseSettings,
    root: Path,
    address: str,
) -> list[PathDifference]:
    release = release_of(version, package)
    champion.ledger.append("promoting", release, server=address)
    try:
        models.publish_release(package.folder / "serving", champion.repository, release.model)
        champion.control.load_release(release.model)
        differences = _prove(package, release, settings, root / HELD_OUT, address)
        champion.serve(release, registry)
        registry.set_aliases(
            package.product,
            champion=version.number,
            previous=current.version if (current := champion.ledger.current(package.product)) else None,
            candidate=None,
        )
    except Exception as error:
        # What served before is put back; if that fails too, the open line tells the next release to do it.
        champion.serve_current(registry)
        champion.move_aliases(registry, candidate=version.number)
        champion.ledger.append("abandoned", release, reason=str(error))
        champion.retire()
        raise
    champion.ledger.append("promoted", release, server=address)
    return differences


def _prove(
    package: Package, release: Release, settings: ReleaseSettings, held_out: Path, address: str
) -> list[PathDifference]:
    from relume.serving.onnx_restorer import OnnxRestorer
    from relume.serving.triton_client import TritonRestorer

    in_process = OnnxRestorer(package.folder / "serving")
    tile, halo = in_process.serving.tile, in_process.serving.halo
    pictures = parity_pictures(held_out, settings, tile=tile)
    levels = in_process.serving.levels
    differences: list[PathDifference] = []
    with TritonRestorer(address, release.model) as served:
        for level in sorted({levels.lowest, levels.highest}) if levels else [None]:
            differences += compare_paths(
                lambda image, level=level: in_process.restore(image, level=level).image,  # type: ignore[misc]
                lambda image, level=level: served.restore(image, level=level).image,  # type: ignore[misc]
                pictures if level is None else {f"{name}, level {level:g}": p for name, p in pictures.items()},
                tile=tile,
                halo=halo,
            )
    rows = [dataclasses.asdict(difference) for difference in differences]
    write_json(relume_home() / "reports" / "served_parity" / f"{release.model}.json", rows)
    require_parity(differences, settings)
    return differences
