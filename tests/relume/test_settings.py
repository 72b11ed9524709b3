"""Settings are read strictly, and a refusal names the key, the value and what was meant."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from relume.settings import Settings, problems, validated


class Noise(Settings):
    """One kind of step."""

    kind: Literal["noise"]
    sigma: tuple[float, float]


class Blur(Settings):
    """Another kind of step."""

    kind: Literal["blur"]
    radius: float


class Training(Settings):
    """A section."""

    seed: int = Field(default=0, ge=0)
    rate: float = 1e-3
    compiled: bool = False
    name: str = "a"
    gains: dict[int, float] | None = None
    steps: tuple[Annotated[Noise | Blur, Field(discriminator="kind")], ...] = ()
    bases: dict[str, Blur] | None = None


class Everything(Settings):
    """All sections."""

    training: Training


def refusals(**training):
    """What is said of a section."""
    with pytest.raises(ValidationError) as error:
        validated(Everything, {"training": training})
    return list(problems(error.value, Everything))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"sede": 1}, "training.sede is unknown; did you mean seed?"),
        ({"zzz": 1}, "training.zzz is unknown"),
        ({"seed": -1}, "training.seed = -1: Input should be greater than or equal to 0"),
        ({"seed": True}, "training.seed = True: Input should be a valid integer"),
        ({"seed": 1.0}, "training.seed = 1.0: Input should be a valid integer"),
        ({"seed": "7"}, "training.seed = '7': Input should be a valid integer; 7 is a text in YAML 1.1, write 7 w"),
        (
            {"rate": "1e-4"},
            "training.rate = '1e-4': Input should be a valid number; 1e-4 is a text in YAML 1.1",
        ),
        ({"rate": True}, "training.rate = True: Input should be a valid number"),
        ({"compiled": 1}, "training.compiled = 1: Input should be a valid boolean"),
        ({"name": 3}, "training.name = 3: Input should be a valid string"),
        ({"steps": [{"kind": "noise", "sigma": [0, 1], "sigmma": 1}]}, "sigmma is unknown; did you mean sigma?"),
        ({"steps": [{"kind": "blur", "radius": 1.0, "sigma": 1}]}, "training.steps.0.blur.sigma is unknown"),
        ({"steps": [{"kind": "noise"}]}, "training.steps.0.noise.sigma is missing"),
        (
            {"bases": {"one": {"kind": "blur", "raduis": 1}}},
            "training.bases.one.raduis is unknown; did you mean rad",
        ),
    ],
)
def test_a_wrong_value_is_named(training, said):
    """With its key, what was given, and the nearest known name."""
    assert any(said in line for line in refusals(**training))


@pytest.mark.parametrize(("text", "number"), [("1e-4", "1.0e-4"), ("1e5", "1.0e+5"), ("2.5E3", "2.5e+3")])
def test_a_number_that_yaml_reads_as_a_text_is_named_as_it_should_be_written(text, number):
    """YAML 1.1 wants a point and a sign."""
    (line,) = refusals(rate=text)
    assert line.endswith(f"write {number}")


def test_a_name_of_another_kind_is_not_proposed():
    """Nearest names are those of the kind that was chosen."""
    (line,) = refusals(steps=[{"kind": "blur", "radius": 1.0, "sigma": 1}])
    assert "did you mean" not in line


def test_all_problems_are_named_with_their_places():
    """Not the first alone."""
    with pytest.raises(ValidationError) as error:
        validated(Training, {"seed": -1, "rate": "x"})
    lines = list(problems(error.value, Training, at=("training",), place=lambda keys: f"at {keys[-1]}"))
    assert [line.partition(" =")[0] for line in lines] == ["at seed: training.seed", "at rate: training.rate"]


def test_what_yaml_gives_is_taken_as_it_is():
    """Whole numbers for numbers, lists for tuples, keys that are whole numbers."""
    value = {"rate": 1, "gains": {15: 1}, "steps": [{"kind": "noise", "sigma": [0, 55]}]}
    section = validated(Training, value)
    assert (section.rate, section.gains) == (1.0, {15: 1.0})
    assert section.steps == (Noise(kind="noise", sigma=(0.0, 55.0)),)
