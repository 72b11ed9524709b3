"""The level estimator: a small CNN that estimates the noise level of an image, for blind restoration.

Source: Aharon and Ben-Artzi, "Hypernetwork-Based Adaptive Image Restoration", arXiv 2206.05970; layers and parameter
count as in the authors' published weights. The paper's text has five convolutions instead of one and four residual
blocks, and estimates a class or a number; both are options. Written without the authors' code: the names of the
state-dict keys and the activations (ReLU) are ours, and so is what stands between the convolutions of the text.
Deviation: the published estimator looks at one random crop of 128 x 128 pixels; this one averages over the whole
image and is deterministic.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import ResidualBlock
from relume.models.registry import Variant

TILE = 128  # pixels; the linear layers fix it


def _mirrored(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Cuts an axis to a multiple of the tile, or continues a shorter one by mirroring it as often as needed."""
    size = x.shape[dim]
    if size >= TILE:
        return x.narrow(dim, 0, size // TILE * TILE)
    index = torch.arange(TILE, device=x.device) % (2 * size)
    return x.index_select(dim, torch.where(index < size, index, 2 * size - 1 - index))


class LevelEstimator(nn.Module):
    """Strided convolution, four residual blocks each followed by 2x2 max pooling, three linear layers.

    Args:
        width: Channels.
        residual: False for the five convolutions of the paper's text: in place of each residual block one
            convolution and a ReLU.
        classes: Levels of which one is recognised, from the lowest, as a classification; without any the level is
            estimated as a number.
        channels: Image channels.
    """

    def __init__(self, *, width: int = 64, residual: bool = True, classes: Sequence[float] = (), channels: int = 3):
        super().__init__()
        self.classes = tuple(classes)
        self.intro = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(width) if residual else nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
            for _ in range(4)
        )
        self.linear = nn.Sequential(
            nn.Linear(16 * width, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, len(self.classes) or 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Estimates the level of each image, the mean over its tiles of 128 x 128 pixels.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W. What does not fill a tile is left out.

        Returns:
            (N,), sigma in [0, 255], not clamped. Of a network with classes the mean of their levels, each as probable
            as the network says.
        """
        scores = self.scores(image)
        if not self.classes:
            return scores.mean(dim=(1, 2))
        levels = torch.tensor(self.classes, dtype=scores.dtype, device=scores.device)
        return (scores.softmax(dim=2) * levels).sum(dim=2).mean(dim=1)

    def scores(self, image: torch.Tensor) -> torch.Tensor:
        """What the last layer says of each tile, (N, tiles, classes or 1): logits of the classes, or the level."""
        x = _mirrored(_mirrored(image, 2), 3)
        rows, columns = x.shape[2] // TILE, x.shape[3] // TILE
        x = x.unflatten(3, (columns, TILE)).unflatten(2, (rows, TILE))  # (N, C, rows, TILE, columns, TILE)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # (N · tiles, C, TILE, TILE)
        x = self.intro(x)
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
        return self.linear(x.flatten(1)).unflatten(0, (-1, rows * columns))

    def class_loss(self, image: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the classes; a level between two classes is of both, each the more the nearer it is.

        Args:
            image: (N, C, H, W) in [0, 1].
            level: (N,), the true levels; outside of the classes the nearest one counts.

        Returns:
            A scalar, the mean over all tiles.
        """
        levels = torch.tensor(self.classes, dtype=level.dtype, device=level.device)
        level = level.clamp(levels[0], levels[-1])
        above = torch.searchsorted(levels, level).clamp(1, len(levels) - 1)
        share = (level - levels[above - 1]) / (levels[above] - levels[above - 1])
        target = (
            F.one_hot(above - 1, len(levels)) * (1 - share)[:, None] + F.one_hot(above, len(levels)) * share[:, None]
        )
        return -(target[:, None] * self.scores(image).float().log_softmax(dim=2)).sum(dim=2).mean()


VARIANTS = {
    "level-estimator": Variant(
        architecture="level_estimator", arguments={}, about="noise level of an image", parameters=330_561
    ),
    "level-estimator-text": Variant(
        architecture="level_estimator",
        arguments={"residual": False, "classes": (15, 35, 55, 75)},
        about="five convolutions, four classes of noise",
    ),
    "level-estimator-demo": Variant(architecture="level_estimator", arguments={"width": 8}, about="seconds on a CPU"),
}
