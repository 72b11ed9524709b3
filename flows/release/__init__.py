"""Release: registry, gate, rollout, ledger and rollback of packages."""

from pathlib import Path
from typing import Any


def run(repository: str | Path = ".", *, server: str | None = None) -> dict[str, Any]:
    """Releases the package of a checkout as a Prefect flow, from the command line or from another flow.

    Args:
        repository: The top of the checkout.
        server: gRPC address of a running Triton server; the embedded one, started if need be, when None.

    Returns:
        `flows.release.release.Outcome` as JSON values.

    Raises:
        RelumeError: As `flows.release.release.release_package`.
    """
    from flows.prefect_settings import use_local_prefect
    from flows.release.package import open_package
    from relume.home import relume_home

    root = Path(repository).resolve()
    open_package(root / "package")  # spares starting Prefect for nothing
    use_local_prefect(relume_home())
    from flows.release.flow import release

    return release(str(root), server)
