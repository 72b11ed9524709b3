"""Bias adaptation: a frozen bias-free network learns biases, for noise that has been clipped.

Source: team Alwaysu of the NTIRE 2025 denoising challenge (arXiv 2504.12276): every convolution of Restormer gets
a bias, and only these 139,779 numbers are trained. A bias-free network is nearly homogeneous in its input, which
clipping is not. That the biases start at zero is our choice: the adapted network starts as the frozen one.
The published count is reached when the patch embedding and the convolutions that change the resolution, which
Restormer's own bias option leaves without, stay so; with them it would be 141,339.
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from relume.errors import ConfigError
from relume.models.registry import Variant, build

Convolution = nn.Conv2d | nn.ConvTranspose2d


def add_biases(network: nn.Module, without: Sequence[str] = ()) -> list[nn.Parameter]:
    """Freezes a network and adds a zero bias to each of its bias-free convolutions, in place.

    Args:
        network: Its state dict gains a `bias` after the `weight` of each such convolution. Normalisations and
            linear layers stay as they are.
        without: Names of convolutions that stay without, as fnmatch patterns.

    Returns:
        The added biases, the only parameters left to train.
    """
    network.requires_grad_(False)
    added = []
    for name, module in network.named_modules():
        if any(fnmatch(name, pattern) for pattern in without):
            continue
        if isinstance(module, Convolution) and module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_channels))
            added.append(module.bias)
    return added


class BiasAdapted(nn.Module):
    """A network of the registry with biases added to its bias-free convolutions.

    Args:
        architecture: A name of `relume.models.registry`.
        arguments: The network's constructor arguments.
        without: As in `add_biases`.

    Raises:
        ConfigError: The network has no convolution to add a bias to.
    """

    def __init__(self, *, architecture: str, arguments: dict[str, Any], without: Sequence[str] = ()):
        super().__init__()
        self.network = build(architecture, arguments)
        if not add_biases(self.network, without):
            raise ConfigError(
                "There are no biases to adapt",
                where=architecture,
                why="the network has no bias-free convolution",
                next_step="remove finetune_hard.adapt from recipe.yaml",
            )

    def load_frozen(self, state: dict[str, torch.Tensor]) -> None:
        """Loads the weights of the unadapted network; the biases stay as they are."""
        added = self.network.state_dict().keys() - state.keys()
        self.network.load_state_dict(state | {key: self.network.state_dict()[key] for key in added})

    def forward(self, image: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """As the network's."""
        return self.network(image, *inputs)


RESTORMER_WITHOUT = ["patch_embed.proj", "down*.body.0", "up*.body.0"]


def plan_biases(architecture: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the `BiasAdapted` that adapts a network of the registry; Restormer's as published."""
    without = RESTORMER_WITHOUT if architecture == "restormer" else []
    return {"architecture": architecture, "arguments": arguments, "without": without}


VARIANTS = {
    "restormer-denoise-bias-adapted": Variant(
        architecture="bias_adapted",
        arguments={"architecture": "restormer", "arguments": {}, "without": RESTORMER_WITHOUT},
        about="clipped noise, NTIRE 2025 (Alwaysu)",
        parameters=26_251_447,
    ),
}
