"""Training crops from the curated patches, each a function of its sample number alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from relume.degradations import Degradation, counter_rng, degrade_at
from relume.errors import RelumeError
from relume.training.augmentation import Augmentation, augment, cut_pair, degrade_and_mix, resize, source_side
from relume.training.config import EveryLevel, ResolvedStage
from relume.training.patches import Patches
from relume.training.schedule import position_at
from relume.training.selection import Choices, Mixture, Order


class Batch(NamedTuple):
    """What one step, or one rank's part of it, is trained on.

    Attributes:
        degraded: float32 (N, 3, P, P) in about [0, 1], for a network that enlarges of a side smaller by its scale;
            (K, N, 3, P, P) where every sample has each of K levels.
        clean: float32 (N, 3, P, P) in [0, 1].
        level: What an adjustable network is given: (N,), or the K levels (K,); None for the others.
    """

    degraded: torch.Tensor
    clean: torch.Tensor
    level: torch.Tensor | None

    def parts(self, count: int) -> list["Batch"]:
        """The batch in `count` equal parts."""
        size = len(self.clean) // count
        own_levels = self.level is not None and self.degraded.ndim == 4
        return [
            Batch(
                self.degraded.narrow(self.degraded.ndim - 4, first, size),
                self.clean.narrow(0, first, size),
                self.level.narrow(0, first, size) if own_levels and self.level is not None else self.level,
            )
            for first in range(0, size * count, size)
        ]

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, images in channels_last memory."""
        degraded, clean = (value.to(device, non_blocking=True) for value in (self.degraded, self.clean))
        if degraded.ndim == 4:
            degraded = degraded.contiguous(memory_format=torch.channels_last)
        level = None if self.level is None else self.level.to(device, non_blocking=True)
        return Batch(degraded, clean, level)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class TrainingCrops:
    """Degraded and clean crops; sample n depends on the seed and n, not on what was drawn before.

    Args:
        patches: Where crops come from.
        seed: Of order, crops, flips and degradations.
        indices: The patches that make one epoch, all by default; a patch may be in it several times.
    """

    def __init__(self, patches: Patches, *, seed: int, indices: Sequence[int] | None = None):
        self.patches, self.seed = patches, seed
        self.indices = np.arange(len(patches)) if indices is None else np.asarray(indices)
        self._all = Order(self.indices, seed)
        self._mixtures: dict[Choices, Mixture] = {}

    def mixture(self, choices: Choices) -> Mixture:
        """The patches that a phase takes from sets."""
        if choices not in self._mixtures:
            self._mixtures[choices] = Mixture(self.patches, choices, self.indices, self.seed)
        return self._mixtures[choices]

    def draws_pairs(self, choices: Choices) -> bool:
        """Whether a phase takes patches of pairs."""
        drawn = [order.indices for order in self.mixture(choices).orders.values()] if choices else [self.indices]
        return any((indices >= len(self.patches) - self.patches.pairs).any() for indices in drawn)

    def _cut(
        self, numbers: Sequence[int], size: int, augmentation: Augmentation, choices: Choices
    ) -> tuple[np.ndarray, dict[int, np.ndarray], list[np.random.Generator]]:
        """Clean crops, float32 (N, 3, size, size) in [0, 1], the degraded ones of pairs by position, and a generator
        of each for further draws."""
        order = self.mixture(choices) if choices else self._all
        patches = self.patches.read([order[number] for number in numbers])
        clean = np.empty((len(patches), 3, size, size), dtype=np.float32)
        rngs = [counter_rng(self.seed, "sample", number) for number in numbers]
        given: dict[int, np.ndarray] = {}
        for number, (patch, rng, crop) in enumerate(zip(patches, rngs, clean, strict=True)):
            if patch.ndim == 4:
                given[number], crop[...] = cut_pair(patch, size, augmentation, rng)
                continue
            side = source_side(size, self.patches.side, augmentation, rng)
            top, left = rng.integers(0, self.patches.side - side + 1, 2)
            augment(resize(patch[top : top + side, left : left + side], size), augmentation, rng, out=crop)
        return clean, given, rngs

    def batch(
        self,
        numbers: Sequence[int],
        size: int,
        degradation: Degradation,
        augmentation: Augmentation,
        choices: Choices = (),
    ) -> Batch:
        """Samples by number, of the sets that are chosen; each with a level of its own if the degradation names one.

        Pairs are not degraded: they have a degraded side.
        """
        clean, given, rngs = self._cut(numbers, size, augmentation, choices)
        assert not given or degradation.level is None
        side = size // degradation.scale
        degraded, levels = np.empty((*clean.shape[:2], side, side), dtype=np.float32), []
        for number, (crop, rng) in enumerate(zip(clean, rngs, strict=True)):
            if number in given:
                degraded[number] = given[number]
                continue
            result = degrade_and_mix(crop, degradation, augmentation, rng)
            degraded[number] = result.image
            levels.append(result.level)
        level = None if degradation.level is None else torch.tensor(levels, dtype=torch.float32)
        return Batch(torch.from_numpy(degraded), torch.from_numpy(clean), level)

    def batch_at(
        self,
        numbers: Sequence[int],
        size: int,
        degradation: Degradation,
        augmentation: Augmentation,
        levels: Sequence[float],
        choices: Choices = (),
    ) -> Batch:
        """Samples by number, each degraded once at each level."""
        clean, given, rngs = self._cut(numbers, size, augmentation, choices)
        assert not given
        side = size // degradation.scale
        degraded = np.empty((len(levels), *clean.shape[:2], side, side), dtype=np.float32)
        for number, (crop, rng) in enumerate(zip(clean, rngs, strict=True)):
            for place, level in enumerate(levels):
                degraded[place, number] = degrade_at(crop, degradation, rng, level).image
        return Batch(torch.from_numpy(degraded), torch.from_numpy(clean), torch.tensor(levels, dtype=torch.float32))


class StepBatches(torch.utils.data.Dataset):
    """The batches of a stage by step, so that a DataLoader's workers can prepare them ahead in order.

    Args:
        crops: Where samples come from.
        stage: Its phases and method.
        rank: Which part of each batch, from 0.
        ranks: How many parts there are.
    """

    def __init__(self, crops: TrainingCrops, stage: ResolvedStage, *, rank: int = 0, ranks: int = 1):
        self.crops, self.stage, self.rank, self.ranks = crops, stage, rank, ranks

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch | RelumeError:
        """The rank's part of the batch of a step; an error as a value, which a DataLoader passes on unchanged."""
        try:
            return self.batch(step)
        except RelumeError as error:
            return error

    def batch(self, step: int) -> Batch:
        """The rank's part of the batch of a step."""
        position = position_at(self.stage.phases, step)
        phase, method = position.phase, self.stage.method
        size = phase.batch // self.ranks
        first = position.sample + self.rank * size
        numbers = range(first, first + size)
        if isinstance(method, EveryLevel):
            levels = method.levels
            return self.crops.batch_at(
                numbers, phase.patch, phase.degradation, phase.augmentation, levels, phase.choices
            )
        return self.crops.batch(numbers, phase.patch, phase.degradation, phase.augmentation, phase.choices)
