"""The level of an adjustable model: how strong a degradation it is asked to remove.

For denoising a level is the standard deviation of the noise on the 8-bit scale [0, 255], a tensor of one for each image
of the batch (N,) or one for all (1,). Networks trained at two levels turn it into the coefficient of their
second stage, 0 at the first level and 1 at the second; beyond them the coefficient continues linearly.
"""

import torch


def level_map(level: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The level as an image in [0, 1], for networks that read it as a further channel.

    Args:
        level: (N,) or (1,), or a level for every pixel (N, 1, H, W); in [0, 255].
        image: (N, C, H, W), of which the map takes batch, size and type.

    Returns:
        (N, 1, H, W).
    """
    if level.ndim < 4:
        level = level.view(-1, 1, 1, 1)
    return (level / 255).to(image.dtype).expand(image.shape[0], 1, *image.shape[-2:])


def coefficient_between(level: torch.Tensor, levels: tuple[float, float]) -> torch.Tensor:
    """0 at the first of two training levels, 1 at the second, linear everywhere.

    Args:
        level: (N,) or (1,), in [0, 255].
        levels: The two training levels, in [0, 255].

    Returns:
        The coefficient in the level's shape.
    """
    first, second = levels
    return (level - first) / (second - first)
