"""Which patch a sample is cut from: all patches evenly, or those of some sets in the proportions of a phase."""

import zlib
from collections.abc import Sequence

import numpy as np

from relume.degradations import counter_rng
from relume.training.config import SetChoice
from relume.training.patches import Patches

Choices = Sequence[tuple[str, SetChoice]]


class Order:
    """Some patches without end, each epoch in another order; what is at a place depends on the seed and the place.

    Args:
        indices: The patches of an epoch; a patch may be in it several times.
        seed: Of the orders.
        of_set: The set that they are of, if they are of one.
    """

    def __init__(self, indices: np.ndarray, seed: int, of_set: str | None = None):
        self.indices, self._seed = indices, seed
        self._stream = () if of_set is None else (zlib.crc32(of_set.encode()),)
        self._epoch, self._order = -1, indices

    def __getitem__(self, place: int) -> int:
        epoch, position = divmod(place, len(self.indices))
        if epoch != self._epoch:
            rng = counter_rng(self._seed, "order", *self._stream, epoch)
            self._epoch, self._order = epoch, rng.permutation(self.indices)
        return int(self._order[position])


class Mixture:
    """Patches of several sets: of as many samples in a row as the weights sum to, each set gives its weight.

    The samples of each such block are in an order by chance, and each set is gone through evenly.

    Args:
        patches: All patches.
        choices: By the name of a set what is taken of it.
        indices: The patches of an epoch of the stage, of which those of the sets are taken.
        seed: Of the orders.
    """

    def __init__(self, patches: Patches, choices: Choices, indices: np.ndarray, seed: int):
        table, scores = patches.table(), patches.scores() if any(choice.scores for _, choice in choices) else None
        self._seed, self._weights = seed, [choice.weight for _, choice in choices]
        self.orders: dict[str, Order] = {}
        for name, choice in choices:
            suited = (table.set == name) & (table.sharpness >= choice.min_sharpness)
            suited &= table.flat_fraction <= choice.max_flat_fraction
            for bounds in choice.scores:
                assert scores is not None  # `relume.training.rules.data_problems` has seen it
                values = scores[bounds.score]
                suited &= (values >= (-np.inf if bounds.min is None else bounds.min)) & (
                    values <= (np.inf if bounds.max is None else bounds.max)
                )
            found = indices[suited[indices]]
            if choice.select is not None:
                chance = counter_rng(seed, "select", zlib.crc32(name.encode()))
                found = np.sort(chance.permutation(found)[: choice.select])
            self.orders[name] = Order(found, seed, name)

    def __getitem__(self, sample: int) -> int:
        block, position = divmod(sample, sum(self._weights))
        of_block = np.repeat(np.arange(len(self._weights)), self._weights)
        of_block = counter_rng(self._seed, "sets", block).permutation(of_block)
        chosen = of_block[position]
        earlier = block * self._weights[chosen] + int((of_block[:position] == chosen).sum())
        return list(self.orders.values())[chosen][earlier]
