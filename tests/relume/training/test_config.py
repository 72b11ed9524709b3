"""Settings of the training that contradict each other are refused."""

import pytest
from pydantic import ValidationError

from relume.training.config import StageSettings, TrainingSettings

NOISE = {"steps": [{"kind": "gaussian_noise", "sigma": [0, 50]}]}
LEVELED = NOISE | {"level": "sigma"}
MIXED = {"mixup": 0.5}
EVERY_LEVEL = {"kind": "every_level", "levels": [15, 35]}


def training(**values):
    """What the stages share."""
    fixed = {"seed": 1, "threads": 1, "precision": "32-true", "checkpoint_seconds": 1, "validations": 1}
    return TrainingSettings.model_validate(fixed | values)


def stage(method=None, **phase):
    """A stage of two phases, of which the second one has settings of its own."""
    sizes = {"steps": 1, "patch": 8, "batch": 2}
    values = {"loss": "l1", "optimizer": {"lr": 1e-3}, "phases": [sizes, sizes | phase]}
    return StageSettings.model_validate(values if method is None else values | {"method": method})


def test_a_training_that_mixes_levels_is_refused():
    """A mixture of two degradations has no level that a network could be told; each alone is fine."""
    with pytest.raises(ValidationError, match=r"has no level: augmentation\.mixup must be 0"):
        training(degradation=LEVELED, augmentation=MIXED)
    assert training(degradation=NOISE, augmentation=MIXED).augmentation.mixup == 0.5
    assert training(degradation=LEVELED).degradation.level == "sigma"


def test_a_phase_that_mixes_levels_is_refused():
    """The same for a phase's own settings; its number is named."""
    with pytest.raises(ValidationError, match=r"has no level: phases\.1 names"):
        stage(degradation=LEVELED, augmentation=MIXED)
    assert stage(degradation=NOISE, augmentation=MIXED).steps == 2
    assert stage(degradation=LEVELED, augmentation={"usm": 0.5}).steps == 2


def test_every_level_mixes_nothing():
    """A step at every level needs a level, wherever it is named, so that it never mixes."""
    with pytest.raises(ValidationError, match=r"phases\.1\.augmentation\.mixup must be 0 with every_level"):
        stage(EVERY_LEVEL, augmentation=MIXED)
    assert stage(EVERY_LEVEL, augmentation={"usm": 0.5}).steps == 2
