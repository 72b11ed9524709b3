"""Restoring images in this process: tiles, levels and results, whatever runtime computes a tile."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np

from relume.serving.levels import choose_level
from relume.serving.restoration import Restoration
from relume.serving.served_model import read_serving
from relume.serving.tiling import restore_tiled


class InProcessRestorer(ABC):
    """A served model in this process; a subclass brings the runtime.

    Args:
        folder: A served model, such as `models/exported`.
        release: Its name in results and messages; the folder when None.
        batch: Tiles in one run. On a CPU more are not faster, and memory grows with them.

    Raises:
        ModelMissingError: There is no served model in the folder.
    """

    def __init__(self, folder: str | Path, *, release: str | None = None, batch: int = 1):
        self.serving = read_serving(folder)
        self.folder, self.release, self._batch = Path(folder), release or str(folder), batch

    @abstractmethod
    def restore_batch(self, tiles_NCHW: np.ndarray, levels: np.ndarray | None = None) -> np.ndarray:
        """Restores tiles in one run.

        Args:
            tiles_NCHW: uint8 (N, 3, T, T) RGB.
            levels: float32 (N,), of the model's kind, for an adjustable model, which needs them; None for others.

        Returns:
            uint8 (N, 3, T, T) RGB.
        """

    def restore(
        self,
        image_HWC: np.ndarray,
        *,
        level: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Restoration:
        """Restores an image.

        Args:
            image_HWC: uint8 (H, W, 3) RGB of any size.
            level: For an adjustable model, of its kind; its default when None.
            on_progress: Called with the tiles done and the tiles in all.

        Raises:
            ImageError: Not an 8-bit RGB image.
            ConfigError: `level` is no level of the model's kind, or the model takes none.
        """
        chosen = choose_level(level, self.serving.levels, model=self.release)

        def restore_batch(tiles_NCHW: np.ndarray) -> np.ndarray:
            levels = None if chosen is None else np.full(len(tiles_NCHW), chosen, np.float32)
            return self.restore_batch(tiles_NCHW, levels)

        image = restore_tiled(
            image_HWC,
            restore_batch,
            tile=self.serving.tile,
            halo=self.serving.halo,
            batch=self._batch,
            in_flight=1,
            on_progress=on_progress,
        )
        return Restoration(image=image, release=self.release, level=chosen, levels=self.serving.levels)
