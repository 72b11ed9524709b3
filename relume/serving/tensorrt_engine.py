"""TensorRT's engines: for what one is valid, how it is built, where it is kept, and how it runs.

The builder needs no GPU where the library has come without one: `tensorrt_rtx` does, which has the same calls and
stands in for the parser and the builder in tests. Its engines are never served.
"""

import dataclasses
import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import BackendUnavailableError, BrokenFileError, EngineError, RelumeError
from relume.files import sha256_file, write_bytes, write_json
from relume.inference.plan import Part
from relume.reading import read_as
from relume.serving.config_pbtxt import MAX_BATCH
from relume.serving.in_process import InProcessRestorer, Run
from relume.serving.served_model import onnx_path, read_serving

BATCHES = (1, MAX_BATCH // 2, MAX_BATCH)
"""Tiles in a batch that an engine takes: the fewest, those it is fastest for, the most."""

GRAPH, ENGINE, RECORD, TIMING = "model.onnx", "model.plan", "engine.json", "timing.cache"
_AGAIN = "run `relume export --backend tensorrt` on the machine that serves"
_IN_FLOAT32 = ("NORMALIZATION", "SOFTMAX", "REDUCE")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that makes an engine invalid when it changes.

    Attributes:
        onnx: SHA-256 of the served model's ONNX file.
        graph: SHA-256 of the mixed-precision graph, and so of the precision plan.
        tile: Side of a tile in pixels.
        batches: As `BATCHES`.
        tensorrt: Version of TensorRT.
        gpu: Name of the GPU.
        compute_capability: Of the GPU, such as `9.0`.
    """

    onnx: str
    graph: str
    tile: int
    batches: tuple[int, int, int] = BATCHES
    tensorrt: str
    gpu: str
    compute_capability: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What decides on a machine whether an engine is valid there."""

    tensorrt: str
    gpu: str
    compute_capability: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """What stands beside an engine.

    Attributes:
        key: For what it is valid.
        sha256: Of the engine's file.
        ran: Whether it ran on the GPU of the key within its limits of parity; only then may it be served.
        milliseconds: Median time of a tile there.
    """

    key: EngineKey
    sha256: str
    ran: bool
    milliseconds: float


def library() -> Any:
    """TensorRT's module.

    Raises:
        BackendUnavailableError: It is not installed.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise BackendUnavailableError(
            "TensorRT is not installed here",
            why=error,
            next_step="run the command where the engine will serve, such as in NVIDIA's Triton image",
        ) from None


def machine() -> Machine:
    """TensorRT's version and the GPU of this machine.

    Raises:
        BackendUnavailableError: TensorRT is not installed, or PyTorch sees no GPU.
    """
    import torch

    version = library().__version__
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            "There is no GPU for TensorRT here",
            why=f"PyTorch {torch.__version__} sees none",
            next_step="run the command on the machine that will serve, with PyTorch for CUDA",
        )
    major, minor = torch.cuda.get_device_capability()
    return Machine(tensorrt=version, gpu=torch.cuda.get_device_name(), compute_capability=f"{major}.{minor}")


def engine_key(served: str | Path, graph: bytes, here: Machine) -> EngineKey:
    """The key of the engine of a served model on a machine.

    Args:
        served: The served model.
        graph: Its graph in mixed precision, serialised.
        here: The machine.
    """
    return EngineKey(
        onnx=sha256_file(onnx_path(served)),
        graph=hashlib.sha256(graph).hexdigest(),
        tile=read_serving(served).inference.tile,
        **dataclasses.asdict(here),
    )


def engine_folder(served: str | Path, home: Path) -> Path:
    """Where the engine of a served model is kept, with all that belongs to it."""
    return home / "engines" / sha256_file(onnx_path(served))[:16]


def read_engine(folder: Path, wanted: EngineKey) -> EngineRecord:
    """The engine that is kept in a folder, if it is valid for what is wanted.

    Raises:
        EngineError: There is none, it is damaged, it never ran, or it is for something else; the message says what.
    """
    if not (folder / RECORD).is_file():
        raise EngineError("There is no engine", where=folder, next_step=_AGAIN)
    try:
        record = read_as(EngineRecord, folder / RECORD, next_step=_AGAIN)
    except BrokenFileError as error:
        raise EngineError(
            "The record of the engine is damaged", where=error.where, why=error.why, next_step=_AGAIN
        ) from None
    different = [
        f"{field.name} is {_shown(getattr(record.key, field.name))}, needed is {_shown(getattr(wanted, field.name))}"
        for field in dataclasses.fields(EngineKey)
        if getattr(record.key, field.name) != getattr(wanted, field.name)
    ]
    why = "; ".join(different)
    if not why and not record.ran:
        why = "it never ran within its limits"
    if not why and not ((folder / ENGINE).is_file() and sha256_file(folder / ENGINE) == record.sha256):
        why = f"{ENGINE} is not the file that was built"
    if why:
        raise EngineError("The engine cannot be used", where=folder, why=why, next_step=_AGAIN)
    return record


def require_engine(served: str | Path, folder: Path | None) -> EngineRecord:
    """The engine of a served model in a folder, if it ran on this machine.

    Raises:
        EngineError: There is none that is valid for the model and this machine.
        BackendUnavailableError: TensorRT is not installed, or PyTorch sees no GPU.
    """
    here = machine()
    if folder is None or not (folder / GRAPH).is_file():
        raise EngineError("There is no engine of the model", where=folder or served, next_step=_AGAIN)
    return read_engine(folder, engine_key(served, (folder / GRAPH).read_bytes(), here))


def write_engine(folder: Path, engine: bytes, key: EngineKey, *, milliseconds: float) -> EngineRecord:
    """Keeps an engine that ran within its limits of parity on the GPU of its key."""
    (folder / RECORD).unlink(missing_ok=True)  # it is never beside another engine
    write_bytes(folder / ENGINE, engine)
    record = EngineRecord(key=key, sha256=sha256_file(folder / ENGINE), ran=True, milliseconds=milliseconds)
    write_json(folder / RECORD, dataclasses.asdict(record))
    return record


def build_engine(tensorrt: Any, graph: bytes, *, timing: Path | None = None) -> bytes:
    """Builds an engine for batches of `BATCHES`.

    Args:
        tensorrt: The module: `tensorrt`, or `tensorrt_rtx` in tests.
        graph: In mixed precision, serialised.
        timing: File that keeps the times of kernels for the next build; `tensorrt_rtx` has none.

    Raises:
        EngineError: The parser or the builder refuses the graph, or a norm, a softmax or a mean is not in float32.
    """
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(graph):
        problems = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise _not_built(tensorrt, "; ".join(problems))
    if coarse := low_precision_layers(tensorrt, network):
        raise _not_built(tensorrt, f"not in float32: {', '.join(coarse)}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # float32 was proved as float32
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(number) for number in range(network.num_inputs)):
        profile.set_shape(tensor.name, *((batch, *tuple(tensor.shape)[1:]) for batch in BATCHES))
    config.add_optimization_profile(profile)
    if timing:
        kept = timing.read_bytes() if timing.exists() else b""
        config.set_timing_cache(config.create_timing_cache(kept), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _not_built(tensorrt, "the builder gave no engine; its messages are above")
    if timing:
        write_bytes(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def low_precision_layers(tensorrt: Any, network: Any) -> list[str]:
    """Names of the normalisations, softmaxes and means of a network that are not computed in float32."""
    kinds = {getattr(tensorrt.LayerType, name) for name in _IN_FLOAT32}
    low = {tensorrt.DataType.HALF, tensorrt.DataType.BF16}
    layers = (network.get_layer(number) for number in range(network.num_layers))
    return [layer.name for layer in layers if layer.type in kinds and layer.get_output(0).dtype in low]


class EngineRestorer(InProcessRestorer):
    """A served model in this process, computed by an engine on the GPU: tiles of its type and side alone.

    Args:
        folder: The served model.
        engine: As it was built here.

    Raises:
        BackendUnavailableError: TensorRT is not installed.
        EngineError: The engine was built elsewhere, or is given other tiles, as of an image of more bits.
    """

    def __init__(self, folder: str | Path, engine: bytes):
        self._tensorrt, self._engine = library(), engine
        super().__init__(folder)

    def _load(self, model: Path | bytes, dtype: np.dtype[Any], part: Part, side: int) -> Run:
        import torch

        if dtype != self._dtype or side != self.serving.inference.tile:
            raise EngineError("The engine takes other tiles", where=self.folder, next_step="use another backend")
        runtime = self._tensorrt.Runtime(self._tensorrt.Logger(self._tensorrt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(self._engine)
        if engine is None:
            raise EngineError("TensorRT cannot read the engine", where=self.folder, next_step="build it again")
        context, stream = engine.create_execution_context(), torch.cuda.Stream()

        def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
            with torch.cuda.stream(stream):
                tensors = {name: torch.from_numpy(values).cuda() for name, values in inputs.items()}
                for name, tensor in tensors.items():
                    context.set_input_shape(name, tuple(tensor.shape))
                    context.set_tensor_address(name, tensor.data_ptr())
                count, channels, *_ = tensors["image"].shape
                sides = [part.plan.scale * side] * 2
                restored = tensors["image"].new_empty((count, part.results * channels, *sides))
                context.set_tensor_address("restored", restored.data_ptr())
                if not context.execute_async_v3(stream.cuda_stream):
                    raise EngineError("The engine failed", where=self.folder, next_step="see TensorRT's messages above")
                return restored.cpu().numpy()

        run.runtime = runtime  # type: ignore[attr-defined]  # the engine ends with it
        return run


def _not_built(tensorrt: Any, why: str) -> RelumeError:
    return EngineError(
        "TensorRT cannot build an engine of the graph",
        where=f"{tensorrt.__name__} {tensorrt.__version__}",
        why=why,
        next_step="serve the model with another backend",
    )


def _shown(value: object) -> str:
    return value[:16] if isinstance(value, str) and len(value) == 64 else str(value)
