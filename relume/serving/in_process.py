"""Restoring images in this process: tiles, levels and results, whatever runtime computes a tile."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import ConfigError
from relume.inference.estimator import estimate_level
from relume.inference.plan import Inference, Part
from relume.inference.tiling import require_rgb, restore_image
from relume.memory import available_memory
from relume.serving.float_graph import float_graph
from relume.serving.levels import choose_level
from relume.serving.local_graph import at_side, read_local_graph
from relume.serving.onnx_session import open_session
from relume.serving.restoration import Restoration
from relume.serving.served_model import level_estimator_path, onnx_path, onnx_paths, read_serving

Run = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Computes `restored` from the inputs by name."""

_log = logging.getLogger(__name__)


class InProcessRestorer(ABC):
    """A served model in this process; a subclass brings the runtime.

    8-bit images are restored by the very graph that Triton serves, 16-bit and float ones by its float32 variant
    (`relume.serving.float_graph`), which is made with the first such image. A graph of float32 restores all of them. A
    graph that takes tiles of any side (`relume.serving.local_graph`) restores a small image in one that is not larger
    than needed, with the same pixels.

    Args:
        folder: A served model, such as `models/exported`.
        release: Its name in results and messages; the folder when None.
        batch: Tiles in one run. On a CPU more are not faster, and memory grows with them.
        orientations: In which a tile is restored, 1, 2, 4 or 8; as the model says when None.
        tile: Side of a tile, a multiple of 16; as the model says when None. Where there is no memory for it, it is
            halved until there is, and a warning is logged.

    Attributes:
        inference: How it restores.

    Raises:
        ModelMissingError: There is no served model in the folder.
        ConfigError: `tile` or `orientations` cannot be.
    """

    _any_side = False  # whether the runtime takes tiles of any side, whatever the graph

    def __init__(
        self,
        folder: str | Path,
        *,
        release: str | None = None,
        batch: int = 1,
        orientations: int | None = None,
        tile: int | None = None,
    ):
        self.serving = read_serving(folder)
        self.folder, self.release, self._batch = Path(folder), release or str(folder), batch
        self._dtype = np.dtype(self.serving.inference.dtype)
        plan = self.serving.inference
        alone = len(plan.parts) == 1 and plan.scale == 1
        self._graph = read_local_graph(onnx_path(folder)) if alone else None
        self.inference = self._fitting(self._in_tiles(tile).in_orientations(orientations))
        self._runs: dict[tuple[np.dtype[Any], str, int], Run] = {}
        self._estimate: Callable[[np.ndarray], np.ndarray] | None = None
        for part, side in self.inference.graphs:
            self._run(self._dtype, part, side)

    def _in_tiles(self, tile: int | None) -> Inference:
        plan = self.serving.inference
        if tile is None or tile == plan.tile:
            return plan
        if not (self._graph or self._any_side):
            raise ConfigError(
                "The tiles of this model have one size",
                where=f"{self.release}, tiles of {plan.tile} pixels",
                why="it looks at the whole tile, so its graph was exported for that size",
                next_step="leave the tile out, or choose the backend torch, which computes the network itself",
            )
        return plan.in_tiles(tile)

    def _fitting(self, plan: Inference) -> Inference:
        """The plan, or one with a smaller tile where there is no memory for that."""
        free, fitting = available_memory(), plan
        while self._graph and self._graph.memory(max(fitting.tiles)) > free and plan.tile_fits(fitting.tile // 2):
            fitting = plan.in_tiles(fitting.tile // 2)
        if fitting is not plan:
            _log.warning(
                "There is no memory for tiles of %d pixels, so images are restored in tiles of %d pixels.",
                plan.tile,
                fitting.tile,
            )
        return fitting

    @abstractmethod
    def _load(self, model: Path | bytes, dtype: np.dtype[Any], part: Part, side: int) -> Run:
        """Loads an ONNX file, or a serialised model, whose `image` and `restored` are uint8 or float32."""

    def _run(self, dtype: np.dtype[Any], name: str, side: int) -> Run:
        key = dtype, name, 0 if self._any_side else side
        if key not in self._runs:
            exported = onnx_paths(self.folder, self.serving.inference)
            path = exported.get((name, side), onnx_path(self.folder))
            model: Path | bytes = path if dtype == self._dtype else float_graph(path)
            if self._graph and (name, side) not in exported:
                model = at_side(model, side)
            part = next(part for part in self.inference.parts if part.name == name)
            self._runs[key] = self._load(model, dtype, part, side)
        return self._runs[key]

    def restore_batch(
        self,
        tiles_NCHW: np.ndarray,
        levels: np.ndarray | None = None,
        *,
        part: str = "",
        seeds: np.ndarray | None = None,
    ) -> np.ndarray:
        """Restores tiles in one run.

        Args:
            tiles_NCHW: (N, 3, T, T) RGB of one of the plan's sizes: of its type, or float32 in [0, 1].
            levels: float32 (N,), of the model's kind, for an adjustable model, which needs them; None for others.
            part: Of the plan, by its name.
            seeds: float32 (N,), of the masks of a plan with several passes; 0 when None.

        Returns:
            (N, 3 · results, scale · T, scale · T) RGB of the same type; float32 is not rounded.
        """
        if seeds is None and self.inference.passes > 1:
            seeds = np.zeros(len(tiles_NCHW), np.float32)
        given = {"level": levels, "seed": seeds}
        numbers = {name: values[:, np.newaxis] for name, values in given.items() if values is not None}
        return self._run(tiles_NCHW.dtype, part, tiles_NCHW.shape[2])({"image": tiles_NCHW, **numbers})

    def plan_for(self, height: int, width: int) -> Inference:
        """How an image of this size is restored: by a smaller tile if that is all that its pixels depend on."""
        return self.inference.around(height, width, self._graph.reach) if self._graph else self.inference

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
            level: For an adjustable model, of its kind; when None what its level estimator estimates, or its default.
            on_progress: Called with the tiles done and the tiles in all.

        Returns:
            The restored image, of the same type.

        Raises:
            ImageError: Not such an image.
            ConfigError: `level` is no level of the model's kind, or the model takes none.
        """
        estimated = level is None and self.serving.inference.estimator is not None
        chosen = choose_level(
            self.estimated_level(image_HWC) if estimated else level, self.serving.levels, model=self.release
        )

        def restore_batch(tiles_NCHW: np.ndarray, **which: Any) -> np.ndarray:
            levels = None if chosen is None else np.full(len(tiles_NCHW), chosen, np.float32)
            return self.restore_batch(tiles_NCHW, levels, **which)

        image = restore_image(
            image_HWC,
            restore_batch,
            self.plan_for(*image_HWC.shape[:2]),
            dtype=self._dtype.name,
            batch=self._batch,
            in_flight=1,
            on_progress=on_progress,
        )
        return Restoration(
            image=image, release=self.release, level=chosen, levels=self.serving.levels, estimated=estimated
        )

    def estimated_level(self, image_HWC: np.ndarray) -> float:
        """The level of an image by the model's level estimator, which ONNX Runtime computes, whatever computes tiles.

        Args:
            image_HWC: As of `restore`.

        Raises:
            ImageError: Not such an image.
        """
        require_rgb(image_HWC)
        if self._estimate is None:
            self._estimate = open_level_estimator(level_estimator_path(self.folder))
        assert self.serving.levels is not None  # `read_serving` asks for them
        return self.serving.levels.nearest(estimate_level(image_HWC, self._estimate, dtype=self._dtype.name))


def open_level_estimator(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The level estimator of a served model as a function of tiles, see `estimate_level`.

    Raises:
        ModelFormatError: The file cannot be read.
    """
    session = open_session(path, where=path, threads=1)  # as in Triton; at most 16 small tiles of an image
    return lambda tiles_NCHW: session.run(["estimated"], {"image": tiles_NCHW})[0]
