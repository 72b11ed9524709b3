"""The training loop: what it learns, what it keeps, and that an interrupted one ends like one that was not."""

import numpy as np
import pytest
import torch
from torch import nn

from relume.errors import TrainingDivergedError
from relume.models.nafnet import NAFNet
from relume.training.batches import NoisyCrops, PatchShards
from relume.training.checkpoint import Checkpoint, checkpoint_key
from relume.training.config import Degradation, OptimizerSettings, Phase, StageSettings, TrainingSettings
from relume.training.loop import TrainingState, train

TRAINING = TrainingSettings(
    seed=3,
    threads=1,
    precision="32-true",
    degradation=Degradation(sigma=(0, 50), clipped_fraction=0.5),
    checkpoint_seconds=1e-9,  # after every step
    validations=3,
)
STAGE = StageSettings(
    loss="l1",
    optimizer=OptimizerSettings(lr=1e-2, min_lr=1e-4, warmup=2),
    phases=(Phase(steps=7, patch=8, batch=2), Phase(steps=5, patch=16, batch=1)),
)


class Interrupted(Exception):
    """Stands for a kill: leaves the loop between two steps, wherever the test wants it to."""


class TinyNetwork(nn.Module):
    """A frozen convolution before a trained network with every kind of layer of our base models."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
        self.trained = NAFNet(width=4, encoder_blocks=[1], middle_blocks=1, decoder_blocks=[1])

    def forward(self, image):
        return self.trained(self.frozen(image))


@pytest.fixture
def shards(tmp_path):
    """Six random patches."""
    np.save(tmp_path / "train-00000.npy", np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8))
    return PatchShards(tmp_path)


def run(shards, checkpoint, stop_at=None, stage=STAGE, validate=lambda network: 1.0):
    """Trains a tiny network; `stop_at` leaves the loop after the checkpoint of that step."""
    torch.manual_seed(0)
    network = TinyNetwork()
    save = TrainingState.save

    def save_and_stop(state, to):
        save(state, to)
        if state.step == stop_at:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", save_and_stop)
        history = train(
            network,
            NoisyCrops(shards, TRAINING.degradation, seed=TRAINING.seed),
            stage=stage,
            training=TRAINING,
            checkpoint=checkpoint,
            validate=validate,
            report=lambda *_: None,
        )
    return network.state_dict(), history


@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 8, 11])
def test_an_interrupted_training_ends_with_the_same_bits(shards, tmp_path, stop_at):
    """Stopped inside a phase, at its border, or at a validation: weights and history equal the uninterrupted."""
    whole, whole_history = run(shards, Checkpoint(tmp_path, "whole"))
    with pytest.raises(Interrupted):
        run(shards, Checkpoint(tmp_path, "parts"), stop_at=stop_at)
    parts, parts_history = run(shards, Checkpoint(tmp_path, "parts"))
    assert parts_history == whole_history
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


def test_only_trainable_parameters_change(shards, tmp_path):
    """Frozen weights keep their bits, trained ones do not."""
    torch.manual_seed(0)
    start = TinyNetwork().state_dict()
    end, _ = run(shards, Checkpoint(tmp_path, "c"))
    assert torch.equal(start["frozen.weight"], end["frozen.weight"])
    assert not torch.equal(start["trained.intro.weight"], end["trained.intro.weight"])


def test_the_kept_weights_are_the_moving_average(shards, tmp_path):
    """The result equals an average computed here from the weights after every step."""
    weights, save = [], TrainingState.save

    def spy(state, to):
        weights.append(state.parameters["trained.intro.weight"].detach().clone())
        save(state, to)

    torch.manual_seed(0)
    expected = TinyNetwork().trained.intro.weight.detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", spy)
        torch.manual_seed(0)
        network = TinyNetwork()
        train(
            network,
            NoisyCrops(shards, TRAINING.degradation, seed=TRAINING.seed),
            stage=STAGE,
            training=TRAINING,
            checkpoint=Checkpoint(tmp_path, "c"),
            validate=lambda network: 1.0,
            report=lambda *_: None,
        )
    assert len(weights) == STAGE.steps
    for step, value in enumerate(weights, start=1):
        decay = min(STAGE.optimizer.ema, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(network.trained.intro.weight.detach(), expected)


def test_training_lowers_the_loss(shards, tmp_path):
    """On six patches that it sees again and again the mean loss of the last third is below the first's."""
    stage = STAGE.model_copy(update={"phases": (Phase(steps=90, patch=16, batch=4),)})
    _, history = run(shards, Checkpoint(tmp_path, "c"), stage=stage)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


def test_validation_sees_the_average_and_leaves_training_alone(shards, tmp_path):
    """Validation is handed the average, and training three times or once in between ends with the same bits."""
    seen = []
    many, _ = run(
        shards,
        Checkpoint(tmp_path, "a"),
        validate=lambda network: seen.append(network.trained.intro.weight.detach().clone()) or 0.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "TRAINING", TRAINING.model_copy(update={"validations": 1}))
        once, _ = run(shards, Checkpoint(tmp_path, "b"))
    assert len(seen) == 3
    assert torch.equal(seen[-1], many["trained.intro.weight"])
    assert not torch.equal(seen[0], seen[-1])
    assert torch.equal(once["trained.intro.weight"], many["trained.intro.weight"])


def test_a_loss_that_is_not_finite_stops_with_a_message(shards, tmp_path):
    """The message names the step, and the checkpoint before it is kept."""
    stage = STAGE.model_copy(update={"optimizer": OptimizerSettings(lr=3e37, min_lr=0, warmup=0)})
    with pytest.raises(TrainingDivergedError, match="at step"):
        run(shards, Checkpoint(tmp_path, "c"), stage=stage)
    assert Checkpoint(tmp_path, "c").load()[1]["step"] >= 1


def test_the_checkpoint_key_depends_on_settings_and_data():
    """Another setting or other data is another training."""
    key = checkpoint_key({"a": 1}, "data")
    assert key == checkpoint_key({"a": 1}, "data")
    assert len({key, checkpoint_key({"a": 2}, "data"), checkpoint_key({"a": 1}, "other")}) == 3
