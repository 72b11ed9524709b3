"""Releases of packages: `release` has the steps of one, `served_product` what serves, `rollback` the way back."""

from pathlib import Path
from typing import Any


def run(root: Path, home: Path, *, server: str | None = None) -> dict[str, Any]:
    """Releases the package of a checkout as a Prefect flow, from the command line or from another flow.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        server: gRPC address of a running Triton server; the embedded one, started if need be, when None.

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
        return release(str(root), server, str(home))
