"""Releases of packages: `release` has the steps of one, `served_product` what serves, `rollback` the way back."""

from pathlib import Path
from typing import Any


def run(
    root: Path, home: Path, *, server: str | None = None, rollout: dict[str, float] | None = None
) -> dict[str, Any]:
    """Releases the package of a checkout as a Prefect flow, from the command line or from another flow.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        server: gRPC address of a running Triton server; the embedded one, started if need be, when None.
        rollout: Values of `release.rollout` instead of those of params.yaml.

    Returns:
        `flows.release.release.ReleaseOutcome` as JSON values.

    Raises:
        RelumeError: As `flows.release.release.release_package`.
    """
    from flows.prefect_settings import prefect_errors, use_local_prefect
    from flows.release.package import open_package

    root, home = root.resolve(), home.resolve()
    open_package(root / "package")  # before Prefect takes seconds to start
    use_local_prefect(home)
    from flows.release.flow import release

    with prefect_errors(home):
        return release(str(root), server, str(home), rollout)


def steps(root: Path, home: Path, rollout: dict[str, float] | None = None) -> list[str]:
    """What `run` would do now, a line for each step; does nothing.

    Raises:
        RelumeError: As `flows.release.release.release_package`, of what is known before it begins.
    """
    from flows.embedded_triton import EmbeddedTriton
    from flows.release.ledger import Ledger
    from flows.release.release import serves_already, what_to_release

    params, package = what_to_release(root, rollout)
    settings, champion = params.release, Ledger(home).current(package.product)
    if champion and serves_already(champion, package, settings, EmbeddedTriton(home).repository):
        return [f"{package.model} serves {package.product} already; nothing would be done"]
    lines = [f"register    {package.model} as a version of {package.product}"]
    lines.append(f"gate        {f'against {champion.model}' if champion else 'against the baseline of its task'}")
    lines.append(
        f"load        beside {champion.model if champion else 'nothing'}, backend {settings.backend}, parity as served"
    )
    if champion and (each := settings.rollout):
        for name, share in (("shadow", each.shadow), ("canary", each.canary)):
            if share:
                lines.append(f"{name:<12}{share:g} % of the images for {each.hold_minutes:g} minutes")
    lines.append(f"serve       all images of {package.product} by {package.model}")
    return lines
