"""ONNX files opened by ONNX Runtime, in one way for all that compute with it in process."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relume.errors import ModelFormatError

if TYPE_CHECKING:
    import onnxruntime


def open_session(
    model: str | Path | bytes,
    *,
    where: Path,
    threads: int,
    providers: Sequence[tuple[str, dict[str, str]]] = (("CPUExecutionProvider", {}),),
) -> "onnxruntime.InferenceSession":
    """Opens a graph.

    Args:
        model: The file, or its bytes.
        where: The file, for the message.
        threads: Of one run.
        providers: Of ONNX Runtime with their options, which must be available; what the first does not take is left to
            the next.

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
        return onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # a class of its own for each kind of failure
        raise ModelFormatError(
            "The ONNX file cannot be read",
            where=where,
            why=error,
            next_step="export the model again with `dvc repro export`",
        ) from None
