"""The folder of results, which is replaced as a whole only when it contains nothing but an earlier result."""

from collections.abc import Iterable
from pathlib import Path

from relume.errors import ConfigError

ROWS, SUMMARY, PICTURES = "results.csv", "summary.json", "pictures"


def check_output(out: str | Path, *, needed: Iterable[str | Path] = ()) -> None:
    """Refuses an output whose replacement would delete anything but an earlier result.

    Args:
        out: Where the results go. It may be absent, an empty folder, or contain an earlier result and nothing else.
        needed: What is read: sets, models, data. They and the current folder must not be in `out`.

    Raises:
        ConfigError: `out` is or contains something else.
    """
    place = Path(out).resolve()
    for read in (".", *needed):
        if Path(read).resolve().is_relative_to(place):
            raise ConfigError(
                "The output folder contains what is read and would replace it",
                where=out,
                why=f"{'the current folder' if read == '.' else read} is inside it",
                next_step="choose a new folder, such as -o results",
            )
    if not place.exists():
        return
    held = {path.name for path in place.iterdir()} if place.is_dir() else {place.name}
    if place.is_dir() and (not held or {ROWS, SUMMARY} <= held <= {ROWS, SUMMARY, PICTURES}):
        return
    raise ConfigError(
        "The output exists and is not an earlier result, so it is not replaced",
        where=out,
        why=f"it contains {', '.join(sorted(held)[:5])}" if place.is_dir() else "it is a file",
        next_step="choose a new or an empty folder",
    )
