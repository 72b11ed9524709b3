"""A served model small enough for tests: one 3x3 convolution of each channel, made without torch.

An adjustable one makes the result darker by its level, so that a wrong level shows in every pixel.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from relume.inference.plan import Inference
from relume.serving.levels import LevelRange
from relume.serving.served_model import Serving, write_served_model

FORMAT_1, FORMAT_2 = (Path(__file__).with_name(name) for name in ("format_1", "format_2"))
BLUR = np.ones((3, 3)) / 9
SHARPEN = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def convolve(image_HWC: np.ndarray, kernel: np.ndarray, level: float = 0) -> np.ndarray:
    """What the model does, in numpy: zeros outside, darker by the level, rounded and clipped to uint8."""
    padded = np.pad(image_HWC.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    height, width = image_HWC.shape[:2]
    total = sum(kernel[y, x] * padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
    return np.clip(np.rint(total - level), 0, 255).astype(np.uint8)


def write_onnx(path: Path, *, tile: int, kernel: np.ndarray, adjustable: bool = False, dtype: str = "uint8") -> None:
    """Writes `image` to `restored`, both (n, 3, tile, tile), uint8 or float32 in [0, 1]; an adjustable one of uint8
    takes a `level`, float32 (n, 1)."""
    weights = np.broadcast_to(kernel, (3, 1, 3, 3)).astype(np.float32)
    shape = ["n", 3, tile, tile]
    darker = [
        helper.make_node("Unsqueeze", ["level", "height and width"], ["levels"]),
        helper.make_node("Sub", ["convolved", "levels"], ["darker"]),
    ]
    level = [helper.make_tensor_value_info("level", TensorProto.FLOAT, ["n", 1])]
    rounded = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "weights"], ["convolved"], pads=[1, 1, 1, 1], group=3),
        *(darker if adjustable else []),
        helper.make_node("Round", ["darker" if adjustable else "convolved"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "low", "high"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["restored"], to=TensorProto.UINT8),
    ]
    convolution = [helper.make_node("Conv", ["image", "weights"], ["restored"], pads=[1, 1, 1, 1], group=3)]
    nodes, kind = (rounded, TensorProto.UINT8) if dtype == "uint8" else (convolution, TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", kind, shape), *(level if adjustable else [])],
        [helper.make_tensor_value_info("restored", kind, shape)],
        [
            numpy_helper.from_array(np.ascontiguousarray(weights), "weights"),
            numpy_helper.from_array(np.float32(0), "low"),
            numpy_helper.from_array(np.float32(255), "high"),
            numpy_helper.from_array(np.array([2, 3]), "height and width"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def write_level_estimator(path: Path) -> None:
    """Writes `image`, uint8 (n, 3, 128, 128), to `estimated`, float32 (n, 1): half of its mean."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "half"], ["level"]),
        helper.make_node("Unsqueeze", ["level", "last"], ["estimated"]),
    ]
    constants = {"axes": np.array([1, 2, 3]), "half": np.float32(0.5), "last": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "level",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 3, 128, 128])],
        [helper.make_tensor_value_info("estimated", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def write_tiny_model(
    folder: Path,
    *,
    tile: int = 32,
    halo: int = 2,
    kernel: np.ndarray = BLUR,
    levels: LevelRange | None = None,
    estimator: str | None = None,
) -> Path:
    """Fills `folder` with a served model, adjustable when it has levels, and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / "source.onnx", tile=tile, kernel=kernel, adjustable=levels is not None)
    write_level_estimator(folder / "level.onnx")
    plan = Inference(tile=tile, halo=halo, overlap=1, estimator=estimator)
    write_served_model(
        folder / "source.onnx",
        folder,
        Serving(inference=plan, levels=levels),
        level_estimator=folder / "level.onnx" if estimator else None,
    )
    (folder / "level.onnx").unlink()
    return folder


def write_tiny_model_of_format_1(folder: Path, *, kernel: np.ndarray = BLUR, adjustable: bool = False) -> Path:
    """Fills `folder` with a served model as relume wrote it until format 2, with tiles of 32 pixels, and returns it.

    All but the ONNX file is kept in tests/format_1; an adjustable one takes a sigma of 15 to 75, by default 37.25.
    """
    shutil.copytree(FORMAT_1 / ("adjustable" if adjustable else "blind"), folder, dirs_exist_ok=True)
    write_onnx(folder / "triton/denoise/1/model.onnx", tile=32, kernel=kernel, adjustable=adjustable)
    return folder


def write_tiny_model_of_format_2(folder: Path) -> Path:
    """Fills `folder` with a served model as relume wrote it until format 3, and returns it.

    All but the ONNX file is kept in tests/format_2; its configuration has a warm-up, which later ones have not.
    """
    shutil.copytree(FORMAT_2, folder, dirs_exist_ok=True)
    write_onnx(folder / "triton/model/1/model.onnx", tile=32, kernel=BLUR)
    return folder
