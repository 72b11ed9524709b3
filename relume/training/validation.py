"""Validation while training: PSNR on fixed crops of the validation photographs with fixed noise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from relume.degradations import add_gaussian_noise, counter_rng
from relume.errors import SourceError
from relume.images import read_image

SIGMAS = (15.0, 25.0, 50.0)
SIDE = 192  # pixels; a centre crop is enough to follow a training, and keeps it cheap


def validation_psnr(folder: str | Path, seed: int) -> Callable[[nn.Module], float]:
    """Prepares the validation crops once.

    Args:
        folder: Photographs, 8-bit RGB.
        seed: Of the noise, which is clipped and rounded to 8 bits (the product's protocol).

    Returns:
        A function from a network to its mean PSNR in dB over the photographs and sigma 15, 25, 50.

    Raises:
        SourceError: The folder holds no photograph.
    """
    clean, noisy = [], []
    for number, path in enumerate(sorted(Path(folder).glob("*.png"))):
        image = read_image(path).pixels
        top, left = (max(0, side - SIDE) // 2 for side in image.shape[:2])
        crop = image[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        for index, sigma in enumerate(SIGMAS):
            rng = counter_rng(seed, "validation", number, index)
            clean.append(torch.from_numpy(crop))
            noisy.append(torch.from_numpy(add_gaussian_noise(crop, sigma, rng, clipped=True)))
    if not clean:
        raise SourceError("No validation photographs", where=folder, next_step="run `dvc repro curate`")

    def validate(network: nn.Module) -> float:
        device = next(network.parameters()).device
        values = []
        for noisy_CHW, clean_CHW in zip(noisy, clean, strict=True):
            restored = network(noisy_CHW[None].to(device))[0].float().cpu().clamp(0, 1)
            values.append(-10 * torch.log10((restored - clean_CHW).square().mean()).item())
        return sum(values) / len(values)

    return validate
