"""The Prefect flow of the graph: a task for each stage, wired along the graph of dvc.yaml.

Importing this module imports Prefect; start the flow by `flows.pipeline.run`, which prepares its settings.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import INPUTS, RUN_ID
from prefect.futures import PrefectFuture

from flows.cache_objects import remember_objects, remove_damaged
from flows.container_images import remember_images
from flows.dvc_commands import run_dvc
from flows.graph import Graph, Stage, read_graph, read_store
from flows.lint import require_sound
from flows.lock import merge, read_lock, write_lock
from flows.report import write_report
from flows.run_commit import clone_commit, commit_run, forget_old_runs, git
from flows.runners import Run, Runner, StageCancelledError, StageResult
from flows.runners.subprocess import SubprocessRunner, end_leftovers
from flows.terminal import RunPrinter
from flows.turns import turn
from relume import files
from relume.counts import counted
from relume.errors import NOT_WORTH_RETRYING, RelumeError, StageFailedError, UserError
from relume.home import relume_home
from relume.ingestion.lists import list_in_use, own_list
from relume.ingestion.sources import moved_files, read_sources
from relume.params import RunnerName, garbage_settings
from relume.params_file import read_values
from relume.reading import read_as

RETRY_DELAY_SECONDS = 2


class CheckoutError(RelumeError):
    """DVC could not bring the outs into the checkout."""


@flow(name="pipeline", persist_result=True, result_serializer="json")
def pipeline(
    repository: str,
    stages: list[str] | None = None,
    home: str | None = None,
    runner: RunnerName | None = None,
) -> dict[str, Any]:
    """Runs the stages of a checkout's graph that are not up to date.

    A retried run (`prefect flow-run retry`) uses the same commit again and does not repeat its finished
    stages. A new run finds their results in DVC's run cache.

    Args:
        repository: The top of a relume checkout.
        stages: Stages to run with everything they need; all by default.
        home: The folder of all local state; RELUME_HOME, or `.relume` in the checkout, when None.
        runner: What runs the stages; `runner` of params.yaml when None.

    Returns:
        `run`: name of the run, `commit`: its commit, `stages`: a list of `stage`, `outcome` (ran or cached),
        `seconds` and, of one that ran in a container, `image`, the hash of its image.

    Raises:
        GraphError: The graph breaks a rule or has no such stage.
        RunInProgressError: Another run is in progress in this checkout.
        StageFailedError: A stage failed; the others that could finish are in dvc.lock and checked out.
        CheckoutError: The outs could not be brought into the checkout.
        DvcLockedError: Another command of DVC works in the checkout.
        ServiceError: No container engine or cluster answers, and the runner needs one.
        UserError: An image of a stage is missing.
    """
    root = Path(repository).resolve()
    place = Path(home) if home else relume_home(root)
    with turn(place, root, "pipeline") as this:
        end_leftovers(place)
        name = str(prefect.runtime.flow_run.id)
        commit = commit_run(root, name, own_list=own_list(place))
        run = Run(name=name, root=root, commit=commit, store=read_store(root), home=place)
        run.folder.mkdir(parents=True, exist_ok=True)
        os.utime(run.folder)  # a retried run is as new as a new one
        forget_old_runs(root, place, garbage_settings(root).runs)
        graph = _graph_of(run)
        chosen = graph.with_upstream(stages or list(graph.stages))
        this.at("pipeline", name)
        printer = RunPrinter(list(chosen))
        if moved := _moved(root, place):
            printer.say(
                f"warning: {len(moved)} of the listed photographs are gone or changed, such as {moved[0]}; what was "
                "made of them is taken from the cache as long as it can be; next: relume data scan"
            )
        for damaged in remove_damaged(run.store.cache, place, printer.say):
            printer.say(
                f"warning: object {damaged} of DVC's cache was damaged and is removed; it is made again if needed"
            )
        printer.say(f"run {name} of commit {run.commit[:12]}, {counted(len(chosen), 'stage')}")
        loggers: dict[str, logging.Logger | logging.LoggerAdapter] = {}
        environment: dict[str, str] = {}

        def on_line(stage: str, line: str) -> None:
            printer.line(stage, line)
            loggers[stage].info(line)

        chosen_runner = _runner(runner or read_values(root).value.get("runner"))(run, on_line, environment)
        images = chosen_runner.check(list(chosen.values()))
        with _tracked(run, printer, images) as tracking:
            environment |= tracking
            return _run_stages(graph, chosen, run, chosen_runner, printer, loggers)


def _runner(name: str | None) -> type[SubprocessRunner]:
    if name == "docker":
        from flows.runners.docker import DockerRunner

        return DockerRunner
    if name == "kubernetes":
        try:
            from flows.runners.kubernetes import KubernetesRunner
        except ModuleNotFoundError:
            raise UserError(
                "The runner `kubernetes` needs a package that is not installed",
                why="it is not among those that every run needs",
                next_step="pip install --constraint constraints.txt 'relume[kubernetes]'",
            ) from None
        return KubernetesRunner
    return SubprocessRunner


def _run_stages(
    graph: Graph,
    chosen: dict[str, Stage],
    run: Run,
    runner: Runner,
    printer: RunPrinter,
    loggers: dict[str, logging.Logger | logging.LoggerAdapter],
) -> dict[str, Any]:
    base = git(run.root, "show", f"{run.commit}:dvc.lock") + "\n" if _has_lock(run) else ""
    futures = _submit(chosen, run, base, runner, printer, loggers)
    try:
        results, failures = _collect(chosen, futures)
    except BaseException:  # an interrupt or a cancellation: the stages' threads end when their processes do
        runner.cancel()
        raise
    remember_images(run.home, results)
    write_lock(run.root, merge(read_lock(run.root), [result.entry for result in results], list(graph.stages)))
    _checkout(run.root, [out for result in results for out in chosen[result.stage].outs])
    remember_objects(run.store.cache, run.home)
    summary = [
        {"stage": r.stage, "outcome": r.outcome, "seconds": round(r.seconds, 2)}
        | ({"image": r.image} if r.image else {})
        for r in results
    ]
    _publish(chosen, summary, failures, run)
    if failures:
        left = [stage for stage in chosen if stage not in failures and stage not in {r.stage for r in results}]
        for stage in left:
            printer.not_run(stage)
        raise _failure(failures)
    printer.say(f"run {run.name} done, dvc.lock is written")
    return {"run": run.name, "commit": run.commit, "stages": summary}


def _moved(root: Path, home: Path) -> list[str]:
    """The listed photographs that are not where they were; a list that cannot be read is for `ingest` to refuse."""
    try:
        return moved_files(read_sources(list_in_use(root, home)))
    except RelumeError:
        return []


def _graph_of(run: Run) -> Graph:
    """The graph of the run's commit, checked: in a retried run the working tree may have changed since."""
    with tempfile.TemporaryDirectory(prefix="relume-graph-") as folder:
        clone = Path(folder) / "clone"
        clone_commit(run.root, run.commit, clone)
        graph = read_graph(clone, {"core": {"site_cache_dir": f"{folder}/dvc"}})
        require_sound(graph)
        return graph


def _submit(
    chosen: dict[str, Stage],
    run: Run,
    base: str,
    runner: Runner,
    printer: RunPrinter,
    loggers: dict[str, logging.Logger | logging.LoggerAdapter],
) -> dict[str, PrefectFuture]:
    """Submits a task for each stage; a task takes the results of those before it, which wires them."""
    attempts = {name: stage.meta["retries"] + 1 for name, stage in chosen.items()}

    # The run's id is part of the cache key: a result is good for retries of this run. What other runs
    # made is DVC's to know, since it also knows whether the outs are still there.
    @task(
        persist_result=True,
        result_serializer="json",
        cache_policy=INPUTS + RUN_ID,
        retry_delay_seconds=RETRY_DELAY_SECONDS,
        retry_condition_fn=_worth_retrying,
    )
    def run_stage(stage: str, commit: str, upstream: list[dict[str, Any]]) -> dict[str, Any]:
        loggers[stage] = get_run_logger()
        printer.started(stage)
        lock = merge(base, [result["entry"] for result in upstream], list(chosen))
        try:
            result = runner.run(chosen[stage], lock)
        except StageCancelledError:
            printer.cancelled(stage)
            raise
        except StageFailedError as failure:
            attempts[stage] -= 1
            printer.failed(stage, again=attempts[stage] > 0 and _can_succeed(failure))
            raise
        printer.finished(result)
        return vars(result)

    futures: dict[str, PrefectFuture] = {}
    for name, stage in chosen.items():
        this = run_stage.with_options(name=name, task_run_name=name, retries=stage.meta["retries"])
        upstream: Any = [futures[before] for before in stage.upstream]  # Prefect puts their results in their place
        futures[name] = this.submit(name, run.commit, upstream)
    return futures


def _can_succeed(failure: BaseException) -> bool:
    """Whether trying again can help: not when input or settings are at fault or the run was ended."""
    return not isinstance(failure, StageCancelledError) and getattr(failure, "exit_code", 1) not in NOT_WORTH_RETRYING


def _worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    return _can_succeed(state.result(raise_on_failure=False))


def _collect(
    chosen: dict[str, Stage], futures: dict[str, PrefectFuture]
) -> tuple[list[StageResult], dict[str, BaseException]]:
    """Waits for all tasks: the results of those that finished, and what those that failed raised."""
    results, failures = [], {}
    for name in chosen:
        futures[name].wait()
        state = futures[name].state
        if state.is_completed():
            results.append(StageResult(**state.result()))
        elif not state.is_pending():  # pending is what waits for a stage that failed
            failures[name] = state.result(raise_on_failure=False)
    return results, failures


def _failure(failures: dict[str, BaseException]) -> BaseException:
    failed = [failure for failure in failures.values() if isinstance(failure, StageFailedError)]
    if len(failures) == 1 or len(failed) < len(failures):
        return next(iter(failures.values()))
    return StageFailedError(
        f"{len(failures)} stages failed",
        exit_code=max(failure.exit_code for failure in failed),
        where=", ".join(failures),
        why="".join(f"\n{failure}" for failure in failures.values()),
        next_step="fix what their messages name, then run `relume pipeline run`",
    )


def _has_lock(run: Run) -> bool:
    return bool(git(run.root, "ls-tree", "--name-only", run.commit, "dvc.lock"))


def _checkout(root: Path, outs: list[str]) -> None:
    """Brings outs from DVC's cache into the checkout. As `dvc repro` does, it replaces what is there."""
    if not outs:
        return
    done = run_dvc(root, "checkout", "--force", *outs)  # --quiet would hide why it fails
    if done.returncode:
        raise CheckoutError(
            "DVC could not bring the outs into the checkout",
            where=root,
            why=done.stderr.strip(),
            next_step="run `dvc checkout`",
        )


def _publish(
    chosen: dict[str, Stage], summary: list[dict[str, Any]], failures: dict[str, BaseException], run: Run
) -> None:
    """Shows the run in Prefect: a table of its stages, and a link to the report, which is written here."""
    ended = {row["stage"]: row for row in summary}
    table = []
    for name in chosen:
        outcome = "failed" if name in failures else "not run"
        table.append(ended.get(name) or {"stage": name, "outcome": outcome, "seconds": None})
    create_table_artifact(table, key="stages", description=f"The stages of run {run.name}, commit {run.commit}")
    if not failures and all((run.root / out).is_file() for out in ("package/package.json", "reports/metrics.json")):
        report = write_report(run.home / "reports" / "index.html", root=run.root, facts={"stages": summary})
        create_link_artifact(report.as_uri(), link_text="Report", key="report")


@contextlib.contextmanager
def _tracked(run: Run, printer: RunPrinter, images: dict[str, str]) -> Iterator[dict[str, str]]:
    """Opens the run in MLflow as the parent of its stages' runs; gives what the stages need of it.

    Args:
        run: The run.
        printer: Says it when the run cannot be tracked.
        images: The container images of its stages, by name; they become tags.
    """
    if not (run.root / "components" / "tracking.py").is_file():
        yield {}
        return
    from components.tracking import RunRecord, end_pipeline_run, first_line, start_pipeline_run, tracking_errors

    record = run.folder / "tracking.json"
    try:
        if record.is_file():  # a retried run resumes its first one
            parent = read_as(RunRecord, record, next_step="remove it, and run the pipeline again").run
        else:
            tags = {"relume.run": run.name, "relume.commit": run.commit}
            tags |= {f"relume.image.{name.replace(':', '.')}": image for name, image in images.items()}
            parent = start_pipeline_run(run.name, tags, run.home)
            files.write_json(record, {"run": parent})
    except tracking_errors() as error:
        printer.say(f"warning: this pipeline run is not tracked in MLflow: {first_line(error)}")
        yield {}
        return
    failed = True
    try:
        yield {"RELUME_TRACKING_RUN": parent}
        failed = False
    finally:
        with contextlib.suppress(*tracking_errors()):  # the stages have said so
            end_pipeline_run(parent, run.home, failed=failed)
