"""The search for near duplicates among a million hashes.

    python -m benchmarks.curation --results benchmarks/results/curation.json

One thread. The hashes are random, and 1,000 of them turned copies that differ by up to five bits.
"""

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_loading import conditions
from relume.curation.hashes import RADIUS, near_pairs, orientations
from relume.files import write_json

PLANTED = 1000


def near_duplicates(count: int) -> dict[str, Any]:
    """Seconds, memory and what was found among so many hashes."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 63, count, dtype=np.uint64) << np.uint64(1)
    for number in range(PLANTED):
        copy = orientations(hashes[number : number + 1])[rng.integers(8), 0]
        for bit in rng.choice(np.arange(1, 64), rng.integers(RADIUS + 1), replace=False):
            copy ^= np.uint64(1) << np.uint64(bit)
        hashes[count - PLANTED + number] = copy
    start, processor_start = time.perf_counter(), time.process_time()
    pairs = near_pairs(hashes)
    return {
        "hashes": count,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - processor_start, 1),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "planted_found": int((pairs[:, 1] - pairs[:, 0] == count - PLANTED).sum()),
        "pairs": len(pairs),
    }


def main() -> None:
    """Runs it, prints the figures, and writes them with date, hardware and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    found = near_duplicates(options.hashes)
    print(found)
    if options.results:
        write_json(options.results, {"near_duplicates": found, **conditions(1, 1), "numpy": np.__version__})


if __name__ == "__main__":
    main()
