"""Random numbers by counters: sample n is the same on any machine, in any order, after any restart."""

import numpy as np

# Streams keep the random numbers of different uses apart under one seed.
STREAMS = {"order": 0, "sample": 1, "validation": 2, "evaluation": 3, "mining": 4, "variant": 5, "sets": 6, "select": 7}


def counter_rng(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments.

    Args:
        seed: The run's seed.
        stream: What the numbers are for, a key of `STREAMS`.
        counters: Non-negative integers such as the sample's number.
    """
    return np.random.default_rng((seed, STREAMS[stream], *counters))
