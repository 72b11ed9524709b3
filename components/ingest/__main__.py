"""python -m components.ingest: sources.json -> data/ingested."""

from components.step import run_component
from relume.counts import counted
from relume.files import atomic_folder
from relume.home import relume_home
from relume.ingestion.ingest import ingest
from relume.ingestion.settings import IngestSettings
from relume.ingestion.sources import read_sources
from relume.params_file import load_section
from relume.progress import Progress


def main() -> None:
    """Fills data/ingested and says what was quarantined."""
    params = load_section("ingest", IngestSettings)
    listing = read_sources("sources.json")
    with atomic_folder("data/ingested") as folder:
        cache = relume_home() / "cache" / "ingest"
        photographs, reasons = ingest(listing, folder, **dict(params), progress=Progress("ingest"), cache=cache)
    print(f"ingest: {counted(photographs, 'photograph')}")
    for reason, count in sorted(reasons.items()):
        print(f"ingest: {count} quarantined as {reason}; see data/ingested/quarantine.csv")
    if "missing_package" in reasons:
        print('  next: pip install --constraint constraints.txt "relume[formats,video]", then run it again')


run_component(main)
