"""What `relume restore` says while it works, on standard error."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from relume.durations import time_left
from relume.progress import LOG_SECONDS


class RestoreProgress:
    """How far many images are: one line rewritten on a terminal, else a plain line every ten seconds.

    The time left goes by the sizes of the files, which are known without opening them; those that were done before
    take no time.

    Args:
        sources: The images, in their order.
    """

    def __init__(self, sources: Sequence[Path]):
        self._bytes = [_size(source) for source in sources]
        self._terminal = sys.stderr.isatty()
        self._started = self._printed = time.monotonic()
        self._left, self._done, self.megapixels = sum(self._bytes), 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def __call__(self, number: int, share: float, megapixels: float) -> None:
        """Says how far the image of this number is, which has so many megapixels."""
        now = time.monotonic()
        if now - self._printed < (0.1 if self._terminal else LOG_SECONDS):
            return
        self._printed = now
        done = self._done + share * self._bytes[number]
        left = time_left(self.seconds, round(done), round(self._done + self._left))
        which = f"image {number + 1}/{len(self._bytes)}  " if len(self._bytes) > 1 else ""
        text = f"{which}{share:.0%}  {speed(self.megapixels + share * megapixels, self.seconds)}  {left}".rstrip()
        start, end = ("\r\x1b[K", "") if self._terminal else ("", "\n")
        print(f"{start}{text}", end=end, flush=True, file=sys.stderr)

    def ended(self, number: int, *, megapixels: float, skipped: bool = False) -> None:
        """Counts an image that is restored, failed or was done before, and clears the line."""
        self._left -= self._bytes[number]
        self._done += 0 if skipped else self._bytes[number]
        self.megapixels += megapixels
        if self._terminal:
            print("\r\x1b[K", end="", flush=True, file=sys.stderr)


def speed(megapixels: float, seconds: float) -> str:
    """Such as `2.6 megapixels/s`."""
    return f"{megapixels / max(seconds, 1e-3):.1f} megapixels/s"


def _size(source: Path) -> int:
    try:
        return max(1, os.path.getsize(source))
    except OSError:  # its own error is said when its turn comes
        return 1
