"""The backends that can compute a served model, by name, and which of them is the fastest on this machine."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from relume.files import sha256_file, write_json
from relume.reading import as_kind, read_as, reading
from relume.serving.served_model import onnx_path

if TYPE_CHECKING:
    from relume.serving.in_process import InProcessRestorer

Served = Literal["onnxruntime", "openvino_f32", "openvino_bf16"]
"""What computes a release in Triton's python backend, as it can in process. The precision is always stated."""

InProcess = Literal[Served, "torch", "cuda", "tensorrt"]
Asked = Literal[InProcess, "auto"]
"""What a person may choose in this process; `auto` is the first of `fastest_backends`."""

RECORD = "backends.json"
RUNS, WARM_UP = 3, 1
# What a backend must reach on the probe's tile to be chosen: dB, the share of values within so many levels, and the
# mean error in levels. A release is held to more, see `flows.release.backend_parity`.
_MIN_PSNR, _WITHIN, _MIN_SHARE, _MEAN_ERROR = 50.0, 2, 0.999, 0.1


def open_backend(backend: InProcess, folder: str | Path, **options: Any) -> "InProcessRestorer":
    """A served model in this process, computed by a backend.

    Args:
        backend: Its name.
        folder: The served model.
        options: Of the restorer's class, such as `release` and `orientations` of `InProcessRestorer`.

    Raises:
        ModelMissingError: There is no served model in the folder, or for `torch` no weights beside it.
        ModelFormatError: The ONNX file cannot be read.
        BackendUnavailableError: `cuda` or `tensorrt` on a machine without a GPU that ONNX Runtime can use.
    """
    if backend == "onnxruntime":
        from relume.serving.onnx_restorer import OnnxRestorer

        return OnnxRestorer(folder, **options)
    if backend == "cuda" or backend == "tensorrt":
        from relume.serving.onnx_restorer import OnnxRestorer

        return OnnxRestorer(folder, provider="CUDA" if backend == "cuda" else "TensorRT", **options)
    if backend == "torch":
        from relume.serving.torch_restorer import TorchRestorer

        return TorchRestorer(folder, **options)
    from relume.serving.openvino_restorer import OpenVinoRestorer

    return OpenVinoRestorer(folder, precision="f32" if backend == "openvino_f32" else "bf16", **options)


def usual_backend(*, shipped: bool) -> Served:
    """What computes a model in this process where nobody chose: ONNX Runtime, which a release was measured with; a
    model that ships OpenVINO, whose parity in both precisions was measured, in bf16 where the CPU has it."""
    if not shipped:
        return "onnxruntime"
    from relume.serving.openvino_restorer import fastest_precision

    return "openvino_bf16" if fastest_precision() == "bf16" else "openvino_f32"


def fastest_backends(folder: str | Path, home: Path) -> list[Served]:
    """The backends for a served model on this machine, the fastest first, measured once and kept in the home.

    The backends take turns at one tile of gradients, noise, and dark, saturated and flat areas. One whose tile differs
    too much from that of ONNX Runtime is left out. bfloat16 takes part where the CPU has it and tiles are of 8 bits.

    Args:
        folder: The served model.
        home: RELUME_HOME, whose backends.json keeps what was measured, by machine and model.

    Raises:
        ModelMissingError: There is no served model in the folder.
        BrokenFileError: backends.json is damaged.
    """
    from relume.serving.openvino_restorer import fastest_precision

    record, key = home / RECORD, {"model": sha256_file(onnx_path(folder)), **machine()}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    known = read_as(dict[str, Any], record, next_step="remove the file") if record.exists() else {}
    if name in known:
        with reading(record, next_step="remove the file"):
            found = as_kind(dict[Served, float], known[name]["milliseconds"])
            return sorted(found, key=lambda backend: found[backend])
    restorers: dict[Served, InProcessRestorer] = {
        "onnxruntime": open_backend("onnxruntime", folder),
        "openvino_f32": open_backend("openvino_f32", folder),
    }
    if fastest_precision() == "bf16" and restorers["onnxruntime"].serving.inference.dtype == "uint8":
        restorers["openvino_bf16"] = open_backend("openvino_bf16", folder)
    milliseconds = measure_backends(restorers)
    today = datetime.date.today().isoformat()
    write_json(record, known | {name: {"milliseconds": milliseconds, "date": today, **key}})
    return sorted(milliseconds, key=lambda backend: milliseconds[backend])


def machine() -> dict[str, Any]:
    """What the speed of a backend depends on besides the model: the CPU, the cores of this process, the versions."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {package: importlib.metadata.version(package) for package in ("onnxruntime", "openvino")},
    }


def processor() -> str:
    """The CPU's name as the kernel has it, or else its kind."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    return found[1] if found else platform.machine()


def measure_backends(restorers: "dict[Served, InProcessRestorer]") -> dict[Served, float]:
    """Median milliseconds of a tile by backend, without those whose tile is not that of the first one.

    Args:
        restorers: Of one model, by backend.
    """
    from relume.metrics import psnr, to_8_bit

    serving = next(iter(restorers.values())).serving
    tile_NCHW = probe_tile(serving.inference.tile)
    if serving.inference.dtype == "float32":
        tile_NCHW = tile_NCHW / np.float32(255)
    levels = np.array([serving.levels.default], np.float32) if serving.levels else None
    seconds: dict[Served, list[float]] = {backend: [] for backend in restorers}
    tiles: dict[Served, np.ndarray] = {}
    for _ in range(WARM_UP + RUNS):
        for backend, restorer in restorers.items():
            start = time.perf_counter()
            tiles[backend] = restorer.restore_batch(tile_NCHW, levels)
            seconds[backend].append(time.perf_counter() - start)
    expected, *_ = as_8_bit = [tile if tile.dtype == np.uint8 else to_8_bit(tile) for tile in tiles.values()]
    found = {}
    for backend, tile in zip(tiles, as_8_bit, strict=True):
        error = tile.astype(np.int16) - expected
        near = (np.abs(error) <= _WITHIN).mean() >= _MIN_SHARE and abs(error.mean()) <= _MEAN_ERROR
        if near and psnr(tile, expected) >= _MIN_PSNR:
            found[backend] = round(statistics.median(seconds[backend][WARM_UP:]) * 1000, 2)
    return found


def probe_tile(side: int) -> np.ndarray:
    """A tile of gradients with noise, a dark, a saturated and a flat quarter: uint8 (1, 3, side, side)."""
    rng, half = np.random.default_rng(0), side // 2
    slope = np.linspace(0, 1, side)
    tile = 255 * (0.2 + 0.3 * slope[:, None] + 0.3 * slope) * np.array([1, 0.9, 0.8])[:, None, None]
    tile[:, :half, half:] = 4
    tile[:, half:, :half] = 255 * (np.indices((side - half, half)).sum(axis=0) // 8 % 2)
    tile = tile + rng.normal(0, 15, tile.shape)
    tile[:, half:, half:] = 117
    return np.clip(np.rint(tile), 0, 255).astype(np.uint8)[None]
