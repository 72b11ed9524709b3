"""python -m components.curate: data/ingested -> data/curated."""

from pathlib import Path
from urllib.parse import unquote

from components.step import run_component
from relume.curation.curate import curate
from relume.curation.settings import CurateSettings
from relume.files import atomic_folder
from relume.home import relume_home
from relume.params_file import load_section
from relume.progress import Progress
from relume.reading import read_table

MANY = 0.2  # of the photographs, set aside: worth a look at the limits


def main() -> None:
    """Fills data/curated and says how many photographs went where."""
    settings = load_section("curate", CurateSettings)
    with atomic_folder("data/curated") as folder:
        cache = relume_home() / "cache" / "curate"
        counts = curate("data/ingested", folder, settings, progress=Progress("curate"), cache=cache)
    print("curate: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    images = read_table(Path("data/curated/images.csv"), {"address": str, "reason": str}, next_step="run it again")
    aside = [(row["reason"], unquote(row["address"]).rpartition("/")[2]) for row in images if row["reason"]]
    for reason in sorted({reason for reason, _ in aside}):
        names = [name for why, name in aside if why == reason]
        print(f"  {reason:<20} {len(names):>5}  such as {', '.join(names[:3])}")
    if len(aside) > MANY * len(images):
        print(
            f"warning: {len(aside)} of {len(images)} photographs were set aside; if they are good, change the limits in"
            " the section curate of params.yaml\n  next: look at data/curated/images.csv, or run `relume report`"
        )


run_component(main)
