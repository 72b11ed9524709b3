"""Starts services of `relume up` again that ended by themselves or do not answer; each time later.

`relume status` says so.

It is a service itself: `python -m flows.platform.supervisor CHECKOUT HOME SERVICE...`; `up` starts it, `down` ends it.
"""

import contextlib
import dataclasses
import datetime
import os
import signal
import sys
import threading
import time
from pathlib import Path

from flows.embedded_triton import EmbeddedTriton
from flows.platform import services
from flows.prefect_settings import services_folder
from flows.processes import KILL_SECONDS, ProcessRecord, running_process
from relume.errors import BrokenFileError, RelumeError
from relume.files import write_json
from relume.reading import read_as

_FIRST, _LONGEST = 2.0, 300.0  # seconds from one start to the next
_STEADY = 600.0  # a service that ran as long counts as stable
_LOOK = 2.0
_SILENT = 180.0  # a living service that does not answer for as long counts as ended; starts may take 120
_ENDED, _NO_ANSWER = "ended", "did not answer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts:
    """The restarts of a service since `relume up`.

    Attributes:
        why: What had become of the service the last time.
        count: How often it was started again.
        last: The last time, in UTC.
        error: Why the last start failed; None when it did not.
    """

    why: str
    count: int
    last: str
    error: str | None

    def __str__(self) -> str:
        """What `relume status` says about it."""
        last = self.last[:16].replace("T", " ")
        if self.error:
            return f"{self.why} and cannot be started: {self.error} (tried {self.count} times, last {last} UTC)"
        return f"{self.why} and was started again: {self.count} times, last {last} UTC"


def restarts(home: Path) -> dict[str, Restarts]:
    """The restarts by service."""
    try:
        return read_as(dict[str, Restarts], _record(home), next_step="relume up")
    except BrokenFileError:
        return {}


def _process(home: Path, name: str) -> ProcessRecord | None:
    """The process of a service while it lives."""
    return running_process(EmbeddedTriton(home).folder if name == "triton" else services_folder(home), name)


class Supervisor:
    """Supervises some services of one home.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        names: The services.
        first: Seconds from the first restart of a service to the next one; doubled each time.
        silent: Seconds without an answer after which the process of a service is killed.
    """

    def __init__(self, root: Path, home: Path, names: list[str], *, first: float = _FIRST, silent: float = _SILENT):
        self._root, self._home, self._names, self._first, self._silent = root, home, names, first, silent
        self._found: dict[str, Restarts] = {}
        self._wait = dict.fromkeys(names, first)
        self._next = dict.fromkeys(names, 0.0)
        self._well_since: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}
        _record(home).unlink(missing_ok=True)

    def look(self) -> None:
        """Starts what does not run, or has not answered for long, and is due."""
        for name in self._names:
            now = time.monotonic()
            try:
                process = _process(self._home, name)
                silent = process is not None and not services.answering(self._home, name)
            except BrokenFileError:  # `relume status` says so; a second one beside it would do harm
                continue
            if process and not silent:
                self._silent_since.pop(name, None)
                if now - self._well_since.setdefault(name, now) > _STEADY:
                    self._wait[name] = self._first
                continue
            self._well_since.pop(name, None)
            if now < self._next[name] or (silent and now - self._silent_since.setdefault(name, now) < self._silent):
                continue
            if process:
                # Its record stays, by which its start knows its port and ends what it started.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                killed = time.monotonic()
                while _process(self._home, name) == process and time.monotonic() < killed + KILL_SECONDS:
                    time.sleep(0.05)
                self._silent_since.pop(name, None)
            wait = self._wait[name]
            self._next[name], self._wait[name] = now + wait, min(2 * wait, _LONGEST)
            report = services.start(self._root, self._home, name)
            if report.state != "running":  # another command may have started it meanwhile
                why = _NO_ANSWER if silent else _ENDED
                self._note(name, why, report.detail if report.state == "failed" else None, wait)

    def _note(self, name: str, why: str, error: str | None, wait: float) -> None:
        time_now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        count = self._found[name].count + 1 if name in self._found else 1
        self._found[name] = Restarts(why=why, count=count, last=time_now, error=error)
        write_json(_record(self._home), {each: dataclasses.asdict(found) for each, found in self._found.items()})
        outcome = f"cannot be started: {error}" if error else "was started again"
        again = f"; next try in {wait:.0f} s" if error else ""
        print(f"{time_now} {name} {why} and {outcome}{again}", flush=True)


def _record(home: Path) -> Path:
    return home / "restarts.json"


def main(root: str, home: str, *names: str) -> None:
    """Supervises services until it is ended."""
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    supervisor = Supervisor(Path(root), Path(home), list(names))
    print(f"supervises {', '.join(names)}", flush=True)
    while not end.wait(_LOOK):
        try:
            supervisor.look()
        except (RelumeError, OSError) as error:  # such as a full disk; the next look tries again
            with contextlib.suppress(OSError):
                print(error, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
