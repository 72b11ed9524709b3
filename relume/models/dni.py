"""DNI: deep network interpolation, one network between two others of the same architecture.

Source: Wang et al., "Deep Network Interpolation for Continuous Imagery Effect Transition", CVPR 2019
(arXiv 1811.10515). The two must be related: the second is fine-tuned from the first.
"""

from typing import Any

import torch
from torch import nn
from torch._higher_order_ops import scan

from relume.errors import ModelFormatError
from relume.models.levels import coefficient_between
from relume.models.registry import Variant, build


def interpolate(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], strength: float
) -> dict[str, torch.Tensor]:
    """(1 − strength) · first + strength · second for every floating-point entry (eq. 2).

    Args:
        first: State dict of the first network.
        second: State dict of the second, fine-tuned from the first.
        strength: 0 gives the first, 1 the second; values beyond extrapolate.

    Returns:
        A state dict; entries that are not floating point, such as index tables, are those of the first.

    Raises:
        ModelFormatError: The two have other keys or shapes.
    """
    unlike = sorted(
        key
        for key in first.keys() | second.keys()
        if key not in first or key not in second or first[key].shape != second[key].shape
    )
    if unlike:
        raise ModelFormatError(
            "State dicts of two architectures cannot be interpolated",
            why=f"they differ in {', '.join(unlike[:8])}",
            next_step="take a network and its own fine-tuned version",
        )
    return {
        key: torch.lerp(value, second[key], strength) if value.is_floating_point() else value
        for key, value in first.items()
    }


class DNI(nn.Module):
    """Two networks and the line between their weights, with the level as a slider.

    Args:
        architecture: A name of `relume.models.registry`.
        arguments: The constructor arguments of both networks.
        levels: Noise levels that the first and the second were trained at, in [0, 255].

    The second network is the first plus a change of each weight, `change`, which is zero at the start. So where the
    first is trained in one phase (`first.*`) and the change in the next (`change.*`), the second starts from the first.

    A call has one set of weights: with a level per image, the images are restored one after the other, in ONNX by a
    `Scan` over the batch.
    """

    def __init__(self, *, architecture: str, arguments: dict[str, Any], levels: tuple[float, float] = (15, 75)):
        super().__init__()
        self.levels = levels
        self.first = build(architecture, arguments)
        self.change = build(architecture, arguments)
        with torch.no_grad():
            for parameter in self.change.parameters():
                parameter.zero_()

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Denoises at a stated level: at `levels[0]` as the first network, at `levels[1]` as the second.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: Sigma in [0, 255], (N,) or (1,); outside `levels` the weights go on linearly.

        Returns:
            (N, C, H, W), not clamped.
        """
        if level.shape[0] == 1:
            return self._at_one(image, level)
        if torch.compiler.is_exporting():  # the batch is open, so a loop over it has to be part of the graph
            return scan(self._next, image.new_zeros(1), (image, level))[1]
        pairs = zip(image.split(1), level.split(1), strict=True)
        return torch.cat([self._at_one(one, its_level) for one, its_level in pairs])

    def _next(self, carried: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """One step of the scan, which has to carry something: an image (C, H, W) at its level ()."""
        image, level = pair
        return carried.clone(), self._at_one(image[None], level[None])[0]

    def _at_one(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) at one level (1,) for all."""
        strength = coefficient_between(level, self.levels)
        change = dict(self.change.named_parameters())
        weights = {
            name: parameter + strength.to(parameter.dtype) * change[name]
            for name, parameter in self.first.named_parameters()
        }
        return torch.func.functional_call(self.first, weights, (image,))


VARIANTS = {
    "dni-demo": Variant(
        architecture="dni",
        arguments={"architecture": "dncnn", "arguments": {"width": 16, "layers": 6}},
        about="seconds on a CPU",
    ),
}
