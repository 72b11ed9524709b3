"""Training crops are functions of their sample number."""

import hashlib

import numpy as np
import pytest
import torch

from relume.degradations import Degradation, downscale_bicubic
from relume.errors import SourceError
from relume.training.augmentation import Augmentation
from relume.training.batches import Batch, StepBatches, TrainingCrops
from relume.training.config import EveryLevel, OptimizerSettings, Phase, StageSettings, TrainingSettings
from relume.training.patches import PatchShards

FLIPS = Augmentation()


@pytest.fixture
def shards(tmp_path):
    """Two shards of 5 and 3 patches of 16 x 16 whose pixels hold the patch's number."""
    for shard, numbers in enumerate([range(5), range(5, 8)]):
        np.save(tmp_path / f"train-{shard:05d}.npy", np.stack([np.full((16, 16, 3), n, np.uint8) for n in numbers]))
    return PatchShards(tmp_path)


def noise(sigma=(0, 0), clipped=0.0, level=None):
    """Gaussian noise, none unless asked for."""
    steps = [{"kind": "gaussian_noise", "sigma": sigma, "clipped": clipped}]
    return Degradation.model_validate({"steps": steps, "level": level})


def crops(shards, *, seed=1, indices=None):
    """The crops of the shards."""
    return TrainingCrops(shards, seed=seed, indices=indices)


def drawn(batch):
    """The patches that a batch without noise was cut from."""
    return (batch.degraded[:, 0, 0, 0] * 255).round().int().tolist()


def stage(method=None, **phase):
    """A stage of one phase."""
    optimizer = OptimizerSettings(lr=1e-3)
    phases = (Phase(**{"steps": 3, "patch": 8, "batch": 4} | phase),)
    options = {} if method is None else {"method": method}
    return StageSettings(loss="l1", optimizer=optimizer, phases=phases, **options)


def training(degradation):
    """What the stages share."""
    return TrainingSettings(
        seed=1, threads=1, precision="32-true", degradation=degradation, checkpoint_seconds=1, validations=1
    )


def test_patches_are_numbered_across_shards(shards):
    """Patch n of all is found in its shard."""
    assert len(shards) == 8
    assert [int(shards[i][0, 0, 0]) for i in range(8)] == list(range(8))


def test_an_epoch_holds_every_patch_once_in_a_new_order(shards):
    """Samples 0 to 7 and 8 to 15 are permutations of the patches, and not the same one."""
    numbers = drawn(crops(shards).batch(range(16), 8, noise(), FLIPS))
    assert sorted(numbers[:8]) == sorted(numbers[8:]) == list(range(8))
    assert numbers[:8] != numbers[8:]


def test_a_sample_does_not_depend_on_what_was_drawn_before(shards):
    """Samples 5 to 9 drawn alone equal those of a batch from 0, noise included."""
    whole = crops(shards).batch(range(10), 8, noise((0, 50), 0.5), FLIPS)
    later = crops(shards).batch(range(5, 10), 8, noise((0, 50), 0.5), FLIPS)
    assert torch.equal(whole.degraded[5:], later.degraded)
    assert torch.equal(whole.clean[5:], later.clean)


def test_the_seed_changes_the_samples(shards):
    """Another seed gives another order or other noise."""
    one, other = (crops(shards, seed=seed).batch(range(8), 8, noise((25, 25)), FLIPS) for seed in (1, 2))
    assert not torch.equal(one.degraded, other.degraded)


def test_an_epoch_can_be_made_of_chosen_patches(shards):
    """Only the chosen patches are drawn, and one listed twice is drawn twice."""
    assert sorted(drawn(crops(shards, indices=[2, 6, 6]).batch(range(3), 8, noise(), FLIPS))) == [2, 6, 6]


def test_no_shards_are_refused(tmp_path):
    """The message names the command that makes them."""
    with pytest.raises(SourceError, match="dvc repro curate"):
        PatchShards(tmp_path)


def test_ranks_share_a_batch_without_overlap(shards):
    """The parts of two ranks, one after the other, are the batch of one rank, at every step."""
    settings = (crops(shards), stage().resolved(training(noise((0, 50), 0.5))))
    whole = StepBatches(*settings)
    parts = [StepBatches(*settings, rank=rank, ranks=2) for rank in (0, 1)]
    for step in range(len(whole)):
        both = torch.cat([part[step].degraded for part in parts])
        assert torch.equal(both, whole[step].degraded)


def test_a_phase_may_have_its_own_degradation(shards):
    """A phase's noise-free degradation takes the place of the training's."""
    batch = StepBatches(crops(shards), stage(degradation=noise()).resolved(training(noise((50, 50)))))[0]
    assert torch.equal(batch.degraded, batch.clean)


def test_an_adjustable_network_is_given_the_level_of_each_crop(shards):
    """The noise of each crop has the standard deviation that the level says, within its sampling error."""
    batch = crops(shards).batch(range(6), 16, noise((5, 50), level="sigma"), FLIPS)
    measured = (batch.degraded - batch.clean).flatten(1).std(dim=1) * 255
    # The standard error of a standard deviation of n values is sigma / sqrt(2 n).
    assert ((measured - batch.level).abs() < 5 * batch.level / (2 * 3 * 16 * 16) ** 0.5).all()
    assert batch.level.std() > 0


def test_every_level_degrades_the_same_crops(shards):
    """K levels of N crops are (K, N, 3, P, P), each level's noise as strong as it says, the clean crops once."""
    method = EveryLevel(kind="every_level", levels=(10, 40))
    batch = StepBatches(crops(shards), stage(method).resolved(training(noise((0, 50), level="sigma"))))[0]
    assert batch.degraded.shape == (2, 4, 3, 8, 8)
    assert batch.clean.shape == (4, 3, 8, 8)
    assert batch.level.tolist() == [10, 40]
    measured = (batch.degraded - batch.clean).flatten(1).std(dim=1) * 255
    torch.testing.assert_close(measured, batch.level, rtol=0.15, atol=0)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_a_batch_make_it_up(count):
    """Parts in their order give back the batch, with levels of each crop or levels that all crops have."""
    images, clean = torch.rand(4, 3, 2, 2), torch.rand(4, 3, 2, 2)
    parts = Batch(images, clean, torch.arange(4.0)).parts(count)
    assert len(parts) == count
    assert torch.equal(torch.cat([part.degraded for part in parts]), images)
    assert torch.equal(torch.cat([part.clean for part in parts]), clean)
    assert torch.equal(torch.cat([part.level for part in parts]), torch.arange(4.0))
    many = torch.rand(3, 4, 3, 2, 2)
    parts = Batch(many, clean, torch.arange(3.0)).parts(count)
    assert torch.equal(torch.cat([part.degraded for part in parts], dim=1), many)
    assert all(torch.equal(part.level, torch.arange(3.0)) for part in parts)


AWGN = {"kind": "gaussian_noise", "sigma": [0, 55], "clipped": 0.5}
JPEG = {"kind": "jpeg", "quality": [10, 90]}
MIXTURE = {
    "kind": "one_of",
    "of": [
        [AWGN, JPEG],
        [{"kind": "poisson_gaussian_noise", "gain": [0, 0.05], "sigma": [0, 20]}],
        [{"kind": "salt_and_pepper", "density": [0, 0.1]}, {"kind": "bicubic", "scale": [1, 3]}],
        [{"kind": "speckle_noise", "variance": [0, 0.1]}],
        [{"kind": "degraded_areas"}],
        [],
    ],
}


@pytest.mark.parametrize(
    ("step", "level", "expected"),
    [
        (AWGN, None, "de4292d07e8e3716"),
        (AWGN, "sigma", "84304419d2179328"),
        (JPEG, "quality", "02e18771ea4b4371"),
        (MIXTURE, None, "9e420cb3a855625e"),
    ],
    ids=["awgn", "awgn given its level", "jpeg", "mixture"],
)
def test_the_bits_of_the_samples_stay(tmp_path, step, level, expected):
    """Samples hash to what they did before batches were filled in place; a speed-up may not change a training."""
    np.save(tmp_path / "train-00000.npy", np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8))
    degradation = Degradation.model_validate({"steps": [step], "level": level})
    mixed = Augmentation(mixup=0 if level else 0.5)
    digest = hashlib.sha256()
    source = TrainingCrops(PatchShards(tmp_path), seed=7)
    batches = [source.batch(range(40, 60), size, degradation, mixed) for size in (33, 48, 64)]
    if level:
        batches.append(source.batch_at(range(5), 48, degradation, mixed, (15, 30)))
    for batch in batches:
        for name, value in batch.tensors().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


class Unreadable:
    """Patches that cannot be read."""

    side = 16

    def __len__(self):
        return 8

    def read(self, indices):
        raise SourceError("Patches are missing", where="shard 1", why="it was removed", next_step="curate again")


def test_an_error_in_a_worker_is_passed_on_unchanged():
    """A DataLoader's worker passes the error on by value, with its parts and without a traceback."""
    steps = StepBatches(crops(Unreadable()), stage().resolved(training(noise())))
    loader = torch.utils.data.DataLoader(steps, batch_size=None, sampler=[0], num_workers=1)
    (error,) = loader
    assert isinstance(error, SourceError)
    assert str(error).startswith("Patches are missing: shard 1\n  why:")
    assert error.next_step.startswith("curate again")


def test_a_network_that_enlarges_gets_small_crops(tmp_path):
    """Each the clean crop shrunk, at the corresponding place; the batch is divided as any other."""
    np.save(tmp_path / "train-00000.npy", np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8))
    shrinking = Degradation.model_validate({"steps": [{"kind": "shrink", "scale": 2}]})
    batch = crops(PatchShards(tmp_path)).batch(range(4), 8, shrinking, FLIPS)
    assert (batch.degraded.shape, batch.clean.shape) == ((4, 3, 4, 4), (4, 3, 8, 8))
    for small, clean in zip(batch.degraded.numpy(), batch.clean.numpy(), strict=True):
        np.testing.assert_allclose(small, np.clip(downscale_bicubic(clean, 2), 0, 1), atol=0.5 / 255 + 1e-6)
    assert [part.degraded.shape for part in batch.parts(2)] == [(2, 3, 4, 4)] * 2
