"""The float32 variant of a served graph, for images of more than 8 bits.

The ONNX file of a served model takes and gives uint8; its first nodes scale to [0, 1] and its last ones clamp, round
and cast. The variant is made of that very file when it is loaded, so that weights are stored once and every package
that was released has it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relume.errors import ModelFormatError

if TYPE_CHECKING:
    import onnx

_LEVELS = "float_graph_levels"  # the initializer that holds 255


def float_graph(path: str | Path) -> bytes:
    """The graph of a served model with `image` and `restored` as float32 in [0, 1], not rounded; a `level` stays.

    The two casts at its ends become a multiplication and a division by 255, and the rounding before the last one is
    left out. For an image of 8-bit values v / 255 its result, rounded to 8 bits, is that of the served graph within one
    level. In bfloat16, which has 8 bits of precision, it would gain nothing: it is meant to be computed in float32.

    Args:
        path: The ONNX file of a served model, see `relume.serving.served_model.onnx_path`.

    Returns:
        A serialised ONNX model.

    Raises:
        ModelFormatError: The file is no ONNX model, or does not begin and end as `export_onnx` writes it.
    """
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # whatever a broken file makes it raise
        raise _refused(path, error) from None
    graph = model.graph
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(255, np.float32), _LEVELS))
    made_by = {name: node for node in graph.node for name in node.output}

    last = made_by.get("restored")
    first = [node for node in graph.node if node.op_type == "Cast" and node.input[0] == "image"]
    if not first or last is None or last.op_type != "Cast":
        raise _refused(path, "it does not cast its input `image` and its output `restored`")
    for cast in first:
        _replace(cast, "Mul")
    node = made_by.get(last.input[0])
    while node is not None and node.op_type in ("Clip", "Round"):  # whichever comes first
        if node.op_type == "Round":
            node.op_type = "Identity"
        node = made_by.get(node.input[0])
    _replace(last, "Div")
    return model.SerializeToString()


def _replace(cast: "onnx.NodeProto", operation: str) -> None:
    """Turns a cast into `operation` with 255."""
    cast.op_type = operation
    cast.input.append(_LEVELS)
    del cast.attribute[:]


def _refused(path: str | Path, why: object) -> ModelFormatError:
    return ModelFormatError(
        "The float32 variant of the served model cannot be made",
        where=path,
        why=why,
        next_step="export the model again with `dvc repro export`",
    )
