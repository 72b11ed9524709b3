"""Restores images in this process with ONNX Runtime, from the very file that Triton serves: on the CPU or a GPU."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relume.errors import BackendUnavailableError, ModelFormatError
from relume.inference.plan import Part
from relume.serving.config_pbtxt import given_of
from relume.serving.in_process import InProcessRestorer, Run
from relume.serving.onnx_session import open_session
from relume.serving.served_model import onnx_path

__all__ = ["OnnxRestorer"]

_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "CPU": [("CPUExecutionProvider", {})],
    "CUDA": [_CUDA],
    "TensorRT": [("TensorrtExecutionProvider", {"trt_fp16_enable": "0"}), _CUDA],
}


class OnnxRestorer(InProcessRestorer):
    """A served model in this process, computed by ONNX Runtime.

    Args:
        folder: A served model, such as `models/exported`.
        release: Its name in results and messages; the folder when None.
        threads: Threads of one run; by default one for each core this process may use.
        batch: Tiles in one run. On a CPU more are not faster, and memory grows with them.
        orientations: In which a tile is restored, 1, 2, 4 or 8; as the model says when None.
        tile: Side of a tile, see `InProcessRestorer`.
        provider: `CUDA` computes on the GPU, in float32 without the shortened products of TF32, or not at all.
            `TensorRT` likewise, with an engine in float32 that ONNX Runtime builds at each start, and by CUDA what
            TensorRT does not take.

    Raises:
        BackendUnavailableError: ONNX Runtime has no such provider here; it would compute on the CPU without a word.
        ModelMissingError: There is no served model in the folder.
        ModelFormatError: The ONNX file cannot be read, or its tensors are not those of serving.json.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        release: str | None = None,
        threads: int | None = None,
        batch: int = 1,
        orientations: int | None = None,
        tile: int | None = None,
        provider: Literal["CPU", "CUDA", "TensorRT"] = "CPU",
    ):
        self._providers = PROVIDERS[provider]
        self._threads = threads or len(os.sched_getaffinity(0))
        super().__init__(folder, release=release, batch=batch, orientations=orientations, tile=tile)

    def _load(self, model: Path | bytes, dtype: np.dtype[Any], part: Part, side: int) -> Run:
        import onnxruntime

        path = onnx_path(self.folder) if isinstance(model, bytes) else model
        wanted = self._providers[0][0]
        if wanted not in onnxruntime.get_available_providers():
            raise self._unavailable(f"this ONNX Runtime has {', '.join(onnxruntime.get_available_providers())}")
        session = open_session(model, where=path, threads=self._threads, providers=self._providers)
        if wanted not in session.get_providers():  # its libraries or the driver are missing
            raise self._unavailable(f"it uses {', '.join(session.get_providers())} instead")
        tensor = "tensor(uint8)" if dtype == np.uint8 else "tensor(float)"
        plan = self.serving.inference
        given, restored = given_of(plan, self.serving.levels), plan.scale * side
        number = [(given, "tensor(float)", [1])] if given else []
        for tensors, expected in [
            (session.get_inputs(), [("image", tensor, [3, side, side]), *number]),
            (session.get_outputs(), [("restored", tensor, [3 * part.results, restored, restored])]),
        ]:
            found = [(each.name, each.type, each.shape[1:]) for each in tensors]
            if found != expected:
                raise ModelFormatError(
                    "The ONNX file does not match serving.json",
                    where=path,
                    why=f"it has {found}, but serving.json needs {expected}",
                    next_step="export the model again with `dvc repro export`",
                )
        return lambda inputs: session.run(["restored"], inputs)[0]

    def _unavailable(self, why: str) -> BackendUnavailableError:
        needed = "onnxruntime-gpu in place of onnxruntime"
        if self._providers is PROVIDERS["TensorRT"]:
            needed += " and tensorrt-cu12, in an environment of its own,"
        return BackendUnavailableError(
            "ONNX Runtime cannot compute on a GPU here",
            why=why,
            next_step=f"install {needed} on a machine with a GPU, or use another backend",
        )
