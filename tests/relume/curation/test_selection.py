"""The rule by which the best photographs are kept."""

from dataclasses import fields
from typing import get_args

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from relume.curation.collection import Collection
from relume.curation.measuring import Measured
from relume.curation.patches import Patches
from relume.curation.quality import Quality
from relume.curation.records import Records
from relume.curation.scores import Scores
from relume.curation.selection import keep_best, outside, rank
from relume.curation.settings import KeepBest, ScoreName
from relume.ingestion.ingest import Photograph


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
    assert outside(ranks, 0.3).tolist() == [-1, 1, -1, *[0] * 7]


def measured(name, of_set, niqe, brisque):
    """A photograph with two scores."""
    photograph = Photograph(
        image_id=name, set=of_set, address=name, degraded="", width=9, height=9, channels=3, bit_depth=8, mode="RGB",
        bytes=9, sha256=4 * name, shard="",
    )  # fmt: skip
    others = {field.name: 0.0 for field in fields(Scores) if field.name not in ("niqe", "brisque")}
    return Measured(
        photograph=photograph,
        quality=Quality(sharpness=0.0, noise_sigma=0.0, flat_fraction=0.0),
        scores=Scores(niqe=niqe, brisque=brisque, **others),
        patches=Patches(name),
        fingerprint=None,
        descriptor=None,
        reason="",
    )


def test_by_the_mean_of_ranks_a_photograph_need_not_be_among_the_best_by_each(tmp_path):
    """Of four in each set one is in the better half by each score; by the mean of the ranks two are kept."""
    figures = {"a": (1, 40), "b": (2, 20), "c": (3, 30), "d": (4, 10)}
    names = [(of_set, name) for of_set in ("x", "y") for name in figures]
    photographs = [
        measured(f"{number:016x}", of_set, *figures[name]) for number, (of_set, name) in enumerate(names, start=10)
    ]
    records = Records(tmp_path / "records.sqlite")
    for item in photographs:
        records.add(item)

    def kept(joint):
        collection = Collection((item.photograph for item in photographs), records, ("niqe", "brisque"))
        ranks = keep_best(collection, KeepBest(fraction=0.5, by=("niqe", "brisque"), joint=joint))
        assert (ranks["niqe"][6], ranks["brisque"][6]) == (3, 3)
        return {"".join(name): collection.reason(position) for position, name in enumerate(names)}

    assert kept("each")["xa"] == "not_best_brisque"
    assert [name for name, reason in kept("each").items() if not reason] == ["xb", "yb"]
    assert [name for name, reason in kept("mean_rank").items() if not reason] == ["xa", "xb", "ya", "yb"]
    assert kept("mean_rank")["yd"] == "not_best_mean_rank"
    records.close()


@given(st.integers(1, 400), st.integers(1, 100))
def test_the_share_is_rounded_up_to_whole_photographs(count, percent):
    """Of any number so many are kept that they are at least the share, and one less would not be."""
    kept = outside({"niqe": np.arange(1, count + 1)}, percent / 100).tolist().count(-1)
    assert (kept - 1) * 100 < percent * count <= kept * 100
