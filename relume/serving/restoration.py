"""What a restorer returns: the restored image, and by what it was restored."""

from dataclasses import dataclass

import numpy as np

from relume.serving.levels import LevelRange

__all__ = ["Restoration"]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """A restored image. All of it comes from one release at one level, which are those that were used.

    Attributes:
        image: (H, W, 3) RGB of the type that was given; uint8 from a server.
        release: Name of the release, or the folder of a served model that was not released.
        level: The level that an adjustable model restored it at; None for another model.
        levels: The kind, range and default of that level; None for a model that takes none.
        estimated: Whether a level estimator estimated the level.
        refused: A candidate that could not restore it, so that the champion did; None when nothing failed.
    """

    image: np.ndarray
    release: str
    level: float | None
    levels: LevelRange | None
    estimated: bool = False
    refused: str | None = None
