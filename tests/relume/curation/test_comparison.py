"""Two versions of curated data compared."""

import numpy as np
import pytest

from relume.curation.comparison import CuratedTables, compare, quantiles


def tables(sides, patches=5, **scores):
    """A version whose photographs lie at addresses like their ids."""
    return CuratedTables(
        addresses={name: f"file:///{name}.png" for name in sides},
        sides=sides,
        sets={"photographs": len(sides)},
        patches=patches,
        scores={name: np.sort(np.array(values, float)) for name, values in scores.items()},
    )


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [([1, 2, 3], [2, 3, 4], 1 / 3), ([1, 1, 2], [1, 2, 2, 2], 2 / 3 - 1 / 4), ([1, 2], [3], 1), ([3, 4], [3, 4], 0)],
)
def test_the_distance_is_the_largest_one_of_the_distribution_functions(before, after, distance):
    """Of few values with ties, counted by hand."""
    change = compare(tables({}, niqe=before), tables({}, niqe=after))
    assert change.shifts["niqe"].distance == pytest.approx(distance, abs=1e-12)


def test_a_change_names_what_was_added_removed_and_moved():
    """Photographs are compared by their ids; counts are given by side, by reason and of patches."""
    before = tables({"a": "train", "b": "test", "c": "blurred", "d": "train"}, patches=7, niqe=[1, 2, 3])
    after = tables({"a": "train", "b": "train", "c": "blurred", "e": "validation"}, niqe=[2, 3, 4], blur=[1])
    change = compare(before, after)
    assert change.added == ("file:///e.png",)
    assert change.removed == ("file:///d.png",)
    assert change.moved == (("file:///b.png", "test", "train"),)
    expected = {"train": (2, 2), "test": (1, 0), "validation": (0, 1), "blurred": (1, 1), "patches": (7, 5)}
    assert change.counts == expected
    assert list(change.shifts) == ["niqe"]
    assert change.shifts["niqe"].before == quantiles(np.array([1.0, 2, 3]))
    assert change


def test_equal_versions_have_no_change():
    """Of a version and itself every list is empty and every distance 0."""
    same = tables({"a": "train", "b": "noisy"}, niqe=[1, 2])
    change = compare(same, same)
    assert not change
    assert change.shifts["niqe"].distance == 0
