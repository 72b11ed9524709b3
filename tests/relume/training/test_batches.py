"""Training crops are functions of their sample number."""

import numpy as np
import pytest
import torch

from relume.errors import ConfigError, SourceError
from relume.training.batches import NoisyCrops, PatchShards, dihedral
from relume.training.config import Degradation


@pytest.fixture
def shards(tmp_path):
    """Two shards of 5 and 3 patches of 16 x 16 whose pixels hold the patch's number."""
    for shard, numbers in enumerate([range(5), range(5, 8)]):
        np.save(tmp_path / f"train-{shard:05d}.npy", np.stack([np.full((16, 16, 3), n, np.uint8) for n in numbers]))
    return PatchShards(tmp_path)


def crops(shards, *, seed=1, sigma=(0, 0), clipped_fraction=0.0, indices=None):
    """Crops without noise, unless asked for."""
    degradation = Degradation(sigma=sigma, clipped_fraction=clipped_fraction)
    return NoisyCrops(shards, degradation, seed=seed, indices=indices)


def test_patches_are_numbered_across_shards(shards):
    """Patch n of all is found in its shard."""
    assert len(shards) == 8
    assert [int(shards[i][0, 0, 0]) for i in range(8)] == list(range(8))


def test_an_epoch_holds_every_patch_once_in_a_new_order(shards):
    """Samples 0 to 7 and 8 to 15 are permutations of the patches, and not the same one."""
    batch, _ = crops(shards).batch(0, 16, 8)
    numbers = (batch[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(numbers[:8]) == sorted(numbers[8:]) == list(range(8))
    assert numbers[:8] != numbers[8:]


def test_a_sample_does_not_depend_on_what_was_drawn_before(shards):
    """Samples 5 to 9 drawn alone equal those of a batch from 0, noise included."""
    noisy, clean = crops(shards, sigma=(0, 50), clipped_fraction=0.5).batch(0, 10, 8)
    later_noisy, later_clean = crops(shards, sigma=(0, 50), clipped_fraction=0.5).batch(5, 5, 8)
    assert torch.equal(noisy[5:], later_noisy)
    assert torch.equal(clean[5:], later_clean)


def test_the_seed_changes_the_samples(shards):
    """Another seed gives another order or other noise."""
    assert not torch.equal(
        crops(shards, sigma=(25, 25)).batch(0, 8, 8)[0], crops(shards, seed=2, sigma=(25, 25)).batch(0, 8, 8)[0]
    )


def test_an_epoch_can_be_made_of_chosen_patches(shards):
    """Only the chosen patches are drawn, and one listed twice is drawn twice."""
    batch, _ = crops(shards, indices=[2, 6, 6]).batch(0, 3, 8)
    assert sorted((batch[:, 0, 0, 0] * 255).round().int().tolist()) == [2, 6, 6]


def test_the_eight_flips_and_rotations_differ_and_are_all():
    """The eight modes of an image without symmetry are eight different images with the same pixels."""
    image = np.arange(12).reshape(2, 2, 3)
    images = {dihedral(image, mode).tobytes() for mode in range(8)}
    assert len(images) == 8
    assert all(np.array_equal(np.sort(dihedral(image, m), axis=None), np.sort(image, axis=None)) for m in range(8))


def test_a_crop_larger_than_the_patches_is_refused(shards):
    """The message names both sizes."""
    with pytest.raises(ConfigError, match=r"patch: 17.*\n.*curate\.patch is 16"):
        crops(shards).batch(0, 1, 17)


def test_no_shards_are_refused(tmp_path):
    """The message names the command that makes them."""
    with pytest.raises(SourceError, match="dvc repro curate"):
        PatchShards(tmp_path)
