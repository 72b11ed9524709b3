"""Which patches are hard, and what an epoch of the fine-tuning is made of."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from relume.degradations import Degradation
from relume.training.mining import hard_count, hard_epoch, hardest_first, patch_losses
from relume.training.patches import PatchShards
from tests.relume.training.mixed import write_mixed


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Twelve grey patches of 64 pixels in two shards; the noise of none of them is cut off."""
    folder = tmp_path_factory.mktemp("patches")
    for shard in range(2):
        np.save(folder / f"train-{shard:05}.npy", np.full((6, 64, 64, 3), 128, np.uint8))
    return PatchShards(folder)


def losses(network, patches, **changed):
    degradation = {"steps": [{"kind": "gaussian_noise", "sigma": [20, 20], "clipped": 0.0}], "level": "sigma"}
    settings = {"degradation": degradation, "draws": 1, "batch": 5, "seed": 3} | changed
    settings["degradation"] = Degradation.model_validate(settings["degradation"])
    return patch_losses(network, patches, progress=lambda done: None, **settings)


class Untouched(nn.Module):
    """Gives back its input; adjustable."""

    def __init__(self):
        super().__init__()
        self.where = nn.Parameter(torch.zeros(()))

    def forward(self, image, level):
        assert torch.equal(level, torch.full((len(image),), 20.0))
        return image


def test_the_loss_of_an_untouched_patch_is_that_of_its_noise(patches):
    """The mean of |n| for n of N(0, s^2) is s * sqrt(2 / pi); one draw gives it to about 1 %, nine to 0.4 %."""
    expected = 20 / 255 * math.sqrt(2 / math.pi)
    one, nine = losses(Untouched(), patches), losses(Untouched(), patches, draws=9)
    assert one == pytest.approx(np.full(12, expected), rel=0.035)
    assert nine == pytest.approx(np.full(12, expected), rel=0.012)
    assert len(set(one)) == 12


def test_noise_is_the_same_in_every_run_and_at_every_batch(patches):
    first = losses(Untouched(), patches, batch=12, draws=2)
    assert np.array_equal(first, losses(Untouched(), patches, batch=1, draws=2))
    assert not np.array_equal(first, losses(Untouched(), patches, batch=1, draws=2, seed=4))


def test_the_hardest_come_first_and_ties_keep_their_order():
    assert hardest_first(np.array([1.0, 3.0, 2.0, 3.0, 0.0])).tolist() == [1, 3, 2, 0, 4]


@given(st.integers(1, 500), st.floats(0.001, 1), st.floats(0, 0.95))
def test_an_epoch_has_all_hard_patches_and_its_share_of_others(count, fraction, other_fraction):
    ranked = np.random.default_rng(count).permutation(count)
    hard = hard_count(fraction, count)
    assert abs(hard - max(1, fraction * count)) <= 0.5
    epoch = hard_epoch(ranked, hard, other_fraction)
    assert epoch[:hard] == ranked[:hard].tolist()
    others = epoch[hard:]
    places = np.flatnonzero(np.isin(ranked, others))
    assert len(set(others)) == len(others) == len(places)
    if len(others) < count - hard:
        assert abs(len(others) - len(epoch) * other_fraction) <= 0.5 + 1e-9
    if len(others) > 1:  # from the first of the rest to the last, gaps alike
        assert (places[0], places[-1]) == (hard, count - 1)
        assert np.ptp(np.diff(places)) <= 1


class Given(nn.Module):
    """Gives back its input; takes no level."""

    def __init__(self):
        super().__init__()
        self.where = nn.Parameter(torch.zeros(()))

    def forward(self, image):
        return image


def test_a_pair_is_ranked_by_its_own_degraded_side(tmp_path):
    """The loss of an untouched pair is the mean difference of its sides, whatever the degradation of the others is."""
    shards = write_mixed(tmp_path, {"a": 2}, {"real": 3})
    found = losses(Given(), shards, degradation={"steps": [{"kind": "jpeg", "quality": [10, 10]}]}, draws=2, batch=4)
    degraded, clean = np.moveaxis(shards.shards[-1].astype(float), 1, 0)
    assert found[2:] == pytest.approx(np.abs(degraded - clean).mean(axis=(1, 2, 3)) / 255, rel=1e-5)
    assert len(found) == 5
