"""Where a stage runs. A runner takes one step of a run and gives back its dvc.lock entry."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from flows.graph import Stage, Store
from relume.errors import StageFailedError


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the graph, the same for all of its steps.

    Args:
        name: Name of the run; its ref is refs/relume/runs/<name>, its folder RELUME_HOME/runs/<name>.
        root: The checkout of the driver.
        commit: Full hash of the run's commit.
        store: DVC's cache and default remote of the driver.
        home: RELUME_HOME.
    """

    name: str
    root: Path
    commit: str
    store: Store
    home: Path

    @property
    def folder(self) -> Path:
        """Where the run keeps its clones and logs."""
        return self.home / "runs" / self.name


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage to run.

    Args:
        run: The run it belongs to.
        stage: The stage.
        lock: Text of the dvc.lock it starts from, which holds the entries of all stages it reads from.
    """

    run: Run
    stage: Stage
    lock: str

    @property
    def folder(self) -> Path:
        """Where the step keeps its clone, `<run>/<stage>`."""
        return self.run.folder / self.stage.name

    @property
    def log(self) -> Path:
        """The file that all it prints goes to."""
        return self.run.folder / f"{self.stage.name}.log"


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step came to.

    Args:
        stage: Name of the stage.
        outcome: `ran`, or `cached` when DVC had its outs already.
        seconds: Wall time of the step, the runner's own work included, waiting for a free core not.
        entry: The stage's dvc.lock entry, as `flows.lock.entry_of` gives it.
    """

    stage: str
    outcome: Literal["ran", "cached"]
    seconds: float
    entry: str


class Runner(Protocol):
    """Runs steps, several at once when it is called from several threads."""

    def run(self, step: Step) -> StepResult:
        """Runs one step to its end.

        Raises:
            StepFailed: The stage ended with an error, ran out of time or was cancelled.
        """

    def cancel(self) -> None:
        """Ends all steps that are running, and refuses new ones."""


class StepFailed(StageFailedError):
    """A step ended without a result.

    Args:
        exit_code: The stage's own when it says that trying again is of no use (see `relume.errors`), else 1.
        **details: As for every error.
    """

    def __init__(self, what: str, *, exit_code: int = 1, **details: Any):
        self.exit_code = exit_code
        super().__init__(what, **details)


class StepCancelled(StepFailed):
    """The run was ended while the step was running or before it started."""
