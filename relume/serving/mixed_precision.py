"""A served graph in mixed precision: convolutions and matrix products in fp16 or bf16, the rest in float32.

TensorRT has no precision flags any more: it computes each tensor in the type that the graph states. So the graph is
made here, of the very file that is served. Normalisation, softmax, means and divisions stay in float32, because sums
over many values overflow fp16 (published NAFNet engines show it), and so does the last convolution, whose rounding
would be seen in the image.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np

from relume.errors import ModelFormatError

if TYPE_CHECKING:
    import onnx

LowPrecision = Literal["fp16", "bf16"]

_TYPES: dict[LowPrecision, Any] = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Relu", "Reshape"),
    *("Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
}
"""What gives values that it was given, so that nothing is rounded."""
_FOLLOW = _MOVES | {
    *("Abs", "Add", "Clip", "Gelu", "LeakyRelu", "Max", "Min", "Mul", "Neg", "PRelu", "Sigmoid", "Sub", "Tanh"),
}
"""What is computed in the precision of what it is given."""

_SUM = "it sums many values"
_RANGE = "its values span more than a low precision holds"
_WHY_FLOAT32 = {
    **dict.fromkeys(("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"), _SUM),
    **dict.fromkeys(("AveragePool", "CumSum", "GlobalAveragePool", "LpNormalization", "RMSNormalization"), _SUM),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare"), _SUM),
    **dict.fromkeys(("Div", "Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "Softmax", "Softplus", "Sqrt"), _RANGE),
    **dict.fromkeys(("If", "Loop", "Scan"), "it runs a graph of its own"),
    **dict.fromkeys(("Cast", "Round"), "it is a change of type that the served graph states"),
}
_LAST = "it is the last one before the image, where its rounding would be seen"
_MIXED = "it is given float32"
_LEVEL = "it is of the level alone, where it costs nothing and an error of it would shift all of the image"
_TOO_LARGE = "a constant of it is outside of the range of fp16"
_NOT_BUILT = "TensorRT-RTX builds none in bf16"
_UNKNOWN = "it was not tried in a low precision"

_BF16_OPSET = 22  # convolutions of bfloat16; the operations used here are those of opset 20 but for their types


@dataclass(frozen=True, kw_only=True)
class InFloat32:
    """A tensor that stays in float32.

    Attributes:
        tensor: Its name.
        operation: The ONNX operation that computes it.
        why: The reason, as the end of a sentence.
    """

    tensor: str
    operation: str
    why: str


@dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """A strongly typed graph.

    Attributes:
        model: Takes and gives what the served graph does; each tensor has the type in which it is to be computed.
        precision: Of the tensors that are not float32.
        low: Names of the tensors of the low precision that an operation computes.
        float32: The floating-point tensors that are not, in the order of the graph.
    """

    model: "onnx.ModelProto"
    precision: LowPrecision
    low: frozenset[str]
    float32: list[InFloat32]

    def plan(self) -> dict[str, Any]:
        """What is computed in which precision, as JSON values."""
        low = Counter(node.op_type for node in self.model.graph.node if node.output[0] in self.low)
        return {
            "precision": self.precision,
            "operations": dict(sorted(low.items())),
            "float32": [vars(tensor) for tensor in self.float32],
        }

    def summary(self) -> str:
        """The plan in a few lines: how many operations of which kind in which precision, and why not in the low one."""
        low = ", ".join(f"{count} {operation}" for operation, count in self.plan()["operations"].items())
        kept = Counter((tensor.operation, tensor.why) for tensor in self.float32)
        lines = [f"  float32  {count} {operation}: {why}" for (operation, why), count in sorted(kept.items())]
        return "\n".join([f"  {self.precision:<7}  {low or 'nothing'}", *lines])

    def emulated(self) -> bytes:
        """The graph for a runtime without the low precision: computed in float32, with each low tensor rounded.

        It is stricter than a runtime that joins operations and rounds once for all of them.
        """
        import onnx
        from onnx import helper, numpy_helper

        twin, number = onnx.ModelProto(), _number(self.precision)
        twin.CopyFrom(self.model)
        for constant in twin.graph.initializer:
            if constant.data_type == number:
                as_float = numpy_helper.to_array(constant).astype(np.float32)
                constant.CopyFrom(numpy_helper.from_array(as_float, constant.name))
        nodes = []
        for node in twin.graph.node:
            nodes.append(node)
            if not (node.op_type == "Cast" and node.attribute[0].i == number) and (
                node.op_type in _MOVES or not self.low.intersection(node.output)
            ):
                continue
            rounded = f"{node.output[0]}_rounded"
            back = helper.make_node("Cast", [rounded], [node.output[0]], to=onnx.TensorProto.FLOAT)
            if node.op_type == "Cast":
                node.output[0] = rounded
                nodes.append(back)
            else:
                exact, node.output[0] = f"{node.output[0]}_exact", f"{node.output[0]}_exact"
                nodes += [helper.make_node("Cast", [exact], [rounded], to=number), back]
        del twin.graph.node[:]
        twin.graph.node.extend(nodes)
        return twin.SerializeToString()


def mixed_precision(model: str | Path | bytes, precision: LowPrecision) -> MixedPrecision:
    """Makes the strongly typed graph of a served model.

    Convolutions and matrix products are computed in the low precision, and so is what follows them as long as all of
    the image that it is given is. The plan says of every other tensor why it stays in float32.

    Args:
        model: An ONNX file, or a serialised model, such as `relume.serving.export.export_onnx` writes it.
        precision: The low one.

    Raises:
        ModelFormatError: It is no ONNX model.
    """
    import onnx

    try:
        source = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
        source = onnx.shape_inference.infer_shapes(source, strict_mode=True)
    except Exception as error:  # whatever a broken file makes it raise
        raise ModelFormatError(
            "The ONNX file cannot be read",
            where="the model" if isinstance(model, bytes) else model,
            why=error,
            next_step="export the model again with `dvc repro export`",
        ) from None
    return _Surgery(source, precision).result()


class _Surgery:
    """The rewriting of one graph. A tensor has its name in float32, and with the precision behind it in the low one."""

    def __init__(self, source: "onnx.ModelProto", precision: LowPrecision):
        from onnx import TensorProto, numpy_helper

        self._source, self._precision, graph = source, precision, source.graph
        values = [*graph.value_info, *graph.input, *graph.output]
        self._float = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._float |= {each.name for each in graph.initializer if each.data_type == TensorProto.FLOAT}
        self._opset = next(entry.version for entry in source.opset_import if entry.domain == "")
        self._last = set(self._before_the_output())
        self._of_image = {graph.input[0].name}
        for node in graph.node:
            if node.op_type != "Shape" and self._of_image.intersection(_inputs(node)):
                self._of_image.update(node.output)
        self._low: set[str] = set()  # the tensors that an operation computes in the low precision
        self._made: set[str] = set()  # the casts that are there already
        self._nodes: list[onnx.NodeProto] = []
        self._float32: list[InFloat32] = []

    def result(self) -> MixedPrecision:
        """Rewrites node after node."""
        import onnx

        for node in self._source.graph.node:
            if not self._float.intersection(node.output):
                self._keep(node)
            elif why := self._why_float32(node):
                self._keep(node)
                self._float32 += [InFloat32(tensor=name, operation=node.op_type, why=why) for name in node.output]
            else:
                self._lower(node)
        model = onnx.ModelProto()
        model.CopyFrom(self._source)
        del model.graph.node[:], model.graph.value_info[:]
        model.graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in _inputs(node)}
        constants = [each for each in model.graph.initializer if each.name in used]
        constants += [self._lowered(name) for name in self._constants if self._name(name) in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(constants)
        if self._precision == "bf16":
            next(entry for entry in model.opset_import if entry.domain == "").version = _BF16_OPSET
        low = frozenset(self._name(name) for name in self._low)
        return MixedPrecision(model=model, precision=self._precision, low=low, float32=self._float32)

    def _before_the_output(self) -> Iterator[str]:
        """The tensors of the products that no other product comes after."""
        made_by = {name: node for node in self._source.graph.node for name in node.output}
        waiting, seen = [value.name for value in self._source.graph.output], set[str]()
        while waiting:
            node = made_by.get(waiting.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if node.op_type in _PRODUCTS:
                yield node.output[0]
            else:
                waiting += _inputs(node)

    def _why_float32(self, node: "onnx.NodeProto") -> str | None:
        """Why a node is computed in float32; None for one that is not."""
        if node.op_type not in _PRODUCTS | _FOLLOW:
            return _WHY_FLOAT32.get(node.op_type, _UNKNOWN)
        if node.output[0] in self._last:
            return _LAST
        if node.op_type == "ConvTranspose" and self._precision == "bf16":
            return _NOT_BUILT
        if node.op_type in _PRODUCTS and node.output[0] not in self._of_image:
            return _LEVEL
        typed = self._typed_inputs(node)
        if any(self._too_large(name) for name in typed):
            return _TOO_LARGE
        computed = self._of_image.intersection(typed)  # the others are small, and rounded as weights are
        if node.op_type in _FOLLOW and not (computed and self._low.issuperset(computed)):
            return _MIXED
        return None

    def _typed_inputs(self, node: "onnx.NodeProto") -> list[str]:
        """The inputs that have the type of the first output; a Resize, say, has scales that have not."""
        import onnx

        schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        kinds = [schema.inputs[min(i, len(schema.inputs) - 1)].type_str for i in range(len(node.input))]
        return [
            name for name, kind in zip(node.input, kinds, strict=True) if name and kind == schema.outputs[0].type_str
        ]

    def _too_large(self, name: str) -> bool:
        constant = self._constants.get(name)
        return constant is not None and bool((np.abs(constant) > ml_dtypes.finfo(_TYPES[self._precision]).max).any())

    def _keep(self, node: "onnx.NodeProto") -> None:
        """Takes a node over, with what it needs in float32."""
        for name in _inputs(node):
            if name in self._low:
                self._cast(self._name(name), name, "FLOAT")
        self._nodes.append(node)

    def _lower(self, node: "onnx.NodeProto") -> None:
        """Takes a node over in the low precision, with what it needs in that."""
        import onnx

        typed, lowered = self._typed_inputs(node), onnx.NodeProto()
        lowered.CopyFrom(node)
        for name in typed:
            if name not in self._constants and name not in self._low:
                self._cast(name, self._name(name), self._precision)
        lowered.input[:] = [self._name(name) if name in typed else name for name in node.input]
        lowered.output[:] = [self._name(name) if name in self._float else name for name in node.output]
        self._low |= self._float.intersection(node.output)
        self._nodes.append(lowered)

    def _cast(self, source: str, target: str, to: str) -> None:
        from onnx import TensorProto, helper

        if target not in self._made:
            self._made.add(target)
            number = TensorProto.FLOAT if to == "FLOAT" else _number(self._precision)
            self._nodes.append(helper.make_node("Cast", [source], [target], to=number))

    def _lowered(self, constant: str) -> "onnx.TensorProto":
        from onnx import numpy_helper

        values = self._constants[constant].astype(_TYPES[self._precision])
        return numpy_helper.from_array(values, self._name(constant))

    def _name(self, tensor: str) -> str:
        return f"{tensor}_{self._precision}"


def _number(precision: LowPrecision) -> int:
    """ONNX's number of the type."""
    from onnx import TensorProto

    return {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]


def _inputs(node: "onnx.NodeProto") -> list[str]:
    """The names that a node reads, those that graphs inside of it take from outside included."""
    inner = [each for attribute in node.attribute if attribute.HasField("g") for each in attribute.g.node]
    return [name for name in node.input if name] + [name for each in inner for name in _inputs(each)]
