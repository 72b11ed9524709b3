"""AdaFM, CFSNet, CResMD and hypernetwork restoration in the plain order of their papers."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case


def even(image: torch.Tensor) -> torch.Tensor:
    """Mirrored at the right and bottom to even sides, which the networks at half resolution need."""
    height, width = image.shape[2:]
    return F.pad(image, (0, width % 2, 0, height % 2), "reflect")


class Modification(nn.Module):
    """x + depthwise(x), kernels and biases multiplied by the coefficient as the paper does when it tests."""

    def __init__(self, c: int, kernel: int):
        super().__init__()
        self.transformer = nn.Conv2d(c, c, kernel, 1, kernel // 2, groups=c)
        self.coefficient = torch.ones(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        t = self.transformer
        weight, bias = self.coefficient * t.weight, self.coefficient * t.bias
        return F.conv2d(x, weight, bias, padding=t.padding, groups=t.groups) + x


class Skip(nn.Module):
    """x + layers(x)."""

    def __init__(self, key: str, *layers: nn.Module):
        super().__init__()
        self.key = key
        self.add_module(key, nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return x + self.get_submodule(self.key)(x)


class AdaFM(nn.Module):
    """The basic residual network with a modification after every convolution of its trunk."""

    def __init__(
        self,
        *,
        width: int = 64,
        blocks: int = 16,
        kernel: int = 1,
        levels: tuple[int, int] = (15, 75),
        channels: int = 3,
    ):
        super().__init__()
        self.levels = levels

        def convolution() -> list[nn.Module]:
            return [nn.Conv2d(width, width, 3, 1, 1), Modification(width, kernel)]

        trunk = [Skip("res", *convolution(), nn.ReLU(inplace=True), *convolution()) for _ in range(blocks)]
        self.model = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1),
            Skip("sub", *trunk, *convolution()),
            nn.Conv2d(width, 4 * width, 3, 1, 1),
            nn.PixelShuffle(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 3, 1, 1),
        )

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and sigma (1,) in [0, 255] to (N, C, H, W)."""
        first, second = self.levels
        for module in self.modules():
            if isinstance(module, Modification):
                module.coefficient = (level - first) / (second - first)
        return self.model(even(image))[:, :, : image.shape[2], : image.shape[3]]


class MainBlock(nn.Module):
    """Two convolutions and their skip."""

    def __init__(self, c: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(c, c, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(c, c, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return x + self.body(x)


class TuningBlock(nn.Module):
    """Two convolutions without biases."""

    def __init__(self, c: int):
        super().__init__()
        self.conv0 = nn.Conv2d(c, c, 3, 1, 1, bias=False)
        self.conv1 = nn.Conv2d(c, c, 3, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return self.conv1(F.relu(self.conv0(x), inplace=True))


class CFSNet(nn.Module):
    """Two branches coupled after every block, per channel."""

    def __init__(self, *, width: int = 64, blocks: int = 10, levels: tuple[int, int] = (15, 75), channels: int = 3):
        super().__init__()
        self.levels = levels

        def linear(*widths: int) -> nn.Sequential:
            pairs = itertools.pairwise(widths)
            return nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in pairs))

        self.main = nn.ModuleDict(
            {
                "head": nn.Conv2d(channels, width, 3, 1, 1, bias=False),
                "body": nn.Sequential(*(MainBlock(width) for _ in range(blocks))),
                "end": nn.Conv2d(width, channels, 3, 1, 1, bias=False),
            }
        )
        self.tuning_blocks = nn.ModuleDict(
            {
                "control_alpha": linear(512, 256, 128, width),
                "adaptive_alpha": nn.ModuleList(linear(width, width, width) for _ in range(blocks)),
                "tuning_blocks": nn.ModuleList(TuningBlock(width) for _ in range(blocks)),
            }
        )

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and sigma (1,) in [0, 255] to (N, C, H, W)."""
        first, second = self.levels
        scalar = (level - first) / (second - first)
        alpha = self.tuning_blocks["control_alpha"](scalar.view(-1, 1).repeat(1, 512))
        head = x = self.main["head"](image)
        tuning = zip(self.tuning_blocks["adaptive_alpha"], self.tuning_blocks["tuning_blocks"], strict=True)
        for block, (adapt, tune) in zip(self.main["body"], tuning, strict=True):
            a = adapt(alpha).view(-1, x.shape[1], 1, 1)
            x = block(x) * (1 - a) + tune(x) * a
        return self.main["end"](x + head)


class ScaledBlock(nn.Module):
    """Two convolutions, scaled per channel by the condition, and their skip."""

    def __init__(self, c: int, conditions: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, 1, 1)
        self.conv2 = nn.Conv2d(c, c, 3, 1, 1)
        self.local_scale = nn.Linear(conditions, c)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N, conditions) to (N, C, H, W)."""
        scale = self.local_scale(condition).view(-1, x.shape[1], 1, 1)
        return x + self.conv2(F.relu(self.conv1(x), inplace=True)) * scale


class CResMD(nn.Module):
    """The residual network at half resolution whose residuals, the last one included, are scaled by the condition."""

    def __init__(self, *, width: int = 64, blocks: int = 32, norms: tuple[int, int] = (40, 50), channels: int = 3):
        super().__init__()
        self.norms = norms
        self.global_scale = nn.Linear(len(norms), channels)
        self.conv_first = nn.Conv2d(channels, width, 3, 2, 1)
        self.recon_trunk = nn.ModuleList(ScaledBlock(width, len(norms)) for _ in range(blocks))
        self.upconv = nn.Conv2d(width, 4 * width, 3, 1, 1)
        self.HRconv = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, channels, 3, 1, 1)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and the level of each degradation (1, conditions) to (N, C, H, W)."""
        condition = level / torch.tensor(self.norms).to(level)
        x = self.conv_first(even(image))
        for block in self.recon_trunk:
            x = block(x, condition)
        x = F.relu(F.pixel_shuffle(self.upconv(x), 2), inplace=True)
        x = self.conv_last(F.relu(self.HRconv(x), inplace=True))
        scale = self.global_scale(condition).view(-1, image.shape[1], 1, 1)
        return image + x[:, :, : image.shape[2], : image.shape[3]] * scale


class Shared(nn.Module):
    """A convolution under the key `module`."""

    def __init__(self, *arguments: int):
        super().__init__()
        self.module = nn.Conv2d(*arguments)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the convolution takes."""
        return self.module(x)


class HyperConv(nn.Module):
    """A linear layer of the level makes the kernel and the bias, with which the features are convolved."""

    def __init__(self, c: int):
        super().__init__()
        self.fc = nn.Linear(1, c * (9 * c + 1))

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (1,) in [0, 1] to (N, C, H, W)."""
        c = x.shape[1]
        values = self.fc(level.view(1, 1)).flatten()
        return F.conv2d(x, values[: 9 * c * c].view(c, c, 3, 3), values[9 * c * c :], padding=1)


class HyperBlock(nn.Module):
    """Two generated convolutions and their skip."""

    def __init__(self, c: int):
        super().__init__()
        self.hy_conv1 = HyperConv(c)
        self.hy_conv2 = HyperConv(c)

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (1,) in [0, 1] to (N, C, H, W)."""
        return x + self.hy_conv2(F.relu(self.hy_conv1(x, level), inplace=True), level)


class HyperRes(nn.Module):
    """AdaFM's basic network with generated residual blocks; index 0 of the blocks is empty."""

    def __init__(self, *, width: int = 64, blocks: int = 16, channels: int = 3):
        super().__init__()
        self.conv1 = Shared(channels, width, 3, 2, 1)
        self.res_blocks_meta = nn.ModuleList([nn.Identity(), *(HyperBlock(width) for _ in range(blocks))])
        self.conv2 = Shared(width, width, 3, 1, 1)
        self.conv3 = Shared(width, 4 * width, 3, 1, 1)
        self.conv4 = Shared(width, width, 3, 1, 1)
        self.conv5 = Shared(width, channels, 3, 1, 1)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and sigma (1,) in [0, 255] to (N, C, H, W)."""
        head = x = self.conv1(even(image))
        for block in self.res_blocks_meta[1:]:
            x = block(x, level / 255)
        x = self.conv2(x) + head
        x = F.relu(F.pixel_shuffle(self.conv3(x), 2), inplace=True)
        x = self.conv5(F.relu(self.conv4(x), inplace=True))
        return x[:, :, : image.shape[2], : image.shape[3]]


LEVEL = {"level": torch.tensor([25.0])}


def case(
    name: str,
    architecture: str,
    transcription: type[nn.Module],
    level: dict[str, torch.Tensor] = LEVEL,
    **arguments: object,
) -> Case:
    """At 128 x 128."""
    return Case(
        name=name,
        architecture=architecture,
        arguments=arguments,
        transcription=transcription,
        size=(128, 128),
        inputs=level,
    )


CASES = [
    case("adafm-1x1", "adafm", AdaFM, kernel=1),
    case("adafm-5x5", "adafm", AdaFM, kernel=5),
    case("cfsnet-denoise", "cfsnet", CFSNet),
    case("cresmd-2d", "cresmd", CResMD, level={"level": torch.tensor([[10.0, 25.0]])}),
    case("hyperres-4", "hyperres", HyperRes, blocks=4),
    case("hyperres-16", "hyperres", HyperRes),
]
