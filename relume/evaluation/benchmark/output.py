"""The folder of results, which is replaced as a whole: only one that holds nothing else may be."""

from collections.abc import Iterable
from pathlib import Path

from relume.errors import ConfigError

ROWS, SUMMARY, PICTURES = "results.csv", "summary.json", "pictures"


def check_output(out: str | Path, *, needed: Iterable[str | Path] = ()) -> None:
    """Refuses an output whose replacement would delete what is no earlier result.

    Args:
        out: Where the results go. It may be absent, an empty folder, or hold an earlier result and nothing else.
        needed: What is read: sets, models, data. They and the current folder may not lie in `out`.

    Raises:
        ConfigError: `out` holds or is something else.
    """
    place = Path(out).resolve()
    for read in (".", *needed):
        if Path(read).resolve().is_relative_to(place):
            raise ConfigError(
                "The output would replace what is read",
                where=out,
                why=f"{'the current folder' if read == '.' else read} lies there",
                next_step="name a new folder, such as -o results",
            )
    if not place.exists():
        return
    held = {path.name for path in place.iterdir()} if place.is_dir() else {place.name}
    if place.is_dir() and (not held or {ROWS, SUMMARY} <= held <= {ROWS, SUMMARY, PICTURES}):
        return
    raise ConfigError(
        "The output is neither new nor an earlier result, and would be deleted",
        where=out,
        why=f"it holds {', '.join(sorted(held)[:5])}" if place.is_dir() else "it is a file",
        next_step="name a new or an empty folder",
    )
