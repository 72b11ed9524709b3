"""Restores images in this process with OpenVINO, from the very file that Triton serves; the fastest way on a CPU."""

import functools
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relume.errors import ModelFormatError
from relume.inference.plan import Part
from relume.serving.in_process import InProcessRestorer, Run
from relume.serving.served_model import onnx_path

__all__ = ["OpenVinoRestorer", "core", "fastest_precision"]

Precision = Literal["f32", "bf16"]


@functools.cache
def core() -> Any:
    """OpenVINO's core, one for the life of this process.

    Each core gives the thread another stack for signal handlers and, when it goes, the one from before. Of two that go
    in the order in which they came, the second gives back the memory of the first, which is free by then: the next
    signal that has a handler, such as Ctrl-C, ends the process with a segmentation fault (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def fastest_precision() -> Precision:
    """bf16 where this CPU computes in it, at about twice the speed of f32."""
    return "bf16" if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


class OpenVinoRestorer(InProcessRestorer):
    """A served model in this process, computed by OpenVINO.

    Args:
        folder: A served model.
        precision: `f32` computes what PyTorch computes; `bf16` differs by at most a few of 255. It is always
            stated, because OpenVINO takes bf16 by itself on some CPUs and not on others. Images of more than 8 bits
            and models of float32 tiles are computed in f32.
        release: Its name in results and messages; the folder when None.
        threads: Threads of one run; by default one for each core this process may use.
        batch: Tiles in one run.
        orientations: In which a tile is restored, 1, 2, 4 or 8; as the model says when None.
        tile: Side of a tile, see `InProcessRestorer`.

    Raises:
        ModelMissingError: There is no served model in the folder.
        ModelFormatError: The ONNX file cannot be read.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: Precision = "f32",
        release: str | None = None,
        threads: int | None = None,
        batch: int = 1,
        orientations: int | None = None,
        tile: int | None = None,
    ):
        self._precision, self._threads = precision, threads or len(os.sched_getaffinity(0))
        super().__init__(folder, release=release, batch=batch, orientations=orientations, tile=tile)

    def _load(self, model: Path | bytes, dtype: np.dtype[Any], part: Part, side: int) -> Run:
        try:
            compiled = core().compile_model(
                core().read_model(model) if isinstance(model, bytes) else model,
                "CPU",
                {
                    # bfloat16 would round what 16 bits hold, and what a mean is taken of.
                    "INFERENCE_PRECISION_HINT": self._precision if dtype == np.uint8 else "f32",
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": self._threads,
                },
            )
        except Exception as error:  # whatever a broken file makes it raise
            raise ModelFormatError(
                "OpenVINO cannot read the ONNX file",
                where=onnx_path(self.folder) if isinstance(model, bytes) else model,
                why=error,
                next_step="export the model again",
            ) from None
        return lambda inputs: compiled(inputs)["restored"]
