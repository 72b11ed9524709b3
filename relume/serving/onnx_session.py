"""ONNX files opened by ONNX Runtime, in one way for all that compute with it in process."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from relume.errors import ModelFormatError

if TYPE_CHECKING:
    import onnxruntime


def open_session(
    model: str | Path | bytes,
    *,
    where: Path,
    threads: int,
    provider: str = "CPUExecutionProvider",
    provider_options: dict[str, Any] | None = None,
) -> "onnxruntime.InferenceSession":
    """Opens a graph.

    Args:
        model: The file, or its bytes.
        where: The file, for the message.
        threads: Of one run.
        provider: Of ONNX Runtime, which must be available.
        provider_options: Of that.

    Raises:
        ModelFormatError: It cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # planned memory was twice that of the arena, and no faster
    # Spinning threads would take the cores from the tiler, which works beside the session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=[(provider, provider_options or {})])
    except Exception as error:  # a class of its own for each kind of failure
        raise ModelFormatError(
            "The ONNX file cannot be read",
            where=where,
            why=error,
            next_step="export the model again with `dvc repro export`",
        ) from None
