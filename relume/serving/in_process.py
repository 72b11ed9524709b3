"""Restoring images in this process: tiles, levels and results, whatever runtime computes a tile."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from relume.inference.tiling import restore_image
from relume.serving.float_graph import float_graph
from relume.serving.levels import choose_level
from relume.serving.restoration import Restoration
from relume.serving.served_model import onnx_path, read_serving

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Computes `restored` from the inputs by name."""


class InProcessRestorer(ABC):
    """A served model in this process; a subclass brings the runtime.

    8-bit images are restored by the very graph that Triton serves, 16-bit and float ones by its float32 variant
    (`relume.serving.float_graph`), which is made with the first such image. A graph of float32 restores all of them.

    Args:
        folder: A served model, such as `models/exported`.
        release: Its name in results and messages; the folder when None.
        batch: Tiles in one run. On a CPU more are not faster, and memory grows with them.
        orientations: In which a tile is restored, 1, 2, 4 or 8; as the model says when None.

    Attributes:
        inference: How it restores.

    Raises:
        ModelMissingError: There is no served model in the folder.
    """

    def __init__(
        self, folder: str | Path, *, release: str | None = None, batch: int = 1, orientations: int | None = None
    ):
        self.serving = read_serving(folder)
        self.inference = self.serving.inference.in_orientations(orientations)
        self.folder, self.release, self._batch = Path(folder), release or str(folder), batch
        self._dtype = np.dtype(self.serving.inference.dtype)
        self._run = self._load(onnx_path(folder), self._dtype)

    @abstractmethod
    def _load(self, model: Path | bytes, dtype: np.dtype[Any]) -> Run:
        """Loads an ONNX file, or a serialised model, whose `image` and `restored` are uint8 or float32."""

    @functools.cached_property
    def _run_float(self) -> Run:
        return self._load(float_graph(onnx_path(self.folder)), np.dtype(np.float32))

    def restore_batch(self, tiles_NCHW: np.ndarray, levels: np.ndarray | None = None) -> np.ndarray:
        """Restores tiles in one run.

        Args:
            tiles_NCHW: (N, 3, T, T) RGB: of the plan's type, or float32 in [0, 1].
            levels: float32 (N,), of the model's kind, for an adjustable model, which needs them; None for others.

        Returns:
            (N, 3, T, T) RGB of the same type; float32 is not rounded.
        """
        run = self._run if tiles_NCHW.dtype == self._dtype else self._run_float
        return run({"image": tiles_NCHW} if levels is None else {"image": tiles_NCHW, "level": levels[:, np.newaxis]})

    def restore(
        self,
        image_HWC: np.ndarray,
        *,
        level: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Restoration:
        """Restores an image.

        Args:
            image_HWC: (H, W, 3) RGB of any size: uint8, uint16, or float32 in [0, 1]; what is outside is clipped.
            level: For an adjustable model, of its kind; its default when None.
            on_progress: Called with the tiles done and the tiles in all.

        Returns:
            The restored image, of the same type.

        Raises:
            ImageError: Not such an image.
            ConfigError: `level` is no level of the model's kind, or the model takes none.
        """
        chosen = choose_level(level, self.serving.levels, model=self.release)

        def restore_batch(tiles_NCHW: np.ndarray) -> np.ndarray:
            levels = None if chosen is None else np.full(len(tiles_NCHW), chosen, np.float32)
            return self.restore_batch(tiles_NCHW, levels)

        image = restore_image(
            image_HWC,
            restore_batch,
            self.inference,
            dtype=self._dtype.name,
            batch=self._batch,
            in_flight=1,
            on_progress=on_progress,
        )
        return Restoration(image=image, release=self.release, level=chosen, levels=self.serving.levels)
