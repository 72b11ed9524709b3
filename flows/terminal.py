"""What a run prints while it runs: plain lines, one place, from any thread."""

import threading
from collections.abc import Callable

from flows.runners import StageResult


class RunPrinter:
    """Prints the progress of a run.

    Args:
        names: The stages, for the width of the first column.
        write: Takes one line; called by one thread at a time.
    """

    def __init__(self, names: list[str], write: Callable[[str], None] | None = None):
        self._width = max(map(len, names), default=0)
        self._write = write or (lambda line: print(line, flush=True))
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """Prints one line about the whole run."""
        with self._lock:
            self._write(line)

    def started(self, stage: str) -> None:
        """Says that a stage started."""
        self._row(stage, "started")

    def line(self, stage: str, line: str) -> None:
        """Passes on a line that a stage printed."""
        self._row(stage, f"| {line}")

    def finished(self, result: StageResult) -> None:
        """Says how a stage ended and how long it took."""
        how = "done" if result.outcome == "ran" else "cached"
        self._row(result.stage, f"{how:<8}{result.seconds:8.1f} s")

    def failed(self, stage: str, again: bool) -> None:
        """Says that a stage failed, and whether it is tried again; the error at the end of the run gives the reason."""
        self._row(stage, "failed, trying again" if again else "failed")

    def cancelled(self, stage: str) -> None:
        """Says that a stage was ended because the run was cancelled."""
        self._row(stage, "cancelled")

    def not_run(self, stage: str) -> None:
        """Says that a stage did not run because one before it failed."""
        self._row(stage, "not run")

    def _row(self, stage: str, text: str) -> None:
        self.say(f"  {stage:<{self._width}}  {text}")
