"""How far a work of many items is: one line rewritten on a terminal, else a plain line every ten seconds."""

import sys
import time
from typing import TextIO

from relume.durations import duration, time_left

LOG_SECONDS = 10.0


class Progress:
    """Prints how many of the items are done; call it as `progress("measured", done, total)`.

    Args:
        name: The stage or command.
        one_by_one: The items are done one after the other, so that the time of the first, or the first batch, tells
            that of all: it is said as a first estimate, where it is long enough for a log to have a line.
        file: Where it prints, by default standard output.
    """

    def __init__(self, name: str, *, one_by_one: bool = False, file: TextIO | None = None):
        self._name, self._file, self._estimates = name, file or sys.stdout, one_by_one
        self._terminal = self._file.isatty()
        self._started = self._printed = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now, last = time.monotonic(), done == total
        seconds = now - self._started
        if self._estimates and (whole := seconds / done * total) >= LOG_SECONDS:
            print(
                f"{self._name}  first estimate: about {duration(whole)} for {total} {what}", flush=True, file=self._file
            )
        self._estimates = False
        if not last and now - self._printed < (0.1 if self._terminal else LOG_SECONDS):
            return
        self._printed = now
        rate = f"  {done / seconds:.3g} a second" if seconds >= 1 else ""
        text = f"{self._name}  {done}/{total} {what}  {seconds:.0f} s{rate}  {time_left(seconds, done, total)}".rstrip()
        end = "\n" if last or not self._terminal else ""
        print(f"\r\x1b[K{text}" if self._terminal else text, end=end, flush=True, file=self._file)
