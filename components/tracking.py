"""What a stage logs to MLflow: the only place of the components that logs to it.

Tracking does not affect the result: when the server does not answer, the stage warns once and
continues. One parent run for each pipeline run (its id comes in RELUME_TRACKING_RUN), a child run for each
stage, and below it one for each phase of a training. A training that is resumed continues the runs that it
has.
"""

import contextlib
import dataclasses
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from relume.errors import BrokenFileError, RelumeError
from relume.files import write_json
from relume.home import private_file, private_home, relume_home, require_database, sqlite_file, tracking_uri
from relume.reading import read_as

EXPERIMENT = "relume"
PHASE = "relume.phase"  # the tag with a phase's number, from 0


def connect(home: Path, uri: str, experiment: str) -> tuple[Any, str]:
    """MLflow's client of a store, with few retries, and the id of an experiment, which is made when it is missing.

    Args:
        home: RELUME_HOME, which holds the artifacts of a store on SQLite; a server chooses where they go.
        uri: The address of the store.
        experiment: Its name.

    Raises:
        Exception: One of `tracking_errors`.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by default it tries for minutes
    import logging

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # The log of making an empty database is not for users, nor tracebacks of what is raised here as one error.
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    location = None
    with contextlib.ExitStack() as stack:
        if database := sqlite_file(uri):
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            private_home(home)
            private_file(database)
            require_database(database, "MLflow")
            location = (home / "mlflow" / "artifacts").as_uri()
            # Two stages that start together must not both make the tables of an empty database.
            stack.enter_context(filelock.FileLock(database.parent / "making-tables.lock"))
            if not database.stat().st_size:
                # MLflow's client would make an experiment in the current folder, whose path it puts into SQL as it is.
                SqlAlchemyStore(uri, location)
        client = MlflowClient(uri, uri)
        if found := client.get_experiment_by_name(experiment):
            if location and database == home / "mlflow" / "mlflow.db" and found.artifact_location != location:
                _move_artifacts(database, found.artifact_location, location)
            return client, found.experiment_id
        try:
            return client, client.create_experiment(experiment, artifact_location=location)
        except MlflowException:  # another machine made it between the two calls
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise
            return client, found.experiment_id


def _move_artifacts(database: Path, old: str, new: str) -> None:
    """Makes MLflow find the artifacts of a home that was moved or copied: it writes down their whole addresses."""
    tables = {
        "experiments": ("artifact_location",),
        "runs": ("artifact_uri",),
        "model_versions": ("source", "storage_location"),
    }
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table, columns in tables.items():
            for column in columns:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old), old),
                )


def _client(home: Path) -> tuple[Any, str]:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    return connect(home, tracking_uri(home), EXPERIMENT)


def start_pipeline_run(name: str, tags: dict[str, str], home: Path) -> str:
    """Opens the parent run of a pipeline run and returns its id, to be passed to the stages."""
    client, experiment = _client(home)
    return client.create_run(experiment, run_name=name, tags={"relume.kind": "pipeline", **tags}).info.run_id


def end_pipeline_run(run_id: str, home: Path, *, failed: bool) -> None:
    """Closes the parent run."""
    client, _ = _client(home)
    client.set_terminated(run_id, "FAILED" if failed else "FINISHED")


def tracking_errors() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store is broken, refuses or does not answer; the stage continues without it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, BrokenFileError, OSError


def first_line(error: Exception) -> str:
    """An error in one line: with the reason if it states one; its kind when it has no text."""
    if isinstance(error, RelumeError):
        return f"{error.what}: {error.why}"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The id of a run in MLflow, kept in a file for who resumes it."""

    run: str


class StageRun:
    """The MLflow run of one stage, as a context manager.

    Args:
        stage: The stage's name.
        params: Logged as parameters, nested names joined by dots.
        parent: Id of the run that it belongs to; by default that of the pipeline run, if there is one.
        tags: Further tags of the run.
        run: Id of a run to continue, if it still exists.
        record: File that keeps the run's id: while it exists, the next StageRun continues that run and its phases. The
            caller removes it when the stage is finished.
    """

    def __init__(
        self,
        stage: str,
        params: dict[str, Any],
        *,
        parent: str | None = None,
        tags: dict[str, str] | None = None,
        run: str | None = None,
        record: Path | None = None,
    ):
        self.stage, self.params = stage, params
        self._tags = {"relume.kind": "stage", "relume.stage": stage} | (tags or {})
        self._earlier, self._record = run, record
        self._parent = parent or os.environ.get("RELUME_TRACKING_RUN")
        self._run: str | None = None
        self._client: Any = None
        self._phases: dict[int, StageRun] = {}

    def __enter__(self) -> "StageRun":
        self._try(self._start)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for phase in self._phases.values():
            phase.__exit__(kind)
        if self._run:
            self._try(lambda: self._client.set_terminated(self._run, "FINISHED" if kind is None else "FAILED"))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Logs metrics by name at a training step, in one request."""
        if self._run:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            found = [Metric(name, value, now, step) for name, value in metrics.items()]
            self._try(lambda: self._client.log_batch(self._run, metrics=found))

    def log_files(self, folder: str | Path) -> None:
        """Logs a file or all files of a folder as artifacts."""
        if self._run:
            log = self._client.log_artifacts if Path(folder).is_dir() else self._client.log_artifact
            self._try(lambda: log(self._run, str(folder)))

    def log_text(self, name: str, text: str) -> None:
        """Logs a text as an artifact."""
        if self._run:
            self._try(lambda: self._client.log_text(self._run, text, name))

    def log_image(self, name: str, image: np.ndarray) -> None:
        """Logs an image, uint8 (H, W, 3), as an artifact."""
        if self._run:
            self._try(lambda: self._client.log_image(self._run, image, name))

    def phase(self, number: int, params: dict[str, Any]) -> "StageRun":
        """The run of one phase of this training, from 0; opened when it is first asked for."""
        if number not in self._phases and self._run:
            name = f"{self.stage} phase {number + 1}"
            tags = {"relume.kind": "phase", PHASE: str(number)}
            self._phases[number] = StageRun(name, params, parent=self._run, tags=tags).__enter__()
        return self._phases.get(number, self)

    def _start(self) -> None:
        from mlflow.entities import Param

        self._client, experiment = _client(relume_home())
        if self._parent:
            self._tags["mlflow.parentRunId"] = self._parent
        if self._record and self._record.is_file():
            try:
                self._earlier = read_as(RunRecord, self._record, next_step="none is needed").run
            except BrokenFileError as error:
                print(f"warning: {self.stage} gets a new run in MLflow: {error.where}: {error.why}", file=sys.stderr)
        if self._earlier and self._reopen(self._earlier):
            for run in self._client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{self._run}'"):
                if PHASE in run.data.tags:
                    phase = StageRun(run.info.run_name, {}, parent=self._run, tags=run.data.tags, run=run.info.run_id)
                    self._phases[int(run.data.tags[PHASE])] = phase.__enter__()
            return
        self._run = self._client.create_run(experiment, run_name=self.stage, tags=self._tags).info.run_id
        if self._record:
            write_json(self._record, {"run": self._run})
        flat = [Param(name, str(value)[:500]) for name, value in _flatten(self.params)]
        self._client.log_batch(self._run, params=flat)

    def _reopen(self, run: str) -> bool:
        """Continues an earlier run; False when the store has none of this id, or it was deleted there."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if found.info.lifecycle_stage != "active":
            return False
        self._client.update_run(run, status="RUNNING")
        if self._parent:  # the training may be resumed in another pipeline run
            self._client.set_tag(run, "mlflow.parentRunId", self._parent)
        self._run = run
        return True

    def _try(self, call: Any) -> None:
        try:
            call()
        except tracking_errors() as error:
            self._run = None
            said = first_line(error)
            print(
                f"warning: {self.stage} continues without tracking; the error of MLflow is: {said}",
                file=sys.stderr,
                flush=True,
            )


def _flatten(params: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in params.items():
        flat += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return flat
