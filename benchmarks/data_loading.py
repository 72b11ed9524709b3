"""Training samples per second and core: several degradations, from local shards and streamed from S3.

    python -m benchmarks.data_loading --results benchmarks/results/data_loading.json
    python -m benchmarks.data_loading --rounds 1 --seconds 0.2

One process makes batches of eight with one thread, as each worker of a training does, for some seconds a turn; cases
take turns, and the figure is the median over the rounds. From S3, a SeaweedFS on this machine, patches of 128 pixels
(256 for the largest crops) come over loopback, none of them or all kept on local disk from an earlier epoch; server
and reader share the machine. `cpu` counts the reader's processor time alone; `wall` is what one worker delivers.
Many cores: workers share nothing but memory, so a machine of 16 cores can prepare up to 16 times one core's figure,
which is an extrapolation and no measurement.
"""

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import skimage.data
import torch

from relume.degradations import Degradation
from relume.files import write_json
from relume.serving.backends import processor
from relume.training.augmentation import Augmentation
from relume.training.batches import TrainingCrops
from relume.training.patches import Patches, PatchShards
from relume.training.streaming import open_streamed, upload

BATCH = 8
SIZES = (64, 128, 256)
AWGN = {"kind": "gaussian_noise", "sigma": [0, 55], "clipped": 0.5}
JPEG = {"kind": "jpeg", "quality": [10, 90]}
RAIN = {"kind": "rain", "density": [0.0, 0.05], "length": [5, 20], "angle": [-30, 30], "width": [0.5, 1.0]}
HAZE = {"kind": "haze", "beta": [0.6, 1.8], "airlight": [0.7, 1.0]}
MOTION = {"kind": "motion_blur", "size": 15, "length": [3, 12]}
CAMERA = {"kind": "camera_noise", "electrons": [100, 10000], "read_noise": [1, 5]}
DEGRADATIONS: dict[str, list[dict[str, Any]]] = {
    "AWGN": [AWGN],
    "JPEG": [JPEG],
    "all-in-one (AWGN, JPEG, rain, haze, motion blur)": [
        {"kind": "one_of", "of": [[AWGN], [JPEG], [RAIN], [HAZE], [MOTION]]}
    ],
    "camera noise": [CAMERA],
}


def make_shards(folder: Path, *, side: int, count: int) -> None:
    """Writes one shard of crops of the photographs that scikit-image brings along."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    rng, patches = np.random.default_rng(0), []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top, left = (int(rng.integers(length - side + 1)) for length in photograph.shape[:2])
        patches.append(photograph[top : top + side, left : left + side])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "train-00000.npy", np.stack(patches))


def conditions(threads: int, rounds: int) -> dict[str, Any]:
    """What every result is stored with."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": processor(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "threads": threads,
        "rounds": rounds,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def reader(patches: Patches, size: int, steps: list[dict[str, Any]]) -> Callable[[], None]:
    """Makes the next batch each time it is called."""
    crops, degradation = TrainingCrops(patches, seed=7), Degradation.model_validate({"steps": steps})
    number = 0

    def batch() -> None:
        nonlocal number
        crops.batch(range(number, number + BATCH), size, degradation, Augmentation())
        number += BATCH

    return batch


def rates(batch: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Samples per second of wall and of processor time."""
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while not count or time.perf_counter() - wall < seconds:
        batch()
        count += BATCH
    return count / (time.perf_counter() - wall), count / (time.process_time() - cpu)


@contextlib.contextmanager
def sources(folder: Path) -> Iterator[dict[tuple[str, int], Patches]]:
    """The patches by where they come from and by the size of the crops."""
    from tests.real.object_store import object_store

    found: dict[tuple[str, int], Patches] = {}
    with object_store(folder / "s3", "curated") as store:
        os.environ |= store.environment
        for side in (128, 256):
            make_shards(folder / f"{side}", side=side, count=512)
            address = f"s3://curated/{side}"
            upload(folder / f"{side}", address, progress=lambda *_: None)
            streamed = open_streamed(address)
            kept = streamed.patches(folder / f"kept{side}", 1e4)
            kept.read(range(512))
            for size in [size for size in SIZES if (size > 128) == (side > 128)]:
                found["local", size] = PatchShards(folder / f"{side}")
                found["S3, none kept", size] = streamed.patches(folder / f"none{side}", 0)
                found["S3, all kept", size] = kept
        yield found


def main() -> None:
    """Runs the cases, prints the table, and writes it with date, hardware and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a case's turn")
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as folder:
        (Path(folder) / "s3").mkdir()
        with sources(Path(folder)) as patches:
            cases = {
                (name, source, size): reader(patches[source, size], size, steps)
                for name, steps in DEGRADATIONS.items()
                for source, size in patches
            }
            for batch in cases.values():
                batch()
            found: dict[tuple[str, str, int], list[tuple[float, float]]] = {case: [] for case in cases}
            for number in range(options.rounds):
                for case in list(cases) if number % 2 else reversed(list(cases)):
                    found[case].append(rates(cases[case], options.seconds))
    rows = {}
    for (name, source, size), pairs in found.items():
        wall, cpu = (statistics.median(values) for values in zip(*pairs, strict=True))
        rows[f"{name}, patch {size}, {source}"] = {
            "wall_samples_per_second": round(wall),
            "cpu_samples_per_second": round(cpu),
            "sixteen_cores_if_linear": round(16 * cpu),
        }
        print(f"{name:50} patch {size:3}  {source:14} {wall:7.0f}/s  {cpu:7.0f} a core second")
    if options.results:
        facts = {"boto3": boto3.__version__, "numpy": np.__version__, "batch": BATCH}
        write_json(options.results, {"cases": rows, **conditions(1, options.rounds), **facts})


if __name__ == "__main__":
    main()
