"""Which level a picture is restored at, and what is said of it."""

import math

import pytest

from relume.errors import ConfigError, ModelFormatError
from relume.serving.levels import LevelRange, choose_level, level_kind

LEVELS = LevelRange(lowest=15, highest=75, default=45)


@pytest.mark.parametrize(("asked", "level"), [(None, 45), (0, 0), (20, 20), (255, 255)])
def test_the_asked_level_or_the_default(asked, level):
    """Without a wish it is the default; any level of [0, 255] is taken as it is, in or out of the trained range."""
    assert choose_level(asked, LEVELS, model="denoise-1") == level


@pytest.mark.parametrize("asked", [-1, 255.5, math.nan, math.inf])
def test_what_is_no_level(asked):
    """A number outside of [0, 255] is refused, with the range that the model was trained for."""
    with pytest.raises(ConfigError, match="15 to 75"):
        choose_level(asked, LEVELS, model="denoise-1")


def test_a_model_without_level():
    """It gets none, and a wish is refused with the model's name."""
    assert choose_level(None, None, model="denoise-1") is None
    with pytest.raises(ConfigError, match="takes no strength: denoise-1"):
        choose_level(25, None, model="denoise-1")


@pytest.mark.parametrize(("level", "outside"), [(14.9, True), (15, False), (75, False), (75.1, True)])
def test_what_it_was_not_trained_for_is_noted(level, outside):
    """The ends of the range belong to it; beyond them the note names level and range."""
    note = LEVELS.note(level)
    assert (note is not None) == outside
    if note:
        assert f"{level:g}" in note
        assert "15 to 75" in note


@pytest.mark.parametrize("values", [(75, 15, 45), (15, 75, 90), (-5, 75, 45), (15, 300, 45), (15, 75, math.nan)])
def test_impossible_ranges(values):
    """Levels out of order or outside of [0, 255] make no range."""
    lowest, highest, default = values
    with pytest.raises(ConfigError):
        LevelRange(lowest=lowest, highest=highest, default=default)


@pytest.mark.parametrize(
    ("trained_for", "kind"),
    [({}, "sigma"), ({"degradation": None}, "sigma"), ({"degradation": {"level": "scale"}}, "scale")],
)
def test_what_a_level_means(trained_for, kind):
    """What the card says; without a word it is sigma."""
    assert level_kind(trained_for) == kind


def test_a_level_that_means_nothing_known():
    """Is refused with what a level can mean."""
    with pytest.raises(ModelFormatError, match="sigma, quality, scale"):
        level_kind({"degradation": {"level": "blur"}})
