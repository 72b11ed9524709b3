"""How far a stage is: one line rewritten on a terminal, else a plain line every ten seconds."""

import sys
import time

from relume.durations import time_left

LOG_SECONDS = 10.0


class Progress:
    """Prints how many of a stage's items are done; call it as `progress("measured", done, total)`.

    Args:
        name: The stage.
    """

    def __init__(self, name: str):
        self._name, self._terminal = name, sys.stdout.isatty()
        self._started = self._printed = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now, last = time.monotonic(), done == total
        if not last and now - self._printed < (0.1 if self._terminal else LOG_SECONDS):
            return
        self._printed = now
        seconds = now - self._started
        text = f"{self._name}  {done}/{total} {what}  {seconds:.0f} s  {time_left(seconds, done, total)}".rstrip()
        print(f"\r\x1b[K{text}" if self._terminal else text, end="\n" if last or not self._terminal else "", flush=True)
