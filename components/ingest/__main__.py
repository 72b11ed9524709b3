"""python -m components.ingest: sources.json -> data/ingested."""

from pydantic import Field

from components.progress import Progress
from components.step import load_params, run_step
from relume.files import atomic_folder
from relume.ingestion.ingest import ingest
from relume.ingestion.sources import read_sources
from relume.settings import Settings


class IngestParams(Settings):
    """The section `ingest` of params.yaml; see `relume.ingestion.ingest.ingest`."""

    max_megapixels: float = Field(gt=0)
    min_side: int = Field(ge=1)
    shard_megabytes: float = Field(gt=0)


def main() -> None:
    """Fills data/ingested and says what was quarantined."""
    params = load_params("ingest", IngestParams)
    listing = read_sources("sources.json")
    with atomic_folder("data/ingested") as folder:
        photographs, reasons = ingest(listing, folder, **params.model_dump(), progress=Progress("ingest"))
    print(f"ingest: {photographs} photographs")
    for reason, count in sorted(reasons.items()):
        print(f"ingest: {count} quarantined as {reason}; see data/ingested/quarantine.csv")


run_step(main)
