"""Real photographs for the tests of curation, and an ingested folder made of arrays."""

import importlib.util
from pathlib import Path

import numpy as np

from relume.images import read_image, save_image
from relume.ingestion.ingest import ingest
from relume.ingestion.sources import scan


def skimage_photograph(name: str) -> np.ndarray:
    """Pixels of a photograph that ships with scikit-image."""
    spec = importlib.util.find_spec("skimage")
    return read_image(Path(spec.submodule_search_locations[0], "data", name)).pixels


def ingest_arrays(pictures: dict[str, np.ndarray], folder: Path) -> Path:
    """Ingests arrays under the given file names; returns the ingested folder."""
    for name, pixels in pictures.items():
        save_image(folder / "photos" / name, pixels)
    (folder / "ingested").mkdir()
    limits = {"max_megapixels": 100.0, "min_side": 16, "shard_megabytes": 100.0}
    ingest(scan([folder / "photos"]), folder / "ingested", **limits, progress=lambda *counted: None)
    return folder / "ingested"
