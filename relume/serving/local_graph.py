"""A served graph for tiles of another side than that of its file, where it gives the same pixels.

A graph of convolutions, and of what is done pixel by pixel, takes tiles of any side: a pixel of its result depends on
those within a known distance and on nothing else. What looks at the whole tile, as attention does, keeps its side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

_LOCAL = {"Add", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Div", "Expand", "Identity"}
_LOCAL |= {"LeakyRelu", "Mul", "PRelu", "Relu", "Reshape", "Round", "Shape", "Sigmoid", "Squeeze", "Sub", "Tanh"}
_LOCAL |= {"Transpose", "Unsqueeze"}
_UNSHUFFLE = [0, 1, 3, 5, 2, 4]  # pixel unshuffle: (N, C, H/r, r, W/r, r) to (N, C, r, r, H/r, W/r)
_SPATIAL = {4: (2, 3), 6: (2, 4)}  # the axes of height and width in an image, and in one that is being unshuffled


@dataclass(frozen=True, kw_only=True)
class LocalGraph:
    """What is known of a graph that takes tiles of any side.

    Attributes:
        reach: Pixels in each direction that a pixel of the result depends on, at most.
        bytes_per_pixel: Of a tile, for the tensors that are needed at the same time, in float32.
    """

    reach: int
    bytes_per_pixel: float

    def memory(self, side: int) -> int:
        """Bytes that a tile takes beside the weights: 1.6 times its tensors with ONNX Runtime, 1.5 with OpenVINO."""
        return round(1.6 * self.bytes_per_pixel * side**2)


def read_local_graph(path: Path) -> LocalGraph | None:
    """Looks at the ONNX file of a served model; None if the graph keeps its side, or cannot be read at all."""
    import onnx

    try:
        model = onnx.load(path)
        side = _side(model)
        if any(not _is_local(node) for node in model.graph.node):
            return None
        onnx.shape_inference.infer_shapes(onnx.load_from_string(at_side(path, side // 2)), strict_mode=True)
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # whatever a graph that is none makes it raise; a runtime says what is wrong with the file
        return None
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {each.name: [axis.dim_value or 1 for axis in each.type.tensor_type.shape.dim] for each in values}
    weights = {each.name: each.dims for each in graph.initializer}
    reach, coarsest = 0, 1
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            pixels = side // shapes[node.input[0]][2]  # of the image for one of its input
            dilations = next((each.ints for each in node.attribute if each.name == "dilations"), [1])
            reach += max(dilations) * max(weights[node.input[1]][2:]) // 2 * pixels
            coarsest = max(coarsest, pixels)
    return LocalGraph(reach=reach + coarsest, bytes_per_pixel=4 * _largest(graph, shapes) / side**2)


def at_side(model: Path | bytes, side: int) -> bytes:
    """A local graph for tiles of another side.

    Args:
        model: An ONNX file that `read_local_graph` knows something of, or a serialised model that was made of it.
        side: Of its tiles.

    Returns:
        A serialised ONNX model.
    """
    import onnx

    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    graph, before = loaded.graph, _side(loaded)
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {each.name: each for each in graph.initializer}
    sizes: dict[str, tuple[int, ...]] = {}  # the constants that hold a height or a width, and at which places
    for node in graph.node:
        if node.op_type == "Reshape":
            sizes[node.input[1]] = _SPATIAL[constants[node.input[1]].dims[0]]
        elif node.op_type == "Expand":
            sizes |= dict.fromkeys(made_by[node.input[1]].input[2:], (0,))
    for name, places in sizes.items():
        values = onnx.numpy_helper.to_array(constants[name]).copy()
        for place in places:
            if values[place] > 1:
                values[place] = values[place] * side // before
        constants[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    del graph.value_info[:]
    for value in (graph.input[0], graph.output[0]):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_value = side
    return loaded.SerializeToString()


def _side(model: "onnx.ModelProto") -> int:
    return model.graph.input[0].type.tensor_type.shape.dim[2].dim_value


def _is_local(node: "onnx.NodeProto") -> bool:
    turns = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
    return node.op_type in _LOCAL and turns in (None, _UNSHUFFLE)


def _largest(graph: "onnx.GraphProto", shapes: dict[str, list[int]]) -> int:
    """Values of the tensors that are needed at the same time, where there are most."""
    last = {name: number for number, node in enumerate(graph.node) for name in node.input}
    needed, most = {each.name for each in graph.input}, 0
    for number, node in enumerate(graph.node):
        needed |= set(node.output)
        most = max(most, sum(int(np.prod(shapes[name])) for name in needed if name in shapes))
        needed = {name for name in needed if last.get(name, 0) > number}
    return most
