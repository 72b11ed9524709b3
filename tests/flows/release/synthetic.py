"""Tiny packages that follow the package contract, around ONNX models made by hand.

A Gaussian blur is a denoiser good enough to beat its noisy input on photographs; the identity is not.
"""

import csv
from pathlib import Path

import numpy as np

from flows.release.package import Package, open_package
from relume.files import sha256_folder, write_json
from relume.inference.plan import Inference
from relume.serving.levels import LevelRange
from relume.serving.served_model import Serving, write_served_model
from tests.tiny_onnx import write_level_estimator

TILE, HALO = 64, 8


def onnx_filter(
    path: Path, kernel: np.ndarray, *, tile: int = TILE, adjustable: bool = False, dtype: str = "uint8"
) -> None:
    """Writes an ONNX file that convolves each channel with `kernel` (odd side), uint8 in and out, or float32.

    An adjustable one goes from its input at level 0 to the filtered one at level 25 and stays there.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    side = kernel.shape[0]
    pad = side // 2
    weight = np.repeat(kernel[None, None].astype(np.float32), 3, axis=0)
    constants = [
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array(np.array([0, 0, pad, pad, 0, 0, pad, pad], np.int64), "pads"),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(255), "top"),
    ]
    mixing_constants = [
        numpy_helper.from_array(np.float32(25), "all"),
        numpy_helper.from_array(np.float32(1), "one"),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    mixing = [
        helper.make_node("Div", ["level", "all"], ["part"]),
        helper.make_node("Clip", ["part", "zero", "one"], ["share"]),
        helper.make_node("Unsqueeze", ["share", "axes"], ["shares"]),
        helper.make_node("Sub", ["filtered", "levels"], ["change"]),
        helper.make_node("Mul", ["shares", "change"], ["changed"]),
        helper.make_node("Add", ["levels", "changed"], ["mixed"]),
    ]
    blurred, kind = (
        "mixed" if adjustable else "filtered",
        {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[dtype],
    )
    rounding = [
        helper.make_node("Round", [blurred], ["rounded"]),
        helper.make_node("Clip", ["rounded", "zero", "top"], ["clipped"]),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Pad", ["levels", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "weight"], ["filtered"], group=3),
        *(mixing if adjustable else []),
        *(rounding if dtype == "uint8" else []),
        helper.make_node("Cast", ["clipped" if dtype == "uint8" else blurred], ["restored"], to=kind),
    ]
    shape = ["N", 3, tile, tile]
    level = [helper.make_tensor_value_info("level", TensorProto.FLOAT, ["N", 1])] if adjustable else []
    graph = helper.make_graph(
        nodes,
        "filter",
        [helper.make_tensor_value_info("image", kind, shape), *level],
        [helper.make_tensor_value_info("restored", kind, shape)],
        [*constants, *(mixing_constants if adjustable else [])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


def gaussian(width: float, side: int = 5) -> np.ndarray:
    """A Gaussian kernel of standard deviation `width` pixels; 0 is the identity."""
    x = np.arange(side) - side // 2
    line = np.exp(-(x**2) / (2 * width**2)) if width else (x == 0).astype(float)
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


def doubling(tile: int) -> bytes:
    """An ONNX model that makes each pixel of a tile four equal ones."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    node = helper.make_node("Resize", ["image", "", "scales"], ["restored"], **options)
    given, restored = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", 3, side, side])
        for name, side in (("image", tile), ("restored", 2 * tile))
    )
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    graph = helper.make_graph([node], "doubling", [given], [restored], [scales])
    opsets = [helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def make_package(
    folder: Path,
    *,
    blur: float = 1.0,
    nlm_psnr: float = 20.0,
    export_difference: int = 0,
    tile: int = TILE,
    inference: Inference | None = None,
    onnx_bytes: bytes | None = None,
    levels: LevelRange | None = None,
    product: str = "denoise",
) -> Package:
    """Writes a package whose model blurs.

    Args:
        folder: Where it goes.
        blur: Standard deviation of the blur in pixels; 0 gives the identity.
        nlm_psnr: PSNR that its table states for non-local means; its own is 27 at sigma 50.
        export_difference: Largest difference in levels that its parity report states.
        tile: Side of the served tile.
        inference: How it restores; in tiles of `tile` with a halo of 8 that overlap by 4 when None.
        onnx_bytes: What to write in place of the ONNX file.
        levels: Makes the blur adjustable: none at level 0, the whole from 25.
        product: What it is for.
    """
    (folder / "model").mkdir(parents=True)
    write_json(folder / "model" / "model.json", {"architecture": "blur", "blur": blur})
    inference = inference or Inference(tile=tile, halo=HALO, overlap=4)
    source = folder.parent / f"{folder.name}.onnx"
    if onnx_bytes is None:
        side, dtype = inference.tile, inference.dtype
        onnx_filter(source, gaussian(blur), tile=side, adjustable=levels is not None, dtype=dtype)
    else:
        source.write_bytes(onnx_bytes)
    estimator = folder.parent / f"{folder.name}-level.onnx" if inference.estimator else None
    if estimator:
        write_level_estimator(estimator)
    further = {(part, side): folder.parent / f"{folder.name}-{part}-{side}.onnx" for part, side in inference.graphs[1:]}
    for (_, side), file in further.items():
        onnx_filter(file, gaussian(blur), tile=side, adjustable=levels is not None, dtype=inference.dtype)
    serving = Serving(inference=inference, levels=levels)
    write_served_model(source, folder / "serving", serving, further_files=further, level_estimator=estimator)
    source.unlink()
    write_json(
        folder / "serving" / "parity.json",
        {
            "passed": True,
            "limits": {"min_psnr": 50.0, "max_difference": 2},
            "pictures": [
                {"picture": "a", "psnr": 120.0, "max_difference": 0, "worst_tile": 0.0},
                {"picture": "b", "psnr": 80.0, "max_difference": export_difference, "worst_tile": 0.1},
            ],
        },
    )
    (folder / "evaluation" / "pictures").mkdir(parents=True)
    (folder / "evaluation" / "pictures" / "before_after.png").write_bytes(b"\x89PNG stand-in")
    with open(folder / "evaluation" / "per_image.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["system", "image_id", "level", "protocol", "psnr", "ssim"])
        for system, psnr in [("noisy", 15.0), ("nlm", nlm_psnr), ("final", 27.0)]:
            for protocol in ("clipped", "unclipped"):
                rows.writerow([system, "0123456789abcdef", 50, protocol, psnr, 0.5])
    write_json(folder / "evaluation" / "metrics.json", {"final": {"50": {"psnr": 27.0}}})
    write_json(folder / "lineage.json", {"data": "d" * 64, "params": "e" * 64, "sources": "f" * 64})
    write_json(
        folder / "package.json",
        {
            "sha256": sha256_folder(folder),
            "product": product,
            "architecture": "blur",
            "figures": {"final": {"psnr_50": 27.0}},
        },
    )
    return open_package(folder)


def make_photographs(folder: Path, *, count: int = 2, side: int = 160) -> Path:
    """Writes crops of a real photograph as held-out images, RGB 8 bit."""
    import cv2
    from skimage import data

    folder.mkdir(parents=True)
    astronaut = data.astronaut()
    for i in range(count):
        crop = astronaut[i * 60 : i * 60 + side, 100 + i * 50 : 100 + i * 50 + side]
        cv2.imwrite(str(folder / f"{i:016x}.png"), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
    return folder
