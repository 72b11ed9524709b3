"""Phases, data position and learning rate as functions of the step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relume.training.config import OptimizerSettings, Phase, Schedule, StageSettings
from relume.training.schedule import learning_rate, learning_rate_at, position_at

PHASES = (Phase(steps=3, patch=16, batch=4), Phase(steps=2, patch=32, batch=2))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=4))
def test_samples_follow_each_other_without_gap_across_phases(sizes):
    """Step by step, the first sample of a step is the number of samples that all steps before it took."""
    phases = tuple(Phase(steps=steps, patch=8, batch=batch) for steps, batch in sizes)
    taken = 0
    for step in range(sum(phase.steps for phase in phases)):
        position = position_at(phases, step)
        assert position.sample == taken
        taken += position.phase.batch


def test_a_phase_begins_where_the_last_ends():
    """Steps 0 to 2 belong to the first phase of three steps, step 3 to the second, and step 5 to none."""
    assert [position_at(PHASES, step).phase.patch for step in range(5)] == [16, 16, 16, 32, 32]
    with pytest.raises(IndexError):
        position_at(PHASES, 5)


def test_learning_rate_warms_up_peaks_and_ends_at_its_floor():
    """Linear to the peak, half-way down at half time, and the minimum at the last step."""
    settings = OptimizerSettings(lr=1e-3, min_lr=1e-5, warmup=10)
    assert math.isclose(learning_rate(settings, 0, 111), 1e-4)
    assert math.isclose(learning_rate(settings, 9, 111), 1e-3)
    assert math.isclose(learning_rate(settings, 10, 111), 1e-3)
    assert math.isclose(learning_rate(settings, 60, 111), (1e-3 + 1e-5) / 2)
    assert math.isclose(learning_rate(settings, 110, 111), 1e-5)


def test_learning_rate_by_milestones():
    """It is multiplied at each milestone, and warm-up comes before."""
    schedule = Schedule(lr=1.0, warmup=2, shape="steps", milestones=(4, 6), gamma=0.1)
    rates = [learning_rate(schedule, step, 8) for step in range(8)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_learning_rate_restarts():
    """Each period is a cosine of its own from the peak to the floor; the last one runs to the end."""
    schedule = Schedule(lr=1.0, min_lr=0.1, shape="restarts", periods=(5, 3))
    rates = [learning_rate(schedule, step, 12) for step in range(12)]
    cosines = [0.1 + 0.9 * (1 + math.cos(math.pi * i / (n - 1))) / 2 for n in (5, 7) for i in range(n)]
    assert rates == pytest.approx(cosines)


def test_constant_learning_rate():
    """Linear warm-up, then the same."""
    schedule = Schedule(lr=2.0, warmup=2, shape="constant")
    assert [learning_rate(schedule, step, 4) for step in range(4)] == [1, 2, 2, 2]


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4))
def test_a_phase_may_have_its_own_schedule(phases):
    """Phases with a schedule follow it; the others follow the stage's, as if the phases with one were not there."""
    own = Schedule(lr=7.0, shape="constant")
    stage = StageSettings(
        loss="l1",
        optimizer=OptimizerSettings(lr=1.0, min_lr=0.5, warmup=1),
        phases=tuple(Phase(steps=n, patch=8, batch=1, schedule=own if has else None) for n, has in phases),
    )
    shared = sum(n for n, has in phases if not has)
    expected, done = [], 0
    for n, has in phases:
        expected += [7.0] * n if has else [learning_rate(stage.optimizer, done + i, shared) for i in range(n)]
        done += 0 if has else n
    assert [learning_rate_at(stage, step) for step in range(stage.steps)] == expected


@pytest.mark.parametrize(
    "wrong", [{"milestones": (5,)}, {"shape": "steps"}, {"shape": "restarts"}, {"shape": "steps", "milestones": (5, 3)}]
)
def test_a_shape_that_lacks_its_numbers_is_refused(wrong):
    """Milestones and periods belong to their shapes."""
    with pytest.raises(ValueError, match=r"milestones|periods"):
        Schedule(lr=1.0, **wrong)
