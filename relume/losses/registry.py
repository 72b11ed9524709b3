"""The losses by name, and their weighted sums."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from relume.losses.frequency import high_frequency_loss, wavelet_loss
from relume.losses.pixel import charbonnier_loss, gradient_l1_loss, l1_loss, mse_loss, psnr_loss
from relume.losses.precision import Loss
from relume.losses.settings import LossSettings
from relume.losses.similarity import ssim_loss

# The names are the fields of `LossSettings`.
LOSSES: dict[str, Loss] = {
    "l1": l1_loss,
    "mse": mse_loss,
    "charbonnier": charbonnier_loss,
    "psnr": psnr_loss,
    "gradient_l1": gradient_l1_loss,
    "high_frequency": high_frequency_loss,
    "wavelet": wavelet_loss,
    "ssim": ssim_loss,
}


def build_loss(
    spec: LossSettings | str | Mapping[str, Any],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The weighted sum of losses that the settings name.

    Args:
        spec: Settings, or what they are read from.

    Returns:
        A function of the restored and the clean batch, float32, bfloat16 or float16, to a scalar.
    """
    terms = LossSettings.model_validate(spec).terms
    return lambda restored, clean: sum(
        term.weight * LOSSES[name](restored, clean, **term.options) for name, term in terms.items()
    )
