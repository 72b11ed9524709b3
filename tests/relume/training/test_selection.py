"""Which patch a sample is cut from: exact proportions of the sets, even use of each, and nothing of the past."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from relume.degradations import Degradation
from relume.training.augmentation import Augmentation, dihedral
from relume.training.batches import StepBatches, TrainingCrops
from relume.training.config import Phase, SetChoice
from relume.training.rules import data_problems
from relume.training.selection import Mixture
from tests.relume.training.mixed import SIDE, write_mixed
from tests.relume.training.tiny import LEVELS, TRAINING, TinyNetwork, stage


@pytest.fixture
def shards(tmp_path):
    """Ten patches of a set `a`, four of `b`, and three of pairs, `real`."""
    return write_mixed(tmp_path, {"a": 10, "b": 4}, {"real": 3})


def mixture(shards, indices=None, **data):
    choices = Phase(steps=1, patch=8, batch=1, data=data).choices
    return Mixture(shards, choices, np.arange(len(shards)) if indices is None else np.array(indices), seed=3)


def sets(shards, drawn):
    return Counter(shards.table().set[drawn].tolist())


def test_every_block_of_samples_has_the_stated_proportions(shards):
    """Of five samples in a row, from any multiple of five on, one is of `a` and four are of `b`."""
    drawn = mixture(shards, a=1, b=4)
    for block in range(20):
        assert sets(shards, [drawn[5 * block + n] for n in range(5)]) == {"a": 1, "b": 4}


def test_the_order_within_a_block_is_by_chance(shards):
    """The one sample of `a` is at each of the five places of a block now and then."""
    drawn = mixture(shards, a=1, b=4)
    places = Counter(n % 5 for n in range(300) if drawn[n] < 10)
    assert set(places) == set(range(5))
    assert max(places.values()) < 25  # of 60; the binomial distribution exceeds 24 once in 5000


def test_each_set_is_gone_through_evenly(shards):
    """While `a` gives thirty samples, each of its ten patches is drawn three times."""
    drawn = mixture(shards, a=1, b=2)
    counts = Counter(drawn[n] for n in range(90))
    assert [counts[n] for n in range(10)] == [3] * 10
    assert [counts[n] for n in range(10, 14)] == [15] * 4


def test_a_sample_depends_on_the_seed_and_its_number_alone(shards):
    """Drawn backwards, or once more, a sample is the same patch; with another seed the samples are others."""
    forwards = [mixture(shards, a=1, real=2)[n] for n in range(30)]
    backwards = mixture(shards, a=1, real=2)
    assert [backwards[n] for n in reversed(range(30))] == forwards[::-1]
    other = Mixture(shards, Phase(steps=1, patch=8, batch=1, data={"a": 1, "real": 2}).choices, np.arange(17), seed=4)
    assert [other[n] for n in range(30)] != forwards


def test_scores_and_numbers_limit_what_is_taken(shards):
    """The sharpness of patch n is n, its flatness n / 100: bounds leave what is within, `select` so many of that."""
    assert set(mixture(shards, a=SetChoice(min_sharpness=6)).orders["a"].indices) == {6, 7, 8, 9}
    assert set(mixture(shards, a=SetChoice(max_flat_fraction=0.02)).orders["a"].indices) == {0, 1, 2}
    chosen = mixture(shards, a=SetChoice(select=4, min_sharpness=2), b=1).orders["a"].indices
    assert len(set(chosen)) == 4
    assert set(chosen) < set(range(2, 10))
    assert list(mixture(shards, a=SetChoice(select=4, min_sharpness=2), b=9).orders["a"].indices) == list(chosen)


def write_scores(folder, **columns):
    """Of the photographs of `write_mixed`, in another order than theirs, and of one more that gave no patch."""
    count = len(next(iter(columns.values())))
    table = pa.table({"image_id": [f"{n:016x}" for n in range(count)], "set": ["a"] * count} | columns)
    parquet.write_table(table.take(list(reversed(range(count)))), folder / "scores.parquet")


def test_scores_of_the_photograph_limit_what_is_taken(shards, tmp_path):
    """A patch is taken where its photograph's scores are within all bounds, ends included, and none is missing."""
    niqe = [3.0, 4.0, 5.0, 6.0, None, 2.0, 2.0, 2.0, 2.0, 1.0]
    write_scores(tmp_path, niqe=niqe, rank_niqe=[1, 2, 3, 4, None, 1, 2, 1, 2, None])

    def taken(*scores):
        choice = SetChoice.model_validate({"scores": scores})
        return set(mixture(shards, a=choice, real=1).orders["a"].indices)

    assert taken({"score": "niqe", "max": 5.0}) == {0, 1, 2, 3, 4, 5}
    assert taken({"score": "niqe", "min": 4.0, "max": 5.5}) == {2, 3, 4, 5}
    assert taken({"score": "niqe", "min": 4.0}, {"score": "rank_niqe", "max": 3}) == {2, 3, 4, 5}
    assert taken({"score": "niqe", "min": 0.0}) == set(range(8))


def test_a_score_that_nobody_measured_is_refused(shards, tmp_path):
    """Without the table, and with another name, the message says what there is and how the scores come to be."""
    data = {"a": {"scores": [{"score": "niqe", "max": 5}]}}
    (missing,) = problems(shards, data=data)
    assert "there is no scores.parquet" in missing
    assert "curate.keep: {fraction: 1.0, by: [niqe]}" in missing
    write_scores(tmp_path, brisque=[1.0] * 10)
    (unknown,) = problems(shards, data=data)
    assert "phases[0].data.a.scores: niqe" in unknown
    assert "the scores are brisque" in unknown
    write_scores(tmp_path, niqe=[9.0] * 10)
    (empty,) = problems(shards, data=data)
    assert "leaves no patch of a set" in empty
    with pytest.raises(ValidationError, match="min, max or both"):
        SetChoice.model_validate({"scores": [{"score": "niqe"}]})


def test_a_phase_takes_its_sets_from_the_epoch_of_the_stage(shards):
    """Of a fine-tune's hard patches, which may be listed twice, those of the phase's sets are drawn."""
    drawn = mixture(shards, indices=[1, 1, 5, 11], a=1)
    assert Counter(drawn[n] for n in range(6)) == {1: 4, 5: 2}


def test_a_set_joins_in_the_last_phase_alone(shards):
    """Images that only the last phase names, such as those for validation, are in none of the batches before it."""
    first = Phase(steps=8, patch=SIDE, batch=5, data={"a": 1})
    last = Phase(steps=4, patch=SIDE, batch=5, data={"a": 4, "b": 1})
    crops = TrainingCrops(shards, seed=3)
    resolved = stage((first, last)).resolved(TRAINING)
    batches = StepBatches(crops, resolved, rank=0, ranks=1)
    patches = {name: {n for n in range(len(shards)) if shards.table().set[n] == name} for name in "ab"}

    def drawn(step):
        """Which patches the crops of a step are of: each of a whole patch, which it is turned and flipped of."""
        clean = (batches[step].clean.numpy() * 255).round().astype(np.uint8)
        turns = [{turned.tobytes() for turned in map(np.ascontiguousarray, dihedrals(shards[n]))} for n in range(14)]
        images = [np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes() for image in clean]
        return [next(n for n, views in enumerate(turns) if image in views) for image in images]

    assert all(set(drawn(step)) <= patches["a"] for step in range(8))
    assert [len(set(drawn(step)) & patches["b"]) for step in range(8, 12)] == [1] * 4


def dihedrals(image):
    """The eight views of an image (H, W, 3)."""
    return [np.rot90(mirrored, turns) for mirrored in (image, image[:, ::-1]) for turns in range(4)]


def test_pairs_are_cut_and_flipped_alike(shards):
    """A crop of a pair is one window and one flip of both images, found by trying all; nothing degrades it."""
    crops = TrainingCrops(shards, seed=5)
    choices = Phase(steps=1, patch=8, batch=1, data={"real": 1}).choices
    everything = Augmentation(usm=1.0, resized=1.0, gray=1.0, mixup=1.0)
    noise = Degradation.model_validate({"steps": [{"kind": "gaussian_noise", "sigma": [50, 50], "clipped": 1.0}]})
    batch = crops.batch(range(12), 8, noise, everything, choices)
    modes = set()
    for degraded, clean in zip(batch.degraded.numpy(), batch.clean.numpy(), strict=True):
        pair = np.rint(np.stack([degraded, clean]).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        found = [
            mode
            for patch in shards.shards[-1]
            for y in range(SIDE - 7)
            for x in range(SIDE - 7)
            for mode in range(8)
            if all(
                np.array_equal(dihedral(image[y : y + 8, x : x + 8], mode), cut)
                for image, cut in zip(patch, pair, strict=True)
            )
        ]
        assert len(found) == 1
        modes |= set(found)
    assert len(modes) > 2


def test_without_data_every_patch_counts_alike(shards):
    """An epoch of a phase that names no set has each patch once, those of pairs too."""
    crops = TrainingCrops(shards, seed=5)
    order = [crops._all[n] for n in range(17)]
    assert sorted(order) == list(range(17))


def problems(shards, network=None, **phase):
    settings = stage((Phase(steps=9, patch=8, batch=2, **phase),)).resolved(TRAINING)
    return [str(error) for error in data_problems(settings, network or TinyNetwork(), TrainingCrops(shards, seed=1))]


class Adjustable(TinyNetwork):
    """Takes a level."""

    def forward(self, x, level):
        return x


def test_sets_that_are_not_there_or_empty_are_refused(shards):
    """The message names the phase, the set and what there is."""
    (error,) = problems(shards, data={"c": 1})
    assert "phases[0].data.c" in error
    assert "a, b, real" in error
    (error,) = problems(shards, data={"a": SetChoice(min_sharpness=100)})
    assert "A phase leaves no patch of a set" in error
    assert problems(shards, data={"a": 1, "real": 2}) == problems(shards) == []


def test_an_adjustable_network_is_refused_pairs(shards):
    """Pairs have no level: with them in a phase, or in all data, it is refused; on photographs alone it trains."""
    for data in ({"a": 1, "real": 1}, None):
        (error,) = problems(shards, Adjustable(), data=data, degradation=LEVELS)
        assert "A network that needs levels cannot be trained on pairs" in error
    assert not problems(shards, Adjustable(), data={"a": 1}, degradation=LEVELS)


@pytest.mark.parametrize("data", [{}, {"a": 0}, {"a": {"wieght": 1}}])
def test_a_phase_without_weight_is_refused(data):
    """No set, a weight of zero and an unknown key are refused when the settings are read."""
    with pytest.raises(ValidationError):
        Phase.model_validate({"steps": 1, "patch": 8, "batch": 1, "data": data})
