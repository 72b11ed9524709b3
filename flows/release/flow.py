"""The Prefect flow of a release: its steps as tasks, the gate's report and the parity table as artifacts.

Importing this module imports Prefect; start the flow by `flows.release.run`, which prepares its settings.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.release.gate import GateReport
from flows.release.release import release_package
from relume.home import relume_home

P = ParamSpec("P")
R = TypeVar("R")


@flow(name="release", persist_result=False)
def release(
    repository: str = ".",
    server: str | None = None,
    home: str | None = None,
    rollout: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Releases the package of a checkout.

    Args:
        repository: The top of the checkout.
        server: gRPC address of a running Triton server; the embedded one when None.
        home: The folder of all local state; RELUME_HOME, or `.relume` in the checkout, when None.
        rollout: Values of `release.rollout` instead of those of params.yaml.

    Returns:
        `flows.release.release.ReleaseOutcome` as JSON values.

    Raises:
        RelumeError: As `flows.release.release.release_package`.
    """
    root = Path(repository).resolve()
    place = Path(home) if home else relume_home(root)
    outcome = dataclasses.asdict(release_package(root, place, server=server, rollout=rollout, wrap=_as_task))
    if outcome["parity"]:
        create_table_artifact(outcome["parity"], key="served-parity", description=outcome["release"]["model"])
    return outcome


def _as_task(function: Callable[P, R], /) -> Callable[P, R]:
    """A step as a task. Steps move what is served, so their results are never taken from a cache."""
    as_task = task(name=function.__name__, cache_policy=NO_CACHE, persist_result=False)(function)

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        result = as_task(*args, **kwargs)
        if isinstance(result, GateReport):
            print(result.table(), end="", flush=True)
            create_table_artifact(result.as_json()["checks"], key="gate", description=result.table().splitlines()[0])
        return result

    return run
