"""python -m tests.chaos: faults at random moments for some minutes; ends with 1 if one did harm.

The counts of all campaigns stand in docs/chaos.csv. A round's kind and moment follow from the seed and from how many
rounds of its kind there were, so that a campaign that was ended continues where it was. A round whose fault came too
late to hit anything does not count. Several campaigns may run at once, each of its own kinds.
"""

import argparse
import csv
import io
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from filelock import FileLock

from relume.files import write_text
from relume.interrupts import end_like_ctrl_c
from tests.chaos.faults import FAULTS
from tests.chaos.world import MissedError, NotHereError, World

TABLE = Path(__file__).parents[2] / "docs" / "chaos.csv"
PAGE = TABLE.with_name("reliability.md")  # ends with the same counts
HEAD = "| fault | tried | did harm |\n|---|--:|--:|\n"


def read_counts() -> dict[str, list[int]]:
    """By kind, how often it was tried and how often it did harm."""
    counts = {kind: [0, 0] for kind in FAULTS}
    if TABLE.is_file():
        with open(TABLE, newline="", encoding="utf-8") as file:
            rows = {row["fault"]: [int(row["tried"]), int(row["wrong"])] for row in csv.DictReader(file)}
            counts |= {kind: row for kind, row in rows.items() if kind in FAULTS}
    return counts


def write_counts(counts: dict[str, list[int]]) -> None:
    """Writes them to the table and to the end of the page, each whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("fault", "tried", "wrong"), *((kind, *numbers) for kind, numbers in counts.items())])
    write_text(TABLE, text.getvalue())
    rows = "".join(f"| {kind} | {tried} | {wrong} |\n" for kind, (tried, wrong) in counts.items())
    before = PAGE.read_text(encoding="utf-8").partition(HEAD)[0]
    write_text(PAGE, f"{before}{HEAD}{rows}")


def attempt(world: World, kind: str, seed: str) -> list[str]:
    """What is wrong after one fault; an exception is wrong, too.

    Raises:
        MissedError: The fault hit nothing.
        NotHereError: This machine lacks what it needs.
    """
    folder = Path(tempfile.mkdtemp(dir=world.folder))
    try:
        return list(FAULTS[kind](world, folder, random.Random(seed)))
    except (KeyboardInterrupt, MissedError, NotHereError):
        raise
    except Exception:
        return [traceback.format_exc()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def count(kind: str, wrong: list[str]) -> list[int]:
    """Adds a round to the table; gives how often its kind was tried and how often it did harm."""
    with FileLock(Path(tempfile.gettempdir()) / f"relume-chaos-{os.getuid()}.lock"):
        counts = read_counts()
        tried, harm = counts[kind]
        counts[kind] = [tried + 1, harm + bool(wrong)]
        write_counts(counts)
    return counts[kind]


def main() -> None:
    """Reads the command line and runs rounds, the kind that was tried least first."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="no round begins after that; 30 by default")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments")
    parser.add_argument("--only", nargs="+", default=list(FAULTS), metavar="KIND", help="kinds that are tried; all")
    parser.add_argument("--until", type=int, help="rounds of each kind, with those of earlier campaigns; no end")
    given = parser.parse_args()
    end_like_ctrl_c()  # so that the servers end with it
    end, kinds, harm, missed = time.monotonic() + 60 * given.minutes, list(given.only), 0, 0
    with tempfile.TemporaryDirectory(prefix="relume-chaos-") as folder, World(Path(folder)) as world:
        while time.monotonic() < end and kinds:
            counts = read_counts()
            kind = min(kinds, key=lambda each: counts[each][0])
            tried, _ = counts[kind]
            if given.until is not None and tried >= given.until:
                break
            seed, began = f"{given.seed} {kind} {tried} {missed}", time.monotonic()
            try:
                wrong = attempt(world, kind, seed)
            except NotHereError as error:
                kinds.remove(kind)
                print(f"{kind}: not tried, {error}", flush=True)
                continue
            except MissedError:
                missed += 1
                print(f"{kind}: missed", flush=True)
                continue
            tried, wrongs = count(kind, wrong)
            print(f"{kind}: {tried} tried, {wrongs} wrong, {time.monotonic() - began:.0f} s", flush=True)
            harm += bool(wrong)
            for sentence in wrong:
                print(f"  WRONG (seed {seed}) {sentence}", flush=True)
    sys.exit(bool(harm))


if __name__ == "__main__":
    main()
