"""Validation while training: what the network is given of photographs and of pairs."""

import numpy as np
import pytest
import torch
from torch import nn

from relume.degradations import Degradation, downscale_bicubic
from relume.images import save_image
from relume.training.config import EstimateLevel
from relume.training.validation import validation
from tests.relume.training.tiny import LEVELS, noise


class Untouched(nn.Module):
    """Gives back its input."""

    def __init__(self):
        super().__init__()
        self.where = nn.Parameter(torch.zeros(()))

    def forward(self, image, level=None):
        return image


def test_pairs_are_validated_on_their_real_degraded_side(tmp_path):
    """A pair counts once, with the PSNR between its sides; an adjustable network gets noise of known levels."""
    rng = np.random.default_rng(0)
    clean = rng.integers(40, 200, (64, 64, 3)).astype(np.uint8)
    save_image(tmp_path / "aa.png", clean)
    save_image(tmp_path / "degraded" / "aa.png", clean + 5)
    expected = 20 * np.log10(255 / 5)
    assert validation(tmp_path, noise(0, 50), 1)(Untouched()).value == pytest.approx(expected, abs=1e-3)
    assert validation(tmp_path, LEVELS, 1)(Untouched()).value < 22


def test_a_level_estimator_is_validated_by_its_levels(tmp_path):
    """One that always says 30 is wrong by 1, 0.2 and 0.4 of the sigmas 15, 25 and 50."""

    class Thirty(Untouched):
        def forward(self, image):
            return torch.full((len(image),), 30.0)

    save_image(tmp_path / "aa.png", np.full((64, 64, 3), 99, np.uint8))
    found = validation(tmp_path, LEVELS, 1, EstimateLevel(kind="estimate_level"))(Thirty())
    assert (found.metric, found.value) == ("accuracy", pytest.approx(100 * (1 - 1.6 / 3)))
    assert found.image.shape == (64, 128, 3)


def test_a_network_that_enlarges_is_validated_at_the_size_of_the_photograph(tmp_path):
    """Its input is the photograph shrunk, of whose sides multiples of the scale are left, and pairs are left out."""

    class Enlarged(Untouched):
        def forward(self, image):
            return image.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)

    clean = np.random.default_rng(0).integers(0, 256, (65, 49, 3)).astype(np.uint8)
    save_image(tmp_path / "aa.png", clean)
    save_image(tmp_path / "degraded" / "aa.png", clean)
    found = validation(tmp_path, Degradation.model_validate({"steps": [{"kind": "shrink", "scale": 3}]}), 1)(Enlarged())
    crop = clean[:63, :48].transpose(2, 0, 1) / np.float32(255)
    small = np.rint(np.clip(downscale_bicubic(crop, 3), 0, 1) * 255) / 255
    expected = -10 * np.log10(np.square(small.repeat(3, axis=1).repeat(3, axis=2) - crop).mean())
    assert found.value == pytest.approx(expected, abs=1e-3)
    assert found.image.shape == (63, 3 * 48, 3)
