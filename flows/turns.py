"""Turns: one run at a time works in a checkout. Says which run has its turn and which wait, for `relume status`.

Two runs at once would write one dvc.lock, and a release would read a package that a run is replacing.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from flows.home_schema import open_home
from flows.processes import running_process, seconds_alive, start_mark
from relume.durations import duration
from relume.errors import RelumeError, UserError
from relume.files import write_json
from relume.reading import read_as

WAIT_SECONDS = 12 * 3600.0  # of a retraining for its turn; after that the next one of the schedule is not far
_SAY_SECONDS = 600.0
_LOOK_SECONDS = 1.0
RELEASE = "release"  # what is in progress beside the turns: a release, a rollback, or the repair of one


class RunInProgressError(UserError):
    """Another run has its turn in this checkout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activity:
    """A run that is in progress.

    Attributes:
        what: `pipeline`, `retrain`, `demo` or `release`.
        state: `running` or `waiting`.
        doing: Its stage or task, such as `pretrain@nafnet 3 min`, or what it waits for.
        seconds: How long it has been in this state.
        pid: Its process; None for a run that Prefect has planned and no worker has started.
    """

    what: str
    state: str
    doing: str
    seconds: float
    pid: int | None

    def __str__(self) -> str:
        return f"{self.what} of process {self.pid}, {duration(self.seconds)}{self.doing and f', {self.doing}'}"


@dataclasses.dataclass(frozen=True)
class _Said:
    """What a run says of itself in its file; `started` is the boot and start tick of its process."""

    what: str
    pid: int
    started: str
    state: str
    doing: str
    since: float
    run: str | None = None


class Turn:
    """The turn of this process's run, written to a file that `activities` reads."""

    def __init__(self, home: Path, what: str):
        self._path = home / "active" / f"{what}-{os.getpid()}.json"
        self._value = {"what": what, "pid": os.getpid(), "started": start_mark(os.getpid())}

    def waits(self, whom: str) -> None:
        """Records that it waits, and for which run."""
        self._write(state="waiting", doing=whom, since=self._value.get("since", _now()))

    def runs(self) -> None:
        """Records that it has its turn."""
        self._write(state="running", doing="", since=_now())

    def at(self, what: str, run: str | None = None) -> None:
        """Records its stage or task; for a pipeline run its name, from which its stages are known."""
        self._write(doing=what, run=run)

    def ends(self) -> None:
        """Removes the record."""
        self._path.unlink(missing_ok=True)

    def _write(self, **values: object) -> None:
        self._value |= values
        write_json(self._path, self._value)


@contextlib.contextmanager
def in_progress(home: Path, what: str) -> Iterator[Turn]:
    """Shows something that has no turn of its own to `relume status`."""
    this = Turn(home, what)
    try:
        this.runs()
        yield this
    finally:
        this.ends()


_held: dict[Path, Turn] = {}  # by home: a flow that this process runs within another one has its turn already


@contextlib.contextmanager
def turn(home: Path, root: Path, what: str, *, wait: float = 0.0, say: Callable[[str], None] = print) -> Iterator[Turn]:
    """Holds the checkout for one run.

    Args:
        home: RELUME_HOME.
        root: The checkout, for the message.
        what: The kind of run.
        wait: Seconds to wait for the runs in progress.
        say: Is given a line when it has to wait, and again every ten minutes.

    Raises:
        RunInProgressError: Another run has its turn and did not end in time.
    """
    home = home.resolve()
    if held := _held.get(home):
        yield held
        return
    open_home(home)
    lock = filelock.FileLock(home / "runs" / "driver.lock", thread_local=False)
    (home / "runs").mkdir(parents=True, exist_ok=True)
    this = Turn(home, what)
    try:
        _acquire(lock, this, home, root, wait, say)
        try:
            this.runs()
            _held[home] = this
            yield this
        finally:
            _held.pop(home, None)
            lock.release()
    finally:
        this.ends()


def _acquire(
    lock: filelock.BaseFileLock, this: Turn, home: Path, root: Path, wait: float, say: Callable[[str], None]
) -> None:
    end, said = time.monotonic() + wait, -_SAY_SECONDS
    while True:
        try:
            lock.acquire(timeout=0)
            activities(home)  # which removes the records of killed runs
            return
        except filelock.Timeout:
            running = (str(run) for run in activities(home) if run.state == "running" and run.what != RELEASE)
            other = next(running, "a run that began just now")
        now = time.monotonic()
        if now >= end:
            raise RunInProgressError(
                "Another run is in progress in this checkout",
                where=root,
                why=other,
                next_step="wait until it ends (see `relume status`), or end it, then try again",
            )
        if now - said >= _SAY_SECONDS:
            said = now
            this.waits(f"for the {other.partition(',')[0]}")
            say(f"waiting for the {other}; for {duration(end - now)} at most")
        time.sleep(min(_LOOK_SECONDS, end - now))


def activities(home: Path) -> list[Activity]:
    """The runs in progress or waiting, the longest first; records of killed processes are left out."""
    found = []
    for path in (home / "active").glob("[!.]*.json"):
        try:
            said = read_as(_Said, path, next_step="none is needed")
            if start_mark(said.pid) != said.started:
                path.unlink(missing_ok=True)
                continue
            stages = _stages(home / "runs" / said.run) if said.run else ""
        except (OSError, RelumeError):  # it ended while it was read, or is broken
            continue
        found.append(
            Activity(
                what=said.what, state=said.state, doing=stages or said.doing, seconds=_now() - said.since, pid=said.pid
            )
        )
    return sorted(found, key=lambda activity: -activity.seconds)


def _stages(run: Path) -> str:
    """The stages of a run whose processes live, each with its age."""
    names = sorted(record.parent.name for record in run.glob("*/process.json"))
    living = ((name, running_process(run / name, "process")) for name in names)
    return ", ".join(f"{name} {duration(seconds_alive(record.pid))}" for name, record in living if record)


def _now() -> float:
    """Seconds since the machine started, which no step of the clock changes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
