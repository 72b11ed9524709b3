"""CFSNet: a main branch and a tuning branch, coupled per channel by a controllable scalar.

Source: Wang et al., "CFSNet: Toward a Controllable Feature Space for Image Restoration", ICCV 2019
(arXiv 1904.00634). Written from the paper; state-dict keys are those of the published checkpoints. No deviation.
"""

import itertools

import torch
from torch import nn

from relume.models.levels import coefficient_between
from relume.models.registry import Variant

CONTROL = 512  # width of the control vector, all entries of which are the scalar


def _convolution(inputs: int, outputs: int, kernel: int = 3, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def _upsampler(channels: int, scale: int) -> nn.Sequential:
    """Bias-free 1x1 convolution and pixel shuffle for each factor of two."""
    steps = scale.bit_length() - 1
    return nn.Sequential(
        *(m for _ in range(steps) for m in (_convolution(channels, 4 * channels, 1), nn.PixelShuffle(2)))
    )


class MainBlock(nn.Module):
    """x + conv(ReLU(conv(x))), under the key `body` of the checkpoints (figure 2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels, bias=True), nn.ReLU(), _convolution(channels, channels, bias=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + self.body(x)


class TuningBlock(nn.Module):
    """conv(ReLU(conv(x))) without biases (figure 2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv0 = _convolution(channels, channels)
        self.conv1 = _convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return self.conv1(self.conv0(x).relu())


class Main(nn.Module):
    """The main branch's layers; with `scale` a tail that upsamples."""

    def __init__(self, width: int, blocks: int, scale: int, channels: int):
        super().__init__()
        self.head = _convolution(channels, width)
        self.body = nn.Sequential(*(MainBlock(width) for _ in range(blocks)))
        if scale > 1:
            self.tail = nn.Sequential(_convolution(width, width), _upsampler(width, scale))
        self.end = _convolution(width, channels)


class Tuning(nn.Module):
    """The tuning branch's layers, and the linear maps from the scalar to a coefficient for each channel."""

    def __init__(self, width: int, blocks: int, scale: int):
        super().__init__()

        def linear(*widths: int) -> nn.Sequential:
            return nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in itertools.pairwise(widths)))

        stages = blocks + (scale > 1)
        self.control_alpha = linear(CONTROL, 256, 128, width)
        self.adaptive_alpha = nn.ModuleList(linear(width, width, width) for _ in range(stages))
        self.tuning_blocks = nn.ModuleList(TuningBlock(width) for _ in range(blocks))
        if scale > 1:
            self.tuning_blocks.append(nn.Sequential(_convolution(width, width), _upsampler(width, scale)))


class CFSNet(nn.Module):
    """Coupled branches: after each block, main · (1 − a) + tuning · a with a per channel, linear in the scalar.

    Args:
        width: Channels.
        blocks: Blocks of each branch.
        levels: Noise levels that the main branch and then the tuning branch are trained at, in [0, 255].
        scale: Super-resolution factor, a power of two; 1 restores at the same size.
        channels: Image channels.

    The output is the image itself: there is no global residual.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 10,
        levels: tuple[float, float] = (15, 75),
        scale: int = 1,
        channels: int = 3,
    ):
        super().__init__()
        self.levels, self.scale = levels, scale
        self.main = Main(width, blocks, scale, channels)
        self.tuning_blocks = Tuning(width, blocks, scale)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Denoises at a stated level; at `levels[0]` it is the main branch.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: Sigma in [0, 255], (N,) or (1,); outside `levels` the coupling continues linearly.

        Returns:
            (N, C, scale · H, scale · W), not clamped.
        """
        tuning = self.tuning_blocks
        scalar = coefficient_between(level, self.levels).to(image.dtype).view(-1, 1)
        control = tuning.control_alpha(scalar.expand(-1, CONTROL))

        def couple(x: torch.Tensor, stage: nn.Module, index: int) -> torch.Tensor:
            a = tuning.adaptive_alpha[index](control)[:, :, None, None]
            return stage(x) * (1 - a) + tuning.tuning_blocks[index](x) * a

        head = x = self.main.head(image)
        for index, block in enumerate(self.main.body):
            x = couple(x, block, index)
        x = x + head
        if self.scale > 1:
            x = couple(x, self.main.tail, len(self.main.body))
        return self.main.end(x)


VARIANTS = {
    "cfsnet-denoise": Variant(
        architecture="cfsnet", arguments={}, about="colour denoising, 10 + 10 blocks", parameters=1_733_248
    ),
    "cfsnet-denoise-gray": Variant(
        architecture="cfsnet", arguments={"channels": 1}, about="gray denoising, 10 + 10 blocks", parameters=1_730_944
    ),
    "cfsnet-sr-x4": Variant(
        architecture="cfsnet",
        arguments={"blocks": 30, "scale": 4},
        about="super-resolution by 4, 30 + 30 blocks; larger output than input",
        parameters=4_996_224,
    ),
    "cfsnet-demo": Variant(architecture="cfsnet", arguments={"width": 16, "blocks": 2}, about="seconds on a CPU"),
}
