"""Which level an image is restored at, and what is said of it."""

import math
import subprocess
import sys

import pytest

from relume.errors import ConfigError, ModelFormatError
from relume.serving.levels import KINDS, LevelRange, choose_level, kind_of, level_for

LEVELS = LevelRange(kind="sigma", lowest=15, highest=75, default=45)
QUALITY = LevelRange(kind="quality", lowest=10, highest=40, default=20)


@pytest.mark.parametrize(("asked", "level"), [(None, 45), (0, 0), (20, 20), (255, 255)])
def test_the_asked_level_or_the_default(asked, level):
    """Without a wish it is the default; any sigma of [0, 255] is taken as it is, in or out of the trained range."""
    assert choose_level(asked, LEVELS, model="denoise-1") == level


@pytest.mark.parametrize("asked", [-1, 255.5, math.nan, math.inf])
def test_what_is_no_level(asked):
    """A number outside of [0, 255] is no sigma and refused, with the range that the model was trained for."""
    with pytest.raises(ConfigError, match="sigma 15 to 75"):
        choose_level(asked, LEVELS, model="denoise-1")


@pytest.mark.parametrize(("kind", "lowest", "highest"), [("sigma", 0, 255), ("quality", 1, 100), ("scale", 1, 16)])
def test_bounds_and_words_are_those_of_the_kind(kind, lowest, highest):
    """The ends of the kind's bounds are levels; what lies outside is refused with the kind, its meaning and bounds."""
    levels = LevelRange(kind=kind, lowest=4, highest=8, default=6)
    assert (levels.choose(lowest), levels.choose(highest)) == (lowest, highest)
    for asked in (lowest - 0.5, highest + 0.5):
        with pytest.raises(
            ConfigError, match=rf"of kind {kind}[\s\S]*{KINDS[kind].meaning}, from {lowest} to {highest}"
        ):
            levels.choose(asked)
    assert f"{kind} 9 is outside of 4 to 8" in levels.note(9)


def test_a_model_without_level():
    """It gets none, and a wish is refused with the model's name."""
    assert choose_level(None, None, model="denoise-1") is None
    with pytest.raises(ConfigError, match="takes no level: denoise-1"):
        choose_level(25, None, model="denoise-1")


@pytest.mark.parametrize(("level", "outside"), [(14.9, True), (15, False), (75, False), (75.1, True)])
def test_what_it_was_not_trained_for_is_noted(level, outside):
    """The ends of the range belong to it; beyond them the note names level and range."""
    note = LEVELS.note(level)
    assert (note is not None) == outside
    if note:
        assert f"{level:g}" in note
        assert "15 to 75" in note


def test_the_level_of_a_measurement():
    """The true level for a model of that kind, the default for one of another, none for one that takes none."""
    assert level_for(LEVELS, "sigma", 50) == 50
    assert level_for(QUALITY, "sigma", 50) == 20
    assert level_for(None, "sigma", 50) is None


@pytest.mark.parametrize("values", [(75, 15, 45), (15, 75, 90), (-5, 75, 45), (15, 300, 45), (15, 75, math.nan)])
def test_impossible_ranges(values):
    """Levels out of order or outside of their kind's bounds make no range."""
    lowest, highest, default = values
    with pytest.raises(ConfigError):
        LevelRange(kind="sigma", lowest=lowest, highest=highest, default=default)


def test_a_range_of_another_kind_has_other_bounds():
    """A sigma of 0 is one, a JPEG quality of 0 is none."""
    LevelRange(kind="sigma", lowest=0, highest=75, default=45)
    with pytest.raises(ConfigError, match="1 <= lowest"):
        LevelRange(kind="quality", lowest=0, highest=75, default=45)


@pytest.mark.parametrize(
    ("trained_for", "kind"),
    [({}, "sigma"), ({"degradation": None}, "sigma"), ({"degradation": {"level": "scale"}}, "scale")],
)
def test_the_kind_of_a_card(trained_for, kind):
    """What the card says; without a word it is sigma."""
    assert kind_of(trained_for) == kind


def test_an_unknown_kind():
    """In a card or a range it is refused with the kinds that there are."""
    with pytest.raises(ModelFormatError, match="sigma, quality, scale"):
        kind_of({"degradation": {"level": "blur"}})
    with pytest.raises(ConfigError, match="sigma, quality, scale"):
        LevelRange(kind="blur", lowest=1, highest=2, default=1)


def test_levels_are_known_without_torch():
    """The command line and clients import the module; it loads neither torch nor numpy."""
    code = "import sys, relume.serving.levels; print(*[name for name in ('torch', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
