"""The split: by scene, stable when photographs are added, and never without training data."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from relume.curation.settings import CurateSettings
from relume.curation.split import SIDES, place
from relume.curation.split import split_scenes as divided
from relume.errors import SourceError

SETTINGS = {
    "seed": 3, "patch": 128, "stride": 96, "min_sharpness": 30, "max_noise_sigma": 12, "max_flat_fraction": 0.6,
    "patches_per_cluster": 4000, "clusters": 4, "validation_fraction": 0.12, "test_fraction": 0.2,
    "min_validation": 1, "min_test": 3, "held_out_side": 1024, "shard_megabytes": 256,
}  # fmt: skip


def settings(**changes):
    return CurateSettings(**{**SETTINGS, **changes})


def names(count, start=0):
    return {f"scene {number}": True for number in range(start, start + count)}


def split_scenes(scenes, limits):
    """The side of each scene, by name, of a dictionary that says which are in colour."""
    sides = divided(scenes, np.array(list(scenes.values()), bool), limits)
    return {name: SIDES[side] for name, side in zip(scenes, sides, strict=True)}


def held_out(sides):
    return {name: side for name, side in sides.items() if side != "train"}


def test_places_are_spread_evenly():
    """Among 20,000 names each tenth of the line holds a tenth, and another seed gives other places."""
    places = [place(f"scene {number}", 7) for number in range(20000)]
    for tenth in range(10):
        assert sum(tenth / 10 <= value < (tenth + 1) / 10 for value in places) == pytest.approx(2000, abs=200)
    assert place("scene 1", 7) != place("scene 1", 8)


def test_large_collections_follow_the_fractions():
    """Of 5,000 scenes about 20 percent test and 12 percent validate."""
    sides = list(split_scenes(names(5000), settings()).values())
    assert sides.count("test") == pytest.approx(1000, abs=90)
    assert sides.count("validation") == pytest.approx(600, abs=75)


def test_adding_photographs_moves_none_in_a_large_collection():
    """The sides of 500 scenes stay the same when 500 more come."""
    before, after = split_scenes(names(500), settings()), split_scenes(names(1000), settings())
    assert {name: after[name] for name in before} == before


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.booleans(), min_size=5, max_size=30), st.integers(0, 99))
def test_every_collection_keeps_its_minima(scenes, seed):
    """However few scenes there are above the minimum, at least 3 test, 1 validates and 1 trains."""
    sides = list(split_scenes(scenes, settings(seed=seed)).values())
    assert sides.count("test") >= 3
    assert sides.count("validation") >= 1
    assert sides.count("train") >= 1


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.booleans(), min_size=8, max_size=30), st.integers(0, 99))
def test_held_out_scenes_are_in_colour(scenes, seed):
    """With five colour scenes or more, gray ones only train, and one colour scene trains as well."""
    assume(sum(scenes.values()) >= 5)
    sides = split_scenes(scenes, settings(seed=seed))
    assert all(scenes[name] for name in held_out(sides))
    assert any(in_colour and sides[name] == "train" for name, in_colour in scenes.items())


def test_a_gray_collection_is_split_as_well():
    """Without colour, gray scenes are held out."""
    assert len(held_out(split_scenes(dict.fromkeys(names(10), False), settings()))) >= 4


def test_too_few_scenes_are_refused():
    """With 4 scenes, 3 to test and 1 to validate nothing is left to train on, and the message says what to do."""
    with pytest.raises(SourceError, match="4 scenes are left") as caught:
        split_scenes(names(4), settings())
    assert "add photographs" in caught.value.next_step


def test_fractions_must_leave_something():
    """Fractions that add up to all are refused when the settings are read."""
    with pytest.raises(ValueError, match="must stay below 1"):
        settings(test_fraction=0.5, validation_fraction=0.5)
