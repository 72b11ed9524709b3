"""Validation while training: what the network is given of photographs and of pairs."""

import numpy as np
import pytest
import torch
from torch import nn

from relume.images import save_image
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
    assert validation(tmp_path, noise(0, 50), 1)(Untouched()).psnr == pytest.approx(expected, abs=1e-3)
    assert validation(tmp_path, LEVELS, 1)(Untouched()).psnr < 22
