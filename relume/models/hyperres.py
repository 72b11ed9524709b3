"""Hypernetwork restoration: residual blocks whose kernels are a linear function of the level.

Source: Aharon and Ben-Artzi, "Hypernetwork-Based Adaptive Image Restoration", arXiv 2206.05970. Written from the
paper; state-dict keys are those of the published checkpoints.
The paper trains with 16 blocks (section 4.1) and with 1 to 4 (section 4.2), so each has its variant. It adds up the
losses of the levels, where the official code takes their mean; `forward_many` leaves that to its caller.
Deviations: a level is always divided by 255, also below 1, where the official code takes it as it is; odd sizes are
padded by reflection inside `forward`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.adafm import AdaFM
from relume.models.layers import pad_to_multiple
from relume.models.registry import Variant


class Shared(nn.Module):
    """A layer that all main networks share, under the key `module` of the checkpoints."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape that the layer takes."""
        return self.module(x)


class HyperConv(nn.Module):
    """A 3x3 convolution whose kernel and bias are level · weight + bias (section 3.2).

    Args:
        channels: C, unchanged.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(1, channels * (9 * channels + 1))
        gain = 0.1 * (2 / (9 * channels)) ** 0.5  # a tenth of Kaiming's, as in the paper
        nn.init.normal_(self.fc.weight, std=gain)
        nn.init.normal_(self.fc.bias, std=gain)

    def split(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The kernels (K · C, C, 3, 3) and biases (K · C,) that K rows of generated values hold."""
        c = self.channels
        return values[:, : 9 * c * c].reshape(-1, c, 3, 3), values[:, 9 * c * c :].reshape(-1)

    def generate(self, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The kernels (K · C, C, 3, 3) and biases (K · C,) of the main networks at K levels in [0, 1]."""
        return self.split(self.fc(levels.view(-1, 1)))

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Convolves each image by the kernel of its level.

        A convolution is linear in its kernel. With a level per image, the two terms of the kernel are applied to
        all images at once and their results are combined, so that the batch may be left open in an exported graph,
        where the number of groups of a convolution must be known.

        Args:
            x: (N, C, H, W).
            level: (N,) or (1,), in [0, 1].

        Returns:
            (N, C, H, W).
        """
        if level.numel() == 1:
            return F.conv2d(x, *self.generate(level), padding=1)
        kernels, biases = self.split(torch.stack([self.fc.weight[:, 0], self.fc.bias]))
        slope, start = F.conv2d(x, kernels, biases, padding=1).chunk(2, dim=1)
        return level.view(-1, 1, 1, 1) * slope + start

    def forward_many(self, x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Convolves K groups of channels by the kernels of K levels, in one grouped convolution.

        Args:
            x: (N, K · C, H, W), main networks side by side in the channels.
            levels: (K,) in [0, 1].

        Returns:
            (N, K · C, H, W).
        """
        return F.conv2d(x, *self.generate(levels), padding=1, groups=len(levels))


class HyperBlock(nn.Module):
    """x + conv(ReLU(conv(x))), both convolutions generated from the level."""

    def __init__(self, channels: int):
        super().__init__()
        self.hy_conv1 = HyperConv(channels)
        self.hy_conv2 = HyperConv(channels)

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N,) or (1,) in [0, 1] to (N, C, H, W)."""
        return x + self.hy_conv2(self.hy_conv1(x, level).relu(), level)

    def forward_many(self, x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """(N, K · C, H, W) and (K,) in [0, 1] to (N, K · C, H, W)."""
        return x + self.hy_conv2.forward_many(self.hy_conv1.forward_many(x, levels).relu(), levels)


class HyperRes(nn.Module):
    """The main network is AdaFM's basic one; its head and tail are shared, its residual blocks generated (figure 2).

    Args:
        width: Channels.
        blocks: Generated residual blocks.
        channels: Image channels.

    The output is the image itself: there is no global residual.
    """

    size_multiple = 2

    def __init__(self, *, width: int = 64, blocks: int = 16, channels: int = 3):
        super().__init__()
        self.conv1 = Shared(nn.Conv2d(channels, width, 3, stride=2, padding=1))
        # The checkpoints count the blocks from one: index 0 is an identity.
        self.res_blocks_meta = nn.ModuleList([nn.Identity(), *(HyperBlock(width) for _ in range(blocks))])
        self.conv2 = Shared(nn.Conv2d(width, width, 3, padding=1))
        self.conv3 = Shared(nn.Conv2d(width, 4 * width, 3, padding=1))
        self.conv4 = Shared(nn.Conv2d(width, width, 3, padding=1))
        self.conv5 = Shared(nn.Conv2d(width, channels, 3, padding=1))
        self.width, self.channels = width, channels

    @property
    def blocks(self) -> list[HyperBlock]:
        """The generated blocks in their order."""
        return [block for block in self.res_blocks_meta if isinstance(block, HyperBlock)]

    def _tail(self, x: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        x = F.pixel_shuffle(self.conv3(self.conv2(x) + head), 2).relu()
        return self.conv5(self.conv4(x).relu())

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Denoises at a stated level.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W.
            level: Sigma in [0, 255], (N,) or (1,); every real number gives a network.

        Returns:
            (N, C, H, W), not clamped.
        """
        if level.numel() > 1 and not torch.compiler.is_exporting():
            return self.forward_many(image[:, None], level)[:, 0]
        height, width = image.shape[-2:]
        level = (level / 255).to(image.dtype)
        head = x = self.conv1(pad_to_multiple(image, self.size_multiple, mode="reflect"))
        for block in self.blocks:
            x = block(x, level)
        return self._tail(x, head)[:, :, :height, :width]

    def forward_many(self, images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Runs the main networks of K levels at once, each on its own batch, as they are trained.

        Args:
            images: (K, N, C, H, W) in [0, 1]; any H and W.
            levels: (K,), sigma in [0, 255].

        Returns:
            (K, N, C, H, W), not clamped: the same as K calls of `forward`.
        """
        count, batch, _, height, width = images.shape
        levels = (levels / 255).to(images.dtype)
        head = self.conv1(pad_to_multiple(images.flatten(0, 1), self.size_multiple, mode="reflect"))
        x = head.unflatten(0, (count, batch)).transpose(0, 1).flatten(1, 2)  # (N, K · C, H/2, W/2)
        for block in self.blocks:
            x = block.forward_many(x, levels)
        x = x.unflatten(1, (count, -1)).transpose(0, 1).flatten(0, 1)  # (K · N, C, H/2, W/2)
        return self._tail(x, head)[:, :, :height, :width].unflatten(0, (count, batch))

    @torch.no_grad()
    def main_network(self, level: float) -> AdaFM:
        """The plain network of one level, its generated kernels stored: AdaFM's basic network.

        Args:
            level: Sigma in [0, 255].
        """
        blocks, device = self.blocks, self.blocks[0].hy_conv1.fc.weight.device
        network = AdaFM(width=self.width, blocks=len(blocks), kernel=0, channels=self.channels).to(device)
        state = network.state_dict()

        def store(key: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
            state[f"{key}.weight"], state[f"{key}.bias"] = weight, bias

        at = torch.tensor([level / 255], device=device)
        for index, block in enumerate(blocks):
            store(f"model.1.sub.{index}.res.0", *block.hy_conv1.generate(at))
            store(f"model.1.sub.{index}.res.3", *block.hy_conv2.generate(at))
        shared = {
            "model.0": self.conv1,
            f"model.1.sub.{len(blocks)}": self.conv2,
            "model.2": self.conv3,
            "model.5": self.conv4,
            "model.7": self.conv5,
        }
        for key, convolution in shared.items():
            store(key, *convolution.module.parameters())
        network.load_state_dict(state)
        return network.train(self.training)


def _blocks(count: int, parameters: int) -> Variant:
    return Variant(architecture="hyperres", arguments={"blocks": count}, about="any level", parameters=parameters)


VARIANTS = {
    "hyperres-1": _blocks(1, 372_803),
    "hyperres-2": _blocks(2, 520_515),
    "hyperres-3": _blocks(3, 668_227),
    "hyperres-4": _blocks(4, 815_939),
    "hyperres-16": _blocks(16, 2_588_483),
    "hyperres-demo": Variant(architecture="hyperres", arguments={"width": 16, "blocks": 2}, about="seconds on a CPU"),
}
