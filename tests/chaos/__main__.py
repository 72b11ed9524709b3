"""python -m tests.chaos: faults at random moments for some minutes; ends with 1 if one did harm.

The counts of all campaigns stand in docs/chaos.csv. A round's kind and moment follow from the seed and from how many
rounds of its kind there were, so that a campaign that was ended continues where it was.
"""

import argparse
import csv
import io
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from relume.files import write_text
from tests.chaos.faults import FAULTS, World

TABLE = Path(__file__).parents[2] / "docs" / "chaos.csv"
PAGE = TABLE.with_name("reliability.md")  # ends with the same counts
HEAD = "| fault | tried | did harm |\n|---|--:|--:|\n"


def read_counts() -> dict[str, list[int]]:
    """By kind, how often it was tried and how often it did harm."""
    counts = {kind: [0, 0] for kind in FAULTS}
    if TABLE.is_file():
        with open(TABLE, newline="", encoding="utf-8") as file:
            counts |= {row["fault"]: [int(row["tried"]), int(row["wrong"])] for row in csv.DictReader(file)}
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
    """What is wrong after one fault; an exception is wrong, too."""
    folder = Path(tempfile.mkdtemp(dir=world.folder))
    try:
        return list(FAULTS[kind](world, folder, random.Random(seed)))
    except Exception:
        return [traceback.format_exc()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Reads the command line and runs rounds, the kind that was tried least first."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="no round begins after that; 30 by default")
    parser.add_argument("--seed", type=int, default=0, help="of kinds and moments")
    given = parser.parse_args()
    end, counts, harm = time.monotonic() + 60 * given.minutes, read_counts(), 0
    with tempfile.TemporaryDirectory(prefix="relume-chaos-") as folder:
        world = World(Path(folder))
        while time.monotonic() < end:
            kind = min(FAULTS, key=lambda each: counts[each][0])
            tried, _ = counts[kind]
            wrong = attempt(world, kind, f"{given.seed} {kind} {tried}")
            counts[kind] = [tried + 1, counts[kind][1] + bool(wrong)]
            harm += bool(wrong)
            write_counts(counts)
            print(f"{kind}: {tried + 1} tried, {counts[kind][1]} wrong", flush=True)
            for sentence in wrong:
                print(f"  WRONG (seed {given.seed}, round {tried}) {sentence}", flush=True)
    sys.exit(bool(harm))


if __name__ == "__main__":
    main()
