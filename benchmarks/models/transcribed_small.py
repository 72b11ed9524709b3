"""DnCNN, FFDNet, DRUNet and the level estimator in the plain order of their papers."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case


def chain(inputs: int, width: int, outputs: int, layers: int, batch_norm: bool = False) -> nn.Sequential:
    """3x3 convolutions with ReLU between, the inner ones with batch normalisation where asked for."""
    modules: list[nn.Module] = [nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU(inplace=True)]
    for _ in range(layers - 2):
        modules.append(nn.Conv2d(width, width, 3, 1, 1))
        if batch_norm:
            modules.append(nn.BatchNorm2d(width, eps=1e-4, momentum=0.9))
        modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules, nn.Conv2d(width, outputs, 3, 1, 1))


class DnCNN(nn.Module):
    """The chain predicts the noise, which is subtracted."""

    def __init__(self, *, width: int = 64, layers: int = 20, batch_norm: bool = False, channels: int = 3):
        super().__init__()
        self.model = chain(channels, width, channels, layers, batch_norm)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return image - self.model(image)


class FFDNet(nn.Module):
    """The chain at half resolution, the level repeated as an image beside the four sub-images."""

    def __init__(self, *, width: int = 96, layers: int = 12, channels: int = 3):
        super().__init__()
        self.model = chain(4 * channels + 1, width, 4 * channels, layers)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and sigma (1,) in [0, 255] to (N, C, H, W)."""
        height, width = image.shape[2:]
        x = F.pad(image, (0, width % 2, 0, height % 2), "replicate")
        x = F.pixel_unshuffle(x, 2)
        sigma = (level / 255).view(-1, 1, 1, 1).repeat(1, 1, *x.shape[2:])
        x = self.model(torch.cat((x, sigma), 1))
        return F.pixel_shuffle(x, 2)[:, :, :height, :width]


class BiasFreeBlock(nn.Module):
    """Two convolutions without biases and their skip."""

    def __init__(self, c: int):
        super().__init__()
        first, second = (nn.Conv2d(c, c, 3, 1, 1, bias=False) for _ in range(2))
        self.res = nn.Sequential(first, nn.ReLU(inplace=True), second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return x + self.res(x)


class DRUNet(nn.Module):
    """U-Net of residual blocks; skips are added; strided and transposed convolutions change the size."""

    def __init__(self, *, width: int = 64, blocks: int = 4, channels: int = 3):
        super().__init__()
        c = [width, 2 * width, 4 * width, 8 * width]

        def stack(level: int) -> list[nn.Module]:
            return [BiasFreeBlock(c[level]) for _ in range(blocks)]

        self.m_head = nn.Conv2d(channels + 1, c[0], 3, 1, 1, bias=False)
        for i in range(3):
            down = nn.Conv2d(c[i], c[i + 1], 2, 2, bias=False)
            self.add_module(f"m_down{i + 1}", nn.Sequential(*stack(i), down))
        self.m_body = nn.Sequential(*stack(3))
        for i in reversed(range(3)):
            up = nn.ConvTranspose2d(c[i + 1], c[i], 2, 2, bias=False)
            self.add_module(f"m_up{i + 1}", nn.Sequential(up, *stack(i)))
        self.m_tail = nn.Conv2d(c[0], channels, 3, 1, 1, bias=False)

    def forward(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and sigma (1,) in [0, 255] to (N, C, H, W)."""
        height, width = image.shape[2:]
        sigma = (level / 255).view(-1, 1, 1, 1).repeat(1, 1, height, width)
        x0 = F.pad(torch.cat((image, sigma), 1), (0, -width % 8, 0, -height % 8), "replicate")
        x1 = self.m_head(x0)
        x2 = self.m_down1(x1)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_body(x4)
        x = self.m_up3(x + x4)
        x = self.m_up2(x + x3)
        x = self.m_up1(x + x2)
        return self.m_tail(x + x1)[:, :, :height, :width]


class EstimatorBlock(nn.Module):
    """Two convolutions and their skip."""

    def __init__(self, c: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, 1, 1)
        self.conv2 = nn.Conv2d(c, c, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class LevelEstimator(nn.Module):
    """One crop of 128 x 128 pixels: four times residual block and pooling, then three linear layers."""

    def __init__(self, *, width: int = 64, channels: int = 3):
        super().__init__()
        self.intro = nn.Conv2d(channels, width, 3, 2, 1)
        self.blocks = nn.ModuleList(EstimatorBlock(width) for _ in range(4))
        self.linear = nn.Sequential(
            nn.Linear(16 * width, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 16),
            nn.ReLU(inplace=True),
            nn.Linear(16, 1),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, 128, 128) to sigma (N,)."""
        x = self.intro(image)
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
        return self.linear(x.flatten(1)).squeeze(1)


LEVEL = {"level": torch.tensor([25.0])}

CASES = [
    Case(name="dncnn-color", architecture="dncnn", arguments={}, transcription=DnCNN, size=(128, 128)),
    Case(
        name="dncnn-color-batchnorm",
        architecture="dncnn",
        arguments={"batch_norm": True},
        transcription=DnCNN,
        size=(128, 128),
    ),
    Case(name="ffdnet-color", architecture="ffdnet", arguments={}, transcription=FFDNet, size=(256, 256), inputs=LEVEL),
    Case(name="drunet-color", architecture="drunet", arguments={}, transcription=DRUNet, size=(128, 128), inputs=LEVEL),
    Case(
        name="level-estimator",
        architecture="level_estimator",
        arguments={},
        transcription=LevelEstimator,
        size=(128, 128),
    ),
]
