"""Export of a network to the ONNX file that is served, and the proof that it computes the same."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from relume.errors import ModelFormatError
from relume.files import atomic_file
from relume.inference.estimator import TILE
from relume.metrics import EQUAL, psnr
from relume.models.artifact import ModelCard
from relume.models.registry import inputs_of
from relume.serving.levels import LevelRange, kind_of

if TYPE_CHECKING:
    import onnx
    import onnx_ir

OPSET = 20


class ServedNetwork(nn.Module):
    """A network as it is served: uint8 in and out, with scaling, clamping and rounding inside the graph.

    Args:
        network: float32 (N, C, H, W) in [0, 1] to the same shape; adjustable ones take the level as second argument,
            those of several passes the seeds of their masks.
        dtype: `float32` leaves out scaling, clamping and rounding, for plans that make anything of its results.
    """

    def __init__(self, network: nn.Module, *, dtype: str = "uint8"):
        super().__init__()
        self.network, self._dtype = network, dtype

    def forward(self, image: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        """Restores a batch of tiles.

        Args:
            image: uint8 (N, C, T, T), or float32 in [0, 1].
            level: float32 (N, 1), for adjustable networks: a level for each tile; or the seed of its masks.

        Returns:
            (N, C, T, T) of the same type.
        """
        levels = () if level is None else (level.squeeze(1),)
        if self._dtype == "float32":
            return self.network(image, *levels)
        restored = self.network(image.to(torch.float32) / 255, *levels)
        return (restored.clamp(0, 1) * 255).round().to(torch.uint8)


class ServedLevelEstimator(nn.Module):
    """A level estimator as it is served: on tiles of the type of the model that it is served with.

    Args:
        network: float32 (N, C, H, W) in [0, 1] to levels (N,).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, T, T), uint8 or float32 in [0, 1], to levels, float32 (N, 1)."""
        values = image if image.dtype == torch.float32 else image.to(torch.float32) / 255
        return self.network(values).unsqueeze(1)


def to_onnx(
    network: nn.Module,
    examples: tuple[torch.Tensor, ...],
    names: Sequence[str],
    *,
    output: str = "restored",
    batched: Sequence[str] | None = None,
    simplify: bool = True,
) -> "torch.onnx.ONNXProgram":
    """A network as an ONNX program of opset 20 with one output.

    Args:
        network: In eval mode.
        examples: Its inputs; their sides are fixed in the program.
        names: Of the inputs.
        output: Name of the output.
        batched: Names of the inputs whose first axis is the batch, which is then open; all when None. The others keep
            their examples' shapes, and so does everything where no input is named.
        simplify: Whether constants are folded and nodes joined, which runtimes do only in part.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's concern
        program = torch.onnx.export(
            network.to(memory_format=torch.contiguous_format),
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(names),
            output_names=[output],
            dynamic_shapes=tuple({0: batch} if batched is None or name in batched else None for name in names),
            optimize=False,
        )
        if simplify:
            _simplify(program.model)
    return program


def _simplify(model: "onnx_ir.Model") -> None:
    """Does the passes of the exporter's `optimize=True` without one rule.

    The rule that joins pairs of slices looks at all nodes for each node: MambaIRv2's graph of tens of thousands would
    take hours.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import slice_split_rule

    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule is not slice_split_rule]
    passes.InlinePass()(model)
    for _ in range(2):
        optimizer.fold_constants(model, onnx_shape_inference=True)
        rewriter.RewritePass(rules)(model)
        optimizer.remove_unused_nodes(model)
    for tidy in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        tidy(model)


def export_onnx(network: nn.Module, path: str | Path, *, tile: int, channels: int = 3, dtype: str = "uint8") -> None:
    """Writes the served network as ONNX: input `image`, output `restored`, both (batch, C, T, T) of one type.

    A network that takes a level has a second input `level`, FP32 (batch, 1): one served file is all
    levels, and tiles of different levels share a batch; one of several passes has `seed`. Only the batch is
    dynamic. The file holds no source path, time or machine: equal weights give equal bytes.

    Args:
        network: In eval mode.
        path: The `.onnx` file.
        tile: T in pixels.
        channels: C.
        dtype: Of the tiles, `uint8` or `float32` in [0, 1].
    """
    names = ["image", "seed" if "seed" in inputs_of(network) else "level"][: len(inputs_of(network))]
    examples = (torch.zeros(2, channels, tile, tile, dtype=getattr(torch, dtype)), torch.full((2, 1), 25.0))
    served = ServedNetwork(network, dtype=dtype).eval()
    _write(to_onnx(served, examples[: len(names)], names).model_proto, path)


def export_level_estimator(network: nn.Module, path: str | Path, *, dtype: str = "uint8") -> None:
    """Writes a level estimator as ONNX: input `image`, (batch, 3, 128, 128), output `estimated`, float32 (batch, 1).

    Args:
        network: In eval mode.
        path: The `.onnx` file.
        dtype: Of the tiles, `uint8` or `float32` in [0, 1].
    """
    examples = (torch.zeros(2, 3, TILE, TILE, dtype=getattr(torch, dtype)),)
    _write(to_onnx(ServedLevelEstimator(network).eval(), examples, ["image"], output="estimated").model_proto, path)


def _write(model: "onnx.ModelProto", path: str | Path) -> None:
    import onnx

    _strip(model)
    onnx.checker.check_model(model)
    with atomic_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def levels_of(network: nn.Module, card: ModelCard) -> LevelRange | None:
    """The levels that an adjustable network is served with, from its card or else from the network itself.

    Args:
        network: Any network.
        card: Its `trained_for` may hold `levels`, the lowest and highest level of the training, without which the
            network's own two training levels count; `default_level`, by default the middle; and the kind of level.

    Returns:
        None for a network that takes no level.

    Raises:
        ModelFormatError: Neither says which levels the network was trained for.
        ConfigError: The card's levels are not in their order or not within their kind's bounds.
    """
    if "level" not in inputs_of(network):
        return None
    trained = card.trained_for.get("levels", getattr(network, "levels", None))
    if trained is None:
        raise ModelFormatError(
            "The levels that the network was trained for are not known",
            where=card.architecture,
            next_step='write "levels": [lowest, highest] into `trained_for` of its model.json',
        )
    lowest, highest = trained
    default = card.trained_for.get("default_level", (lowest + highest) / 2)
    return LevelRange(kind=kind_of(card.trained_for), lowest=lowest, highest=highest, default=default)


def _strip(model: "onnx.ModelProto") -> None:
    """Removes what names the code's place: documentation strings, metadata, stack traces."""
    import onnx

    model.doc_string = ""
    del model.metadata_props[:]
    graphs: list[Any] = [model.graph, *model.functions]
    for graph in graphs:  # grows by the graphs inside of loops
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        values: list[Any] = [*graph.value_info]
        if isinstance(graph, onnx.GraphProto):  # those of a function are mere names
            values += [*graph.input, *graph.output, *graph.initializer]
        for value in values:
            value.doc_string = ""
            del value.metadata_props[:]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far two ways of running one model are apart on one image, both 8 bit.

    Attributes:
        picture: Name and size of the image.
        psnr: Between the two results in dB; 120 means equal results.
        max_difference: Largest difference of 8-bit values, of 255.
        worst_tile: Largest mean difference of a tile-sized square of 8-bit values, of 255.
    """

    picture: str
    psnr: float
    max_difference: int
    worst_tile: float


def measure_parity(name: str, first: np.ndarray, second: np.ndarray, *, tile: int) -> Parity:
    """Compares two uint8 (H, W, C) results of the same image."""
    difference = np.abs(first.astype(np.int16) - second.astype(np.int16))
    tiles = [
        difference[top : top + tile, left : left + tile].mean()
        for top in range(0, difference.shape[0], tile)
        for left in range(0, difference.shape[1], tile)
    ]
    return Parity(
        picture=name,
        psnr=round(min(EQUAL, psnr(first, second)), 2),
        max_difference=int(difference.max()),
        worst_tile=round(float(max(tiles)), 4),
    )


def parity_report(measurements: list[Parity], *, min_psnr: float, max_difference: int) -> dict[str, Any]:
    """A JSON-able report with the limits and whether every image is within them."""
    passed = all(m.psnr >= min_psnr and m.max_difference <= max_difference for m in measurements)
    return {
        "passed": passed,
        "limits": {"min_psnr": min_psnr, "max_difference": max_difference},
        "pictures": [asdict(m) for m in measurements],
    }
