"""python -m tests.abuse: every attack, and the table of docs/reliability.md; ends with 1 if one was wrong."""

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.abuse import disks, images, kills, packages, platform_files, requests
from tests.abuse.rows import Row, Setting, table

FAMILIES: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "files": platform_files.attack,
    "images": images.attack,
    "disks": disks.attack,
    "packages": packages.attack,
    "requests": requests.attack,
    "kills": kills.attack,
}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.abuse", description=__doc__)
    parser.add_argument("family", nargs="*", choices=[[], *FAMILIES], help="by default all")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--quick", action="store_true", help="the sample that make test takes")
    given = parser.parse_args()
    rows: list[Row] = []
    started = time.monotonic()
    for name in given.family or FAMILIES:
        with tempfile.TemporaryDirectory(prefix="relume-abuse-") as folder:
            for row in FAMILIES[name](Setting(folder=Path(folder), seed=given.seed, thorough=not given.quick)):
                rows.append(row)
                print(
                    f"{row.family}: {row.kind}: {row.tried} tried, {len(row.wrong)} wrong", file=sys.stderr, flush=True
                )
                for sentence in row.wrong:
                    print(f"  WRONG {sentence}", file=sys.stderr, flush=True)
    print(
        f"{table(rows)}\n\n`{' '.join(['make abuse', *given.family])}`, seed {given.seed}, {datetime.date.today()},"
        f" {(time.monotonic() - started) / 60:.1f} minutes."
    )
    sys.exit(any(row.wrong for row in rows))


if __name__ == "__main__":
    main()
