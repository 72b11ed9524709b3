"""Both sides of the pairs as a table to be checked, read anew from what `ingest` and `curate` wrote."""

from pathlib import Path
from typing import Any

import numpy as np

from relume.images import read_image
from relume.ingestion.ingest import read_photographs
from relume.reading import reading

COLUMNS = ["image_id", "set", "split", "width", "height", "degraded_width", "degraded_height"]
COLUMNS += ["difference", "deviation"]


def pair_table(ingested: str | Path, curated: str | Path, images: Any, patches: Any) -> Any:
    """One row for each pair that is on a side.

    Args:
        ingested: The ingested folder.
        curated: The curated folder.
        images: The frame of images.csv.
        patches: That of patches.parquet.

    Returns:
        A frame of `COLUMNS`: the sizes of both ingested images, and of what a training or a test sees of the pair, its
        first patch or its held-out images, the mean absolute `difference` of both sides and the standard `deviation`
        of the degraded one, on 0 to 255; without a value where a training pair gave no patch.
    """
    import pandas as pd

    curated, sides = Path(curated), images.set_index("image_id")["split"]
    firsts = patches.drop_duplicates("image_id").set_index("image_id")
    rows = []
    for photograph, clean, degraded in read_photographs(ingested):
        name = photograph.image_id
        split = sides.get(name, "rejected")
        if degraded is None or split == "rejected":
            continue
        row = [name, photograph.set, split, *clean.width_and_height(), *degraded.width_and_height()]
        if split != "train":
            folder = curated / "held_out" / split
            both = [read_image(folder / part / f"{name}.png").pixels for part in ("degraded", ".")]
        elif name in firsts.index:
            both = list(_patch(curated / firsts.at[name, "shard"], firsts.at[name, "row"]))
        else:
            both = []
        difference, deviation = np.nan, np.nan
        if both and both[0].shape == both[1].shape:
            first, second = (side.astype(np.float32) for side in both)
            difference, deviation = float(np.abs(first - second).mean()), float(first.std())
        rows.append([*row, difference, deviation])
    return pd.DataFrame(rows, columns=COLUMNS)


def _patch(shard: Path, row: int) -> Any:
    with reading(shard, next_step="run `dvc repro --force curate`"):
        return np.load(shard, mmap_mode="r")[row]
