"""Losses of half-precision batches, computed in float32."""

from collections.abc import Callable
from functools import wraps

import torch

Loss = Callable[..., torch.Tensor]


def in_float32(loss: Loss) -> Loss:
    """Lets a loss take bfloat16 and float16 and computes it in float32, under autocast too; float64 stays."""

    @wraps(loss)
    def wide(restored: torch.Tensor, clean: torch.Tensor, **options: object) -> torch.Tensor:
        with torch.autocast(restored.device.type, enabled=False):
            return loss(_wide(restored), _wide(clean), **options)

    return wide


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
