"""The level of an adjustable network as a user's strength: fixed, held within limits, or read off the picture."""

from typing import Literal

import torch
from torch import nn

from relume.errors import ConfigError

Beyond = Literal["clamp", "extrapolate", "refuse"]


class AtLevel(nn.Module):
    """An adjustable network at one level, as a network without level.

    Args:
        network: (image, level) to image.
        level: Sigma in [0, 255].
    """

    def __init__(self, network: nn.Module, level: float):
        super().__init__()
        self.network = network
        self.register_buffer("level", torch.tensor([float(level)]), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return self.network(image, self.level)


class Strength(nn.Module):
    """An adjustable network whose level is held to what it was trained for.

    Args:
        network: (image, level) to image.
        trained: The lowest and highest level of its training, in [0, 255].
        beyond: What a level outside of `trained` does. "clamp" takes the nearest trained level; "extrapolate" takes
            the level as it is, for networks that are linear in it by design (hypernetwork, AdaFM, CFSNet,
            DNI), whose results get unsure with the distance; "refuse" raises, and cannot be exported.
    """

    def __init__(self, network: nn.Module, *, trained: tuple[float, float], beyond: Beyond = "clamp"):
        super().__init__()
        self.network, self.trained, self.beyond = network, trained, beyond

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Restores at the level that the policy allows.

        Args:
            image: (N, C, H, W) in [0, 1].
            level: As the network takes it; (N,) or (1,), in [0, 255].

        Returns:
            (N, C, H, W).

        Raises:
            ConfigError: A level is outside the trained range and `beyond` is "refuse".
        """
        lowest, highest = self.trained
        if self.beyond == "refuse" and bool(((level < lowest) | (level > highest)).any()):
            raise ConfigError(
                "Level outside of the trained range",
                where=", ".join(f"{value:g}" for value in level.flatten().tolist()[:8]),
                next_step=f'choose a level from {lowest:g} to {highest:g}, or beyond="clamp"',
            )
        return self.network(image, level.clamp(lowest, highest) if self.beyond == "clamp" else level)


class Blind(nn.Module):
    """An adjustable network that is told the level by an estimator.

    Args:
        network: (image, level) to image, best a `Strength`, since an estimate can lie anywhere.
        estimator: Image (N, C, H, W) to level (N,), in [0, 255].
    """

    def __init__(self, network: nn.Module, estimator: nn.Module):
        super().__init__()
        self.network, self.estimator = network, estimator

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return self.network(image, self.estimator(image))
