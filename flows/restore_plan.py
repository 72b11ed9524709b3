"""What restoring will take, before it is done: the time by a measured tile, and the memory by the size of an image."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.restore import Opened, needed_memory, read_source
from flows.restore_files import Job, Record
from relume.errors import ImageError
from relume.images import Header, read_header


@dataclasses.dataclass(frozen=True)
class Planned:
    """What an image will take.

    Attributes:
        job: The image, and the file to write.
        header: Of the image; None when it cannot be read.
        tiles: That it is cut into.
        seconds: Predicted, of restoring alone; decoding and encoding go on beside it.
        bytes: Of memory, at most, beside what the model takes.
        problem: Why it will fail.
        done: Whether its result is there already.
    """

    job: Job
    header: Header | None = None
    tiles: int = 0
    seconds: float = 0.0
    bytes: int = 0
    problem: ImageError | None = None
    done: bool = False


def plan(jobs: Sequence[Job], opened: Opened, record: Record | None) -> list[Planned]:
    """What each image will take; restores a tile of noise to measure it, and writes nothing.

    Args:
        jobs: The images.
        opened: The restorer.
        record: Of what is done in the output folder; None for a single file.
    """
    from relume.inference.tiling import count_tiles

    measured: dict[Any, float] = {}
    planned = []
    for job in jobs:
        try:
            data = read_source(job.source)
            if record and record.holds(record.entry(job, data)):
                planned.append(Planned(job, done=True))
                continue
            header = read_header(data, where=job.source, full=True)
        except ImageError as error:
            planned.append(Planned(job, problem=error))
            continue
        dtype = np.uint8 if header.bit_depth <= 8 or np.uint16 not in opened.types else np.uint16
        inference = opened.plan_for(header.height, header.width)
        if (dtype, inference.tile) not in measured:
            side = min(inference.tile, max(header.height, header.width))
            measured[dtype, inference.tile] = _seconds_of_a_tile(opened, side, dtype)
        tiles = count_tiles(header.height, header.width, inference)
        seconds = tiles * measured[dtype, inference.tile] / len(inference.windows)  # each tile once in each window
        planned.append(Planned(job, header, tiles, seconds, needed_memory(header, job.target, inference)))
    return planned


def _seconds_of_a_tile(opened: Opened, side: int, dtype: Any) -> float:
    """Of the second run: the first one allocates."""
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(dtype)
    opened.restorer.restore(noise)
    started = time.perf_counter()
    opened.restorer.restore(noise)
    return time.perf_counter() - started
