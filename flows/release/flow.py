"""The Prefect flow of a release: the steps as tasks, the gate's report and the parity table as artifacts.

Importing this module imports Prefect; `flows.release.run` is the door that prepares its settings first.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.release.gate import GateReport
from flows.release.release import release_package


@flow(name="release", persist_result=False)
def release(repository: str = ".", server: str | None = None) -> dict[str, Any]:
    """Releases the package of a checkout.

    Args:
        repository: The top of the checkout.
        server: gRPC address of a running Triton server; the embedded one when None.

    Returns:
        `flows.release.release.Outcome` as JSON values.

    Raises:
        RelumeError: As `flows.release.release.release_package`.
    """
    outcome = dataclasses.asdict(release_package(Path(repository).resolve(), server=server, step=_task_step))
    if outcome["parity"]:
        create_table_artifact(outcome["parity"], key="served-parity", description=outcome["release"]["model"])
    return outcome


def _task_step(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """Carries a step out as a task. Steps move what is served, so their results are never taken from a cache."""
    result = task(name=name, cache_policy=NO_CACHE, persist_result=False)(function)(*args)
    if isinstance(result, GateReport):
        create_table_artifact(result.as_json()["checks"], key="gate", description=result.table().splitlines()[0])
    return result
