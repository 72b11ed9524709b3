"""The rule by which the best photographs are kept."""

from dataclasses import fields
from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from relume.curation.quality import Quality
from relume.curation.scores import Scores
from relume.curation.selection import outside, rank
from relume.curation.settings import ScoreName


def test_every_score_can_be_in_a_rule():
    """The names that the settings allow are those that are measured."""
    assert set(get_args(ScoreName)) == {field.name for kind in (Quality, Scores) for field in fields(kind)}


def test_the_best_rank_is_the_highest_of_some_scores_and_the_lowest_of_others():
    """Sharpness is good when high, NIQE when low; equals keep their order, and what has no score comes last."""
    assert rank("sharpness", [3.0, 9.0, 3.0]).tolist() == [2, 1, 3]
    assert rank("niqe", [3.0, float("nan"), 2.0, 9.0]).tolist() == [2, 4, 1, 3]
    assert rank("sharpness", [float("nan"), 1.0]).tolist() == [2, 1]


def test_the_first_failed_score_is_named():
    """Of ten photographs and a share of 0.3, the three best by both scores are kept."""
    ranks = {"niqe": np.arange(1, 11), "brisque": np.array([1, 9, 2, 3, *range(4, 9), 10])}
    assert outside(ranks, 0.3) == ["", "brisque", "", *["niqe"] * 7]


@given(st.integers(1, 400), st.integers(1, 100))
def test_the_share_is_rounded_up_to_whole_photographs(count, percent):
    """Of any number so many are kept that they are at least the share, and one less would not be."""
    kept = outside({"niqe": np.arange(1, count + 1)}, percent / 100).count("")
    assert (kept - 1) * 100 < percent * count <= kept * 100
