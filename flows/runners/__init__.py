"""Where a stage runs. A runner runs stages of one run and returns their dvc.lock entries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from flows.graph import Stage, Store
from relume.errors import StageFailedError, UserError


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the graph, the same for all of its stages.

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

    def stage_folder(self, stage: Stage) -> Path:
        """Where a stage keeps its clone, `<run>/<stage>`."""
        return self.folder / stage.name

    def log(self, stage: Stage) -> Path:
        """The file that all output of a stage goes to."""
        return self.folder / f"{stage.name}.log"


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a stage.

    Args:
        stage: Name of the stage.
        outcome: `ran`, or `cached` when DVC had its outs already.
        seconds: Wall time from the moment that the stage had its cores, the runner's own work included.
        entry: The stage's dvc.lock entry, as `flows.lock.entry_of` gives it.
        image: Hash of the container image that it ran in, if it did.
    """

    stage: str
    outcome: Literal["ran", "cached"]
    seconds: float
    entry: str
    image: str | None = None


class Runner(Protocol):
    """Runs the stages of one run, several at once when it is called from several threads."""

    def check(self, stages: list[Stage]) -> dict[str, str]:
        """Refuses stages that could not start, before any of them does.

        Args:
            stages: All stages of the run.

        Returns:
            The hash of each container image that they run in, by its name.

        Raises:
            UserError: Something that one of them needs is missing; says how to get it.
        """

    def run(self, stage: Stage, lock: str) -> StageResult:
        """Runs one stage to its end.

        Args:
            stage: The stage.
            lock: Text of the dvc.lock it starts from, which holds the entries of all stages it reads from.

        Raises:
            StageFailedError: The stage ended with an error, ran out of time or was cancelled.
        """

    def cancel(self) -> None:
        """Ends all stages that are running, and refuses new ones."""


class StageCancelledError(StageFailedError):
    """The run was ended while the stage was running or before it started."""


def out_of_memory(stage: Stage, output: str) -> StageFailedError:
    """The error of a stage that reached its memory limit; trying again would not help.

    Args:
        stage: The stage.
        output: The last lines that it printed.
    """
    return StageFailedError(
        "The stage ran out of memory",
        exit_code=UserError.exit_code,
        where=stage.name,
        why=f"it needs more than {stage.meta['memory']}; {output}",
        next_step=f"raise meta.memory of {stage.name.partition('@')[0]} in dvc.yaml, then run `relume pipeline run`",
    )
