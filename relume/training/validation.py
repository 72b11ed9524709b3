"""Validation while training, on fixed crops of the validation photographs with fixed degradations."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from relume.degradations import Degradation, add_gaussian_noise, counter_rng, degrade
from relume.errors import SourceError
from relume.images import read_image
from relume.metrics import psnr_in_float
from relume.training.config import EstimateLevel, Method

SIGMAS = (15.0, 25.0, 50.0)
DRAWS = 3  # of any other degradation, for each photograph
SIDE = 192  # pixels; a centre crop is enough to follow a training, and keeps it cheap


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a network does to the validation crops.

    Attributes:
        value: Mean over photographs and degradations; the higher, the better.
        image: One crop degraded, restored and clean, side by side: uint8 (H, 3 · W, 3). Of a level estimator, which
            restores nothing, without the one in the middle.
        metric: What the value is: `psnr` in dB, or the `accuracy` of a level estimator in percent.
    """

    value: float
    image: np.ndarray
    metric: Literal["psnr", "accuracy"] = "psnr"


@dataclass(frozen=True)
class _Case:
    degraded: torch.Tensor
    clean: torch.Tensor
    level: torch.Tensor | None


def validation(
    folder: str | Path, degradation: Degradation, seed: int, method: Method | None = None
) -> Callable[[nn.Module], Validation]:
    """Prepares the validation crops once.

    Gaussian noise is validated at sigma 15, 25 and 50, clipped and rounded to 8 bits (the product's protocol), so that
    trainings compare; any other degradation with three draws of its own. Of a pair the degraded image is the real one,
    except for adjustable networks, which must be given a level, for networks that enlarge, and for level estimators,
    whose metric is the accuracy: 1 - the mean relative error of the level, as published in arXiv 2206.05970.

    Args:
        folder: Photographs, 8-bit RGB; the degraded images of pairs in its subfolder `degraded`.
        degradation: What the network learns to undo.
        seed: Of the degradations.
        method: Of the training; a level estimator is measured by the levels that it estimates.

    Returns:
        A function from a network to its metrics.

    Raises:
        SourceError: The folder holds no photograph.
    """
    cases = []
    for number, path in enumerate(sorted(Path(folder).glob("[!.]*.png"))):
        crop, degraded = _centre(path, multiple=degradation.scale), path.parent / "degraded" / path.name
        if degraded.exists() and degradation.level is None and degradation.scale == 1:
            cases.append(_Case(torch.from_numpy(_centre(degraded)), torch.from_numpy(crop), None))
        else:
            cases += _cases(crop, degradation, seed, number)
    if not cases:
        raise SourceError("There are no validation photographs", where=folder, next_step="run `dvc repro curate`")

    def validate(network: nn.Module) -> Validation:
        device = next(network.parameters()).device
        values, image = [], None
        for case in cases:
            inputs = [case.degraded[None].to(device)]
            if case.level is not None:
                inputs.append(case.level.to(device))
            restored = network(*inputs)[0].float().cpu().clamp(0, 1)
            values.append(psnr_in_float(restored, case.clean))
            if case is cases[min(1, len(cases) - 1)]:
                image = _side_by_side(case.degraded.clamp(0, 1), restored, case.clean)
        assert image is not None
        return Validation(value=sum(values) / len(values), image=image)

    def validate_level(network: nn.Module) -> Validation:
        device, errors = next(network.parameters()).device, []
        for case in cases:
            assert case.level is not None  # see relume.training.rules
            estimated = network(case.degraded[None].to(device)).float().cpu()
            errors.append(float(abs(estimated - case.level) / case.level))
        image = _side_by_side(cases[0].degraded.clamp(0, 1), cases[0].clean)
        return Validation(value=100 * (1 - sum(errors) / len(errors)), image=image, metric="accuracy")

    return validate_level if isinstance(method, EstimateLevel) else validate


def _side_by_side(*images: torch.Tensor) -> np.ndarray:
    """Images in a row; a smaller one in larger pixels."""
    scale = images[-1].shape[1] // images[0].shape[1]
    images = (images[0].repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2), *images[1:])
    return (torch.cat(images, dim=2) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def _centre(path: Path, *, multiple: int = 1) -> np.ndarray:
    """The centre of an image, float32 (3, H, W) in [0, 1], of sides that are multiples of a number."""
    image = read_image(path).pixels
    height, width = (min(side, SIDE) // multiple * multiple for side in image.shape[:2])
    top, left = (max(0, side - SIDE) // 2 for side in image.shape[:2])
    return image[top : top + height, left : left + width].transpose(2, 0, 1).astype(np.float32) / np.float32(255)


def _cases(crop: np.ndarray, degradation: Degradation, seed: int, number: int) -> list[_Case]:
    clean, cases = torch.from_numpy(crop), []
    if [step.kind for step in degradation.steps] == ["gaussian_noise"]:
        for index, sigma in enumerate(SIGMAS):
            rng = counter_rng(seed, "validation", number, index)
            noisy = add_gaussian_noise(crop, sigma, rng, clipped=True)
            level = torch.tensor([sigma]) if degradation.level else None
            cases.append(_Case(torch.from_numpy(noisy), clean, level))
        return cases
    for index in range(DRAWS):
        result = degrade(crop, degradation, counter_rng(seed, "validation", number, index))
        level = None if result.level is None else torch.tensor([result.level], dtype=torch.float32)
        cases.append(_Case(torch.from_numpy(result.image), clean, level))
    return cases
