"""python -m components.curate: data/ingested -> data/curated."""

from components.step import run_component
from relume.curation.curate import curate
from relume.curation.settings import CurateSettings
from relume.files import atomic_folder
from relume.params_file import load_section
from relume.progress import Progress


def main() -> None:
    """Fills data/curated and says how many photographs went where."""
    settings = load_section("curate", CurateSettings)
    with atomic_folder("data/curated") as folder:
        counts = curate("data/ingested", folder, settings, progress=Progress("curate"))
    print("curate: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


run_component(main)
