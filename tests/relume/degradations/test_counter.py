"""Random numbers by counters."""

import numpy as np

from relume.degradations import counter_rng


def test_numbers_depend_on_every_counter_and_on_nothing_else():
    """The same arguments give the same numbers; any other argument gives others."""
    first = counter_rng(7, "sample", 3, 4).random(4)
    assert np.array_equal(first, counter_rng(7, "sample", 3, 4).random(4))
    for other in [(8, "sample", 3, 4), (7, "order", 3, 4), (7, "sample", 4, 4), (7, "sample", 3, 5), (7, "sample", 3)]:
        assert not np.array_equal(first, counter_rng(*other).random(4))
