"""A tiny curated folder of several sets."""

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from relume.training.patches import PatchShards

SIDE = 16


def write_mixed(folder, single, pairs):
    """Writes patches of noise, so many of each set; patch n has the sharpness n and the flat fraction
    n / 100, and two in a row are of one photograph."""
    rng = np.random.default_rng(0)
    if count := sum(single.values()):
        np.save(folder / "train-00000.npy", rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8))
    np.save(folder / "pairs-00000.npy", rng.integers(0, 256, (sum(pairs.values()), 2, SIDE, SIDE, 3), np.uint8))
    names = [name for name, count in (single | pairs).items() for _ in range(count)]
    columns = {"set": names, "sharpness": np.arange(len(names), dtype=float)}
    columns |= {"flat_fraction": columns["sharpness"] / 100, "image_id": [f"{n // 2:016x}" for n in range(len(names))]}
    parquet.write_table(pa.table(columns), folder / "patches.parquet")
    return PatchShards(folder)
