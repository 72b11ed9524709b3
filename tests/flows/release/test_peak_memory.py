"""The memory that a model takes, of processes of their own."""

import numpy as np
import pytest

from flows.release.gate import measure
from flows.release.peak_memory import peak_memory
from relume.errors import ReleaseError
from relume.evaluation.settings import EvaluateSettings
from relume.params import ReleaseSettings
from tests.flows.release.synthetic import make_package, make_photographs
from tests.real.releases import SETTINGS


def test_a_larger_tile_takes_what_its_tensors_take(tmp_path):
    """Nothing of this process counts; a float32 tensor of the larger tile is at least in the difference."""
    small = make_package(tmp_path / "small", tile=64).folder / "serving"
    large = make_package(tmp_path / "large", tile=1024).folder / "serving"
    held = np.ones(300_000_000, np.uint8)  # of this process
    of_small, of_large = peak_memory([small, large])
    assert held.nbytes / 1e6 > of_small > 20
    assert of_large - of_small > 3 * 1024 * 1024 * 4 / 1e6


def test_a_model_that_takes_too_much_is_refused_and_the_champion_is_named(tmp_path):
    """The limit is that of the settings; without figures nothing is judged."""
    held_out = make_photographs(tmp_path / "held_out")
    candidate, champion = make_package(tmp_path / "candidate", blur=0.9), make_package(tmp_path / "champion", blur=0.8)
    settings = ReleaseSettings.model_validate(SETTINGS | {"memory_mb": 200})
    evaluate = EvaluateSettings.model_validate({"levels": {"sigma": [25, 50]}, "seed": 7, "threads": 1})
    report = measure(candidate, champion, settings, evaluate, held_out, memory=[201.0, 150.0])
    assert [str(check) for check in report.failed] == [
        "memory of a process that restores one tile: 201.00 MB, must be ≤ 200.00 MB"
    ]
    assert "the champion: a process that restores one tile takes 150 MB" in report.notes
    assert not measure(candidate, champion, settings, evaluate, held_out).failed


def test_a_process_without_a_result_is_an_error(tmp_path):
    """It says what the process said last."""
    with pytest.raises(ReleaseError, match="could not be measured"):
        peak_memory([tmp_path / "nothing"])
