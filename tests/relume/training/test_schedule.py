"""Phases, data position and learning rate as functions of the step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.training.config import OptimizerSettings, Phase
from relume.training.schedule import learning_rate, phase_at

PHASES = (Phase(steps=3, patch=16, batch=4), Phase(steps=2, patch=32, batch=2))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=4))
def test_samples_follow_each_other_without_gap_across_phases(sizes):
    """Step by step, the first sample of a step is the number of samples that all steps before it took."""
    phases = tuple(Phase(steps=steps, patch=8, batch=batch) for steps, batch in sizes)
    taken = 0
    for step in range(sum(phase.steps for phase in phases)):
        phase, first = phase_at(phases, step)
        assert first == taken
        taken += phase.batch


def test_a_phase_begins_where_the_last_ends():
    """Steps 0 to 2 belong to the first phase of three steps, step 3 to the second, and step 5 to none."""
    assert [phase_at(PHASES, step)[0].patch for step in range(5)] == [16, 16, 16, 32, 32]
    with pytest.raises(IndexError):
        phase_at(PHASES, 5)


def test_learning_rate_warms_up_peaks_and_ends_at_its_floor():
    """Linear to the peak, half-way down at half time, and the minimum at the last step."""
    settings = OptimizerSettings(lr=1e-3, min_lr=1e-5, warmup=10)
    assert math.isclose(learning_rate(settings, 0, 111), 1e-4)
    assert math.isclose(learning_rate(settings, 9, 111), 1e-3)
    assert math.isclose(learning_rate(settings, 10, 111), 1e-3)
    assert math.isclose(learning_rate(settings, 60, 111), (1e-3 + 1e-5) / 2)
    assert math.isclose(learning_rate(settings, 110, 111), 1e-5)
