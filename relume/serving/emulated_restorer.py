"""Restores images in this process by the emulated twin of a mixed-precision graph: what an engine of it computes."""

from pathlib import Path
from typing import Any

import numpy as np

from relume.inference.plan import Part
from relume.serving.in_process import Run
from relume.serving.mixed_precision import LowPrecision, mixed_precision
from relume.serving.onnx_restorer import OnnxRestorer

__all__ = ["EmulatedRestorer"]


class EmulatedRestorer(OnnxRestorer):
    """A served model in mixed precision, emulated in float32 by ONNX Runtime on the CPU.

    Args:
        folder: A served model.
        precision: The low precision. Images of more than 8 bits are computed in float32.
        options: As of `OnnxRestorer`.

    Raises:
        ModelMissingError: There is no served model in the folder.
        ModelFormatError: The ONNX file cannot be read.
    """

    def __init__(self, folder: str | Path, *, precision: LowPrecision, **options: Any):
        self._precision = precision
        super().__init__(folder, **options)

    def _load(self, model: Path | bytes, dtype: np.dtype[Any], part: Part, side: int) -> Run:
        if dtype == self._dtype:
            model = mixed_precision(model, self._precision).emulated()
        return super()._load(model, dtype, part, side)
