"""PSNR against time: the shipped denoisers beside published ones, at sigma 50 on CBSD68.

    python -m benchmarks.speed_quality --data SETS

Times are milliseconds a megapixel of a 512 x 512 image, median of rounds in which all systems take turns. Published
networks are timed with random weights in this code base's equal networks, and stand at their published PSNR, as BM3D
does, which is timed where its extra is installed. Ours and OpenCV's non-local means are measured, and Intel Open Image
Denoise where `pip install pyoidn` was done. Ours are timed through OpenVINO, as `relume restore` runs them, and in
eager PyTorch, as the others. Writes benchmarks/results/speed_quality.json and the plot docs/pictures/speed_quality.png.
"""

import argparse
import datetime
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.model_table import exported, prepare
from reference.results import PUBLISHED
from relume import products
from relume.evaluation.baselines import block_matching, non_local_means
from relume.evaluation.benchmark.protocols import PROTOCOLS, make_input
from relume.evaluation.benchmark.request import benchmark_request
from relume.evaluation.benchmark.sets import open_set
from relume.files import write_json
from relume.metrics import psnr, to_8_bit
from relume.models.artifact import load_card
from relume.models.registry import Variant, variants
from relume.reading import read_json
from relume.serving.backends import processor
from relume.serving.openvino_restorer import core, fastest_precision

SIDE, SIGMA = 512, 50.0
NETWORKS = {
    "FFDNet": ("ffdnet-color", "FFDNet"),
    "DnCNN, blind": ("dncnn-color", "CDnCNN-B, blind"),
    "DRUNet": ("drunet-color", "DRUNet (33 M parameters)"),
}
OURS = ("denoise", "denoise_adjustable", "base")
RESULT, PLOT = Path("benchmarks/results/speed_quality.json"), Path("docs/pictures/speed_quality.png")


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_quality")
    parser.add_argument("--data", required=True, help="folder of the benchmark sets")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    ours = [name for name in OURS if name in products.names()]
    with tempfile.TemporaryDirectory() as folder:
        quality = measured_psnr(ours, options.data, Path(folder) / "measured")
        quality |= {name: PUBLISHED["cbsd68", published][2] for name, (_, published) in NETWORKS.items()}
        runs = {f"{name}, {way}": run for name in ours for way, run in ways(own(name), Path(folder) / f"{name}.onnx")}
        for name, (variant, _) in NETWORKS.items():
            runs |= {f"{name}, {way}": run for way, run in ways(variants()[variant], Path(folder) / f"{variant}.onnx")}
        image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        runs["non-local means"] = lambda: non_local_means(image, SIGMA)
        if installed("bm3d"):
            runs["BM3D"], quality["BM3D"] = partial(block_matching, image, SIGMA), PUBLISHED["cbsd68", "CBM3D"][2]
        if installed("pyoidn"):
            runs["Open Image Denoise"] = partial(open_image_denoise, image.astype(np.float32) / np.float32(255))
            quality["Open Image Denoise"] = psnr_of(open_image_denoise, options.data)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.rounds + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn:  # the first warms up
                    seconds[name].append(time.perf_counter() - start)
            print(f"round {turn} of {options.rounds}", flush=True)
    rows = {
        name: {
            "psnr": quality[name.rpartition(", ")[0] or name],
            "milliseconds_per_megapixel": round(1e9 * statistics.median(times) / SIDE**2, 1),
        }
        for name, times in seconds.items()
    }
    result = {
        "date": datetime.date.today().isoformat(),
        "hardware": {"cpu": processor(), "threads": threads},
        "systems": rows,
    }
    write_json(RESULT, result)
    draw(rows, PLOT)
    for name, row in sorted(rows.items(), key=lambda item: item[1]["milliseconds_per_megapixel"]):
        print(f"{row['milliseconds_per_megapixel']:9.1f} ms/MP  {row['psnr']:.2f} dB  {name}")


def own(name: str) -> Variant:
    """The network of a shipped model."""
    card = load_card(products.FOLDER / name)
    return Variant(architecture=card.architecture, arguments=card.arguments, about=name)


def measured_psnr(ours: list[str], data: str, out: Path) -> dict[str, float]:
    """Mean PSNR on CBSD68 with unclipped noise, of ours and of non-local means."""
    benchmark_request(
        models=[str(products.FOLDER / name) for name in ours],
        baselines=["nlm"],
        sets=["cbsd68"],
        data=data,
        protocols=[f"awgn:{SIGMA:g}"],
        out=out,
    )
    psnr = {row["system"]: row["psnr"] for row in read_json(out / "summary.json")["figures"]}
    return {name: psnr[str(products.FOLDER / name)] for name in ours} | {"non-local means": psnr["nlm"]}


def installed(package: str) -> bool:
    """Whether a package that this project does not need is there."""
    return importlib.util.find_spec(package) is not None


def open_image_denoise(image: np.ndarray) -> np.ndarray:
    """Intel Open Image Denoise without auxiliary images, float32 (H, W, 3) in [0, 1] to the same."""
    import pyoidn

    return pyoidn.denoise(np.ascontiguousarray(image))


def psnr_of(denoise: Callable[[np.ndarray], np.ndarray], data: str) -> float:
    """Mean PSNR on CBSD68 with unclipped noise of what takes and gives float32 images."""
    found = []
    for example in open_set("cbsd68", data).examples():
        noisy, clean = make_input(PROTOCOLS["awgn"], SIGMA, example, seed=0)
        found.append(psnr(to_8_bit(denoise(noisy)), clean.clean))
    return round(statistics.fmean(found), 2)


def ways(variant: Variant, onnx: Path) -> list[tuple[str, Callable[[], Any]]]:
    """The ways to run a network: its name, and what computes it once."""
    network, inputs = prepare(variant, SIDE)
    exported(network, inputs, onnx)
    feed = [value.numpy() for value in inputs]
    network = network.to(memory_format=torch.channels_last)

    def eager() -> torch.Tensor:
        with torch.inference_mode():
            return network(*inputs)

    found: list[tuple[str, Callable[[], Any]]] = [("eager f32", eager)]
    for precision in dict.fromkeys(("f32", fastest_precision())):
        compiled = core().compile_model(
            onnx, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        )
        found.append((f"OpenVINO {precision}", lambda compiled=compiled: compiled(feed)))  # type: ignore[misc]
    return found


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """PSNR over time, one line for each system and a point for each way to run it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", ylabel="PSNR at sigma 50, CBSD68 (dB)")
    axes.set_xlabel("milliseconds a megapixel; squares: eager PyTorch, circles: OpenVINO, diamonds: filters")
    systems: dict[str, list[tuple[float, float, str]]] = {}
    for name, row in rows.items():
        system, _, way = name.rpartition(", ")
        marker = "D" if not system else "s" if way.startswith("eager") else "o"
        systems.setdefault(system or name, []).append((row["milliseconds_per_megapixel"], row["psnr"], marker))
    for system, points in systems.items():
        (line,) = axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "-" if system in OURS else "--")
        for number, (x, y, marker) in enumerate(points):
            axes.plot(x, y, marker, color=line.get_color(), label=None if number else system)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    main()
