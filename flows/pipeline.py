"""Runs the graph as a Prefect flow, from the command line or from another flow."""

from pathlib import Path
from typing import Any

from flows.graph import read_graph
from flows.lint import require_sound
from flows.prefect_settings import prefect_errors, use_local_prefect
from flows.run_commit import check_repository
from relume.params import RunnerName


def run(
    root: Path,
    home: Path,
    stages: list[str] | None = None,
    runner: RunnerName | None = None,
) -> dict[str, Any]:
    """Runs the stages of a checkout's graph that are not up to date, in parallel where the graph allows.

    Args:
        root: The top of a relume checkout.
        home: RELUME_HOME.
        stages: Stages to run with everything they need; all by default. A group's name stands for its stages.
        runner: What runs the stages; `runner` of params.yaml when None.

    Returns:
        The flow's result, see `flows.pipeline_flow.pipeline`.

    Raises:
        GraphError: The graph breaks a rule or has no such stage; nothing was started.
        RepositoryError: The checkout is not the top of a git working tree.
        RunInProgressError: Another run is in progress in this checkout.
        ServiceError: No container engine or cluster answers, and the runner needs one.
        StageFailedError: A stage failed. What finished is in dvc.lock.
        UserError: An image of a stage is missing.
    """
    root, home = root.resolve(), home.resolve()
    # The flow checks this too, as it can be started by other means; here it saves the time to start Prefect.
    graph = read_graph(root)
    graph.with_upstream(stages or [])
    require_sound(graph)
    check_repository(root)
    use_local_prefect(home)
    from prefect.exceptions import TerminationSignal

    from flows.pipeline_flow import pipeline

    try:
        with prefect_errors(home):
            return pipeline(str(root), stages, str(home), runner)
    except TerminationSignal:  # Prefect's own for SIGTERM
        raise KeyboardInterrupt from None
