"""The settings of degradations: what is read, what is refused, and how they are described."""

import pytest
from pydantic import ValidationError

from relume.degradations import Degradation
from relume.errors import ConfigError

NOISE = {"kind": "gaussian_noise", "sigma": [0, 55], "clipped": 0.5}
JPEG = {"kind": "jpeg", "quality": [10, 40]}
SHRINK = {"kind": "shrink", "scale": 2}
MIXTURE = {
    "steps": [
        {"kind": "one_of", "of": [[NOISE, JPEG], [{"kind": "haze", "beta": [0.6, 1.8], "airlight": [0.7, 1]}], []]},
        {"kind": "shuffled", "of": [JPEG | {"probability": 0.25}, {"kind": "bicubic", "scale": [2, 4]}]},
    ]
}


def test_settings_survive_a_round_trip():
    """Written as JSON or plain values and read again, nested steps are equal."""
    settings = Degradation.model_validate(MIXTURE)
    assert Degradation.model_validate_json(settings.model_dump_json()) == settings
    assert Degradation.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("steps", "level", "complaint"),
    [
        ([], None, "at least 1 item"),
        ([{"kind": "fog"}], None, "fog"),
        ([NOISE | {"sigma": [30, 20]}], None, "low <= high"),
        ([NOISE | {"sigma": [-1, 20]}], None, "0 <= low"),
        ([NOISE | {"clipped": 1.5}], None, "less than or equal to 1"),
        ([NOISE | {"variance": [0, 1]}], None, "Extra inputs"),
        ([JPEG | {"quality": [0, 40]}], None, "1 <= low"),
        ([JPEG | {"quality": [10.5, 40]}], None, "integer"),
        ([NOISE | {"kind": "beta_gaussian_noise", "beta": [0, 1]}], None, "greater than 0"),
        ([NOISE | {"kind": "beta_gaussian_noise"}], None, "beta"),
        ([JPEG | {"probability": 0}], None, "greater than 0"),
        ([{"kind": "motion_blur", "size": 20, "length": [1, 9]}], None, "size must be odd"),
        ([{"kind": "degraded_areas", "degraded": 0.8}], None, "must not be above 1"),
        ([{"kind": "one_of", "of": [[NOISE], [JPEG]], "weights": [1]}], None, "1 weights for 2"),
        ([JPEG], "sigma", "exactly one Gaussian noise"),
        ([NOISE, NOISE], "sigma", "exactly one Gaussian noise"),
        ([NOISE | {"probability": 0.5}], "sigma", "of probability 1"),
        ([{"kind": "one_of", "of": [[NOISE], [JPEG]]}], "sigma", "exactly one Gaussian noise"),
        ([SHRINK, SHRINK], None, "at most one shrink step"),
        ([SHRINK | {"probability": 0.5}], None, "at most one shrink step"),
        ([{"kind": "one_of", "of": [[SHRINK], [JPEG]]}], None, "in no other"),
        ([{"kind": "shuffled", "of": [NOISE, {"kind": "one_of", "of": [[SHRINK], []]}]}], None, "in no other"),
        ([SHRINK | {"scale": 5}], None, "2, 3 or 4"),
        ([NOISE], "strength", "'sigma', 'quality' or 'scale'"),
    ],
)
def test_what_makes_no_sense_is_refused(steps, level, complaint):
    """Each mistake is named."""
    with pytest.raises(ValidationError, match=complaint):
        Degradation.model_validate({"steps": steps, "level": level})


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([NOISE], "Gaussian noise, sigma 0 to 55"),
        ([SHRINK], "bicubic down by 2"),
        ([NOISE | {"sigma": [50, 50]}, JPEG], "Gaussian noise, sigma 50, then JPEG, quality 10 to 40"),
        ([JPEG | {"probability": 0.5}], "JPEG, quality 10 to 40, on 50% of the images"),
        (
            MIXTURE["steps"],
            "one of (Gaussian noise, sigma 0 to 55, then JPEG, quality 10 to 40 | "
            "haze, beta 0.6 to 1.8, airlight 0.7 to 1 | nothing), then in random order "
            "(JPEG, quality 10 to 40, on 25% of the images, then bicubic down and up, scale 2 to 4)",
        ),
    ],
)
def test_descriptions_are_for_people(steps, text):
    """A model card says it in one line."""
    settings = Degradation.model_validate({"steps": steps})
    assert settings.describe() == str(settings) == text


def test_a_level_is_fixed_in_its_step_alone():
    """Also outside the range that training draws from, as a sweep needs it."""
    settings = Degradation.model_validate({"steps": [NOISE, JPEG], "level": "sigma"})
    assert settings.at(75).describe() == "Gaussian noise, sigma 75, then JPEG, quality 10 to 40"
    assert settings.at(75).level == "sigma"


@pytest.mark.parametrize(
    ("level", "value", "complaint"),
    [
        (None, 10, "degradation.level"),
        ("sigma", -1, "0 <= low"),
        ("quality", 101, "<= 100"),
        ("quality", 30.5, "integer"),
    ],
)
def test_impossible_levels_are_refused(level, value, complaint):
    """No level was named, or no degradation can have it."""
    with pytest.raises(ConfigError, match=complaint):
        Degradation.model_validate({"steps": [NOISE, JPEG], "level": level}).at(value)


BLUR = {"kind": "gaussian_blur", "sigma_x": [0.5, 4]}


@pytest.mark.parametrize(
    ("steps", "level", "conditions", "complaint"),
    [
        ([BLUR, NOISE], None, ["blur", "sigma"], "need level sigma"),
        ([BLUR, JPEG], "quality", ["blur", "jpeg"], "need level sigma"),
        ([BLUR, NOISE], "sigma", ["blur"], "name sigma"),
        ([BLUR, NOISE], "sigma", ["sigma", "sigma"], "once each"),
        ([NOISE], "sigma", ["blur", "sigma"], "exactly one gaussian_blur"),
        ([BLUR | {"sigma_y": [1, 2]}, NOISE], "sigma", ["blur", "sigma"], "without sigma_y"),
        ([NOISE], "sigma", ["sigma", "jpeg"], "exactly one JPEG"),
        ([NOISE], "sigma", ["sigma", "haze"], "'blur', 'sigma' or 'jpeg'"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(steps, level, conditions, complaint):
    """Each mistake is named."""
    with pytest.raises(ValidationError, match=complaint):
        Degradation.model_validate({"steps": steps, "level": level, "conditions": conditions})
