"""Where two restorations differ most."""

import numpy as np
import pytest

from relume.monitoring.disagreement import Disagreement, largest_disagreement


def test_the_tile_with_the_largest_difference_is_found():
    """Its place and the root mean square of the difference are those that were put there; what is over at the borders
    is in no tile."""
    one = np.random.default_rng(5).integers(0, 200, (70, 100, 3), np.uint8)
    other = one.copy()
    other[40:, 64:96] += 3
    other[:32, :32] += 2
    other[:, 96:] += 50
    found = largest_disagreement(one, other, side=32)
    assert found == Disagreement(top=32, left=64, levels=pytest.approx(3 * (24 / 32) ** 0.5))


def test_an_image_that_is_smaller_than_a_tile_has_none():
    """It is not made larger."""
    assert largest_disagreement(*np.zeros((2, 31, 90, 3), np.uint8), side=32) is None
