"""A tiny training: settings, a network and a run of the loop that a test may stop."""

import numpy as np
import pytest
import torch
from torch import nn

from relume.degradations import Degradation
from relume.models.nafnet import NAFNet
from relume.training.batches import TrainingCrops
from relume.training.config import (
    OptimizerSettings,
    Phase,
    StageSettings,
    TrainingSettings,
)
from relume.training.loop import train
from relume.training.state import TrainingState
from relume.training.validation import Validation

TRAINING = TrainingSettings(
    seed=3,
    threads=1,
    precision="32-true",
    degradation=Degradation.model_validate({"steps": [{"kind": "gaussian_noise", "sigma": [0, 50], "clipped": 0.5}]}),
    checkpoint_seconds=1e-9,  # after every step
    validations=3,
)


def noise(low, high, **level):
    """Gaussian noise of a range of sigma, half of it clipped."""
    return Degradation.model_validate(
        {"steps": [{"kind": "gaussian_noise", "sigma": [low, high], "clipped": 0.5}], **level}
    )


LEVELS = noise(0, 50, level="sigma")
STAGE = StageSettings(
    loss="l1",
    optimizer=OptimizerSettings(lr=1e-2, min_lr=1e-4, warmup=2),
    phases=(Phase(steps=7, patch=8, batch=2), Phase(steps=5, patch=16, batch=1)),
)


def stage(phases=None, **options):
    """A stage of nine steps, or of other phases."""
    phases = phases or (Phase(steps=9, patch=8, batch=2),)
    return StageSettings(**{"loss": "l1", "optimizer": STAGE.optimizer, "phases": phases} | options)


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


def figure(psnr):
    """What a validation found, its image left out."""
    return Validation(value=psnr, image=np.zeros((1, 3, 3), np.uint8))


def sharpness(network):
    """A figure of all weights and buffers: trainings that differ in one of them have other histories."""
    return figure(sum(float(value.abs().sum()) for value in network.state_dict().values()))


def run(shards, checkpoint, stop_at=None, stage=STAGE, validate=lambda network: figure(1.0), **options):
    """Trains a tiny network; `stop_at` leaves the loop after the checkpoint of that step."""
    torch.manual_seed(0)
    network = options.pop("network", TinyNetwork)()
    save = TrainingState.save

    def save_and_stop(state, to):
        save(state, to)
        if state.step == stop_at:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", save_and_stop)
        history = train(
            network,
            TrainingCrops(shards, seed=TRAINING.seed),
            stage=stage,
            training=TRAINING.model_copy(update=options),
            checkpoint=checkpoint,
            validate=validate,
            report=lambda *_: None,
        )
    return network.state_dict(), history


SHARED = stage(
    (
        Phase(steps=4, patch=8, batch=4),
        Phase(steps=3, patch=16, batch=4, accumulate=2, train=("trained.intro.*",)),
        Phase(steps=3, patch=8, batch=4),
    ),
    keep="best",
    patience=2,
)
