"""Restores images in this process with ONNX Runtime, from the very file that Triton serves."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from relume.errors import ModelFormatError
from relume.serving.levels import choose_level
from relume.serving.restoration import Restoration
from relume.serving.served_model import onnx_path, read_serving
from relume.serving.tiling import restore_tiled


class OnnxRestorer:
    """A served model in this process.

    Args:
        folder: A served model, such as `models/exported`.
        release: Its name in results and messages; the folder when None.
        threads: Threads of one run; by default one for each core this process may use.
        batch: Tiles in one run. On a CPU more are not faster, and memory grows with them.

    Raises:
        ModelMissingError: There is no served model in the folder.
        ModelFormatError: The ONNX file cannot be read, or its tensors are not those of serving.json.
    """

    def __init__(self, folder: str | Path, *, release: str | None = None, threads: int | None = None, batch: int = 1):
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        self.serving = read_serving(folder)
        self.folder, self.release, self._batch = Path(folder), release or str(folder), batch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # planned memory was twice that of the arena, and no faster
        # Spinning threads would take the cores from the tiler, which works beside the session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = onnx_path(folder)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            failures.Fail,
            failures.InvalidArgument,
            failures.InvalidGraph,
            failures.InvalidProtobuf,
            failures.NotImplemented,
        ) as error:
            raise ModelFormatError(
                "Cannot read the ONNX file", where=path, why=error, next_step="dvc repro export"
            ) from None
        side = self.serving.tile
        level = [("level", "tensor(float)", [1])] if self.serving.levels else []
        for tensors, expected in [
            (self._session.get_inputs(), [("image", "tensor(uint8)", [3, side, side]), *level]),
            (self._session.get_outputs(), [("restored", "tensor(uint8)", [3, side, side])]),
        ]:
            found = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in tensors]
            if found != expected:
                raise ModelFormatError(
                    "The ONNX file is not what serving.json says",
                    where=path,
                    why=f"it holds {found}, expected is {expected}",
                    next_step="dvc repro export",
                )

    def restore_batch(self, tiles_NCHW: np.ndarray, levels: np.ndarray | None = None) -> np.ndarray:
        """Restores tiles in one run.

        Args:
            tiles_NCHW: uint8 (N, 3, T, T) RGB.
            levels: float32 (N,), of the model's kind, for an adjustable model, which needs them; None for others.

        Returns:
            uint8 (N, 3, T, T) RGB.
        """
        inputs = {"image": tiles_NCHW} if levels is None else {"image": tiles_NCHW, "level": levels[:, np.newaxis]}
        return self._session.run(["restored"], inputs)[0]

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
