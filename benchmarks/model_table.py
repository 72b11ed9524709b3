"""Milliseconds per megapixel of every named model on this CPU, and the table of docs/models.md made of them.

    python benchmarks/model_table.py --onnx .relume/onnx --export-only
    RESULTS=benchmarks/results/model_table.json
    python benchmarks/model_table.py --onnx .relume/onnx --results $RESULTS --table docs/models.md
    python benchmarks/model_table.py --onnx .relume/onnx --results $RESULTS --only dncnn restormer-demo --threads 1
    python benchmarks/model_table.py --onnx .relume/onnx --results $RESULTS --only dynet-large --beside dynet-code-large

The ONNX files are written into a folder first and kept there: remove it after an edit of the networks. Every runtime
runs one tile, after one run to warm up, and keeps the best of the repeats; heavy models take a smaller tile and one
repeat, local ones a tile larger than their windows. The time is scaled by the tile's area. Models measured earlier
stay in the results.

On a busy machine, `--beside MODEL`: that model, whose times are known, is run before and after in CPU time on one
thread, and what is kept is the ratio to the quicker of the two, times its known time.
"""

import argparse
import contextlib
import datetime
import gc
import importlib.util
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from relume.files import atomic_file, write_json
from relume.models.registry import Variant, build, inputs_of, variants
from relume.models.table import RUNTIMES, example_inputs, multiply_accumulates, render_table
from relume.serving.backends import processor
from relume.serving.export import to_onnx
from relume.serving.openvino_restorer import core

HEAVY = 60e9  # multiply-accumulates at 256 x 256 from which a model gets the small tile


def best_of(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the quickest of the repeats, after one run that is not counted; and what that run returned.

    Of one thread, CPU time, which other processes hardly change.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    result = run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times), result


def eager(network: nn.Module, inputs: list[torch.Tensor], repeats: int) -> tuple[float, np.ndarray]:
    """PyTorch in channels_last memory."""
    network = network.to(memory_format=torch.channels_last)
    image = inputs[0].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        seconds, restored = best_of(lambda: network(image, *inputs[1:]), repeats)
    return seconds, restored.numpy()


def exported(network: nn.Module, inputs: list[torch.Tensor], path: Path) -> Path:
    """The ONNX file, with the level as an input; written where it is missing."""
    if not path.exists():
        program = to_onnx(network, tuple(inputs), inputs_of(network), batched=())
        with atomic_file(path) as temporary:
            program.save(temporary)
    return path


def onnxruntime(path: Path, feed: dict[str, np.ndarray], repeats: int, threads: int) -> tuple[float, np.ndarray]:
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return best_of(lambda: session.run(None, feed)[0], repeats)


def openvino(path: Path, feed: dict[str, np.ndarray], repeats: int, threads: int) -> tuple[float, np.ndarray]:
    """OpenVINO's CPU device in float32."""
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core().compile_model(path, "CPU", options)
    return best_of(lambda: compiled(feed)[0], repeats)


def tile_of(variant: Variant) -> int:
    """Side of the tile that a model is timed on."""
    if variant.architecture.endswith("_local"):  # windows are 1.5 training patches and may not cover the tile
        return 2 * variant.arguments.get("train_size", 256)
    return 128 if multiply_accumulates(variant) > HEAVY else 256


def prepare(variant: Variant, tile: int) -> tuple[nn.Module, list[torch.Tensor]]:
    """The network with random weights and its inputs.

    Scales of zero and norms of one are moved off their start, as in a trained network: runtimes leave out a
    multiplication by one.
    """
    torch.manual_seed(0)
    network = build(variant.architecture, variant.arguments).eval().requires_grad_(False)
    for parameter in network.parameters():
        if (parameter == parameter.flatten()[0]).all():
            parameter += 0.01 * torch.randn_like(parameter)
    image, *others = example_inputs(variant, network, tile, "cpu")
    return network, [torch.rand_like(image), *others]


def measure(name: str, variant: Variant, folder: Path, threads: int) -> dict[str, Any]:
    """Milliseconds per megapixel by runtime, or the reason for none; the tile, and the largest difference from eager.

    The difference is in units of the output's standard deviation.
    """
    tile = tile_of(variant)
    repeats = 3 if tile == 256 else 1
    network, inputs = prepare(variant, tile)
    feed = dict(zip(inputs_of(network), (value.numpy() for value in inputs), strict=True))
    found: dict[str, Any] = {"tile": tile, "difference": {}}
    expected: list[np.ndarray] = []

    def record(runtime: str, run: Callable[..., tuple[float, np.ndarray]], *arguments: object) -> None:
        try:
            seconds, restored = run(*arguments)
        except Exception as error:  # the reason is the result
            found[runtime] = reason(error)
            return
        found[runtime] = round(1e3 * seconds / (tile * tile / 1e6), 1)
        expected.append(restored)
        if runtime != "eager":
            scale = expected[0].std() if restored.size > 1 else np.abs(expected[0]).max()
            found["difference"][runtime] = float(f"{np.abs(restored - expected[0]).max() / scale:.1e}")

    try:
        path = exported(network, inputs, folder / f"{name}-{tile}.onnx")
    except Exception as error:  # the reason is the result
        path = None
        found |= dict.fromkeys(("onnxruntime", "openvino"), f"not exported, {reason(error)}")
    record("eager", eager, network, inputs, repeats)
    del network, inputs  # one model in memory at a time
    gc.collect()
    if path:
        record("onnxruntime", onnxruntime, str(path), feed, repeats, threads)
        gc.collect()
        if importlib.util.find_spec("openvino"):
            record("openvino", openvino, str(path), feed, repeats, threads)
        else:
            found["openvino"] = "OpenVINO is not installed"
    gc.collect()
    return found


def beside(known: str, name: str, results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What `measure` says of a model, by the ratio of its CPU times to those of a known model before and after it."""
    before, found, after = (measure(each, variants()[each], folder, 1) for each in (known, name, known))
    for runtime in RUNTIMES:
        times = before[runtime], found[runtime], after[runtime], results["models"][known].get(runtime)
        if all(isinstance(value, float) for value in times):
            found[runtime] = round(times[1] / min(times[0], times[2]) * times[3], 1)
        elif not isinstance(found[runtime], str):
            found[runtime] = f"no time of {known} to compare with"
    return found


def reason(error: Exception) -> str:
    """An error in one line, for a note below the table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def versions() -> list[str]:
    """The runtimes that are installed, each with its version."""
    from importlib import metadata

    found = []
    for name in ("torch", "onnxruntime", "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return found


def main() -> None:
    """Exports or measures, writes the results after every model, and then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True, help="folder of the ONNX files, kept and added to")
    parser.add_argument("--export-only", action="store_true", help="write the ONNX files and time nothing")
    parser.add_argument("--results", type=Path, help="JSON file, kept and added to")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    parser.add_argument("--only", nargs="*", help="variants or architectures; none measures nothing anew")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--beside", choices=variants(), help="model of known times to compare with, on one thread")
    arguments = parser.parse_args()
    if not (arguments.export_only or arguments.results):
        parser.error("--results or --export-only is needed")
    torch.set_num_threads(1 if arguments.beside else arguments.threads)
    chosen = {
        name: variant
        for name, variant in variants().items()
        if arguments.only is None or {name, variant.architecture} & set(arguments.only)
    }
    if arguments.export_only:
        export_all(chosen, arguments.onnx)
        return

    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"models": {}}
    today = datetime.date.today().isoformat()
    on = ", ".join([processor(), f"{arguments.threads} threads", *versions()])
    for name, variant in chosen.items():
        if known := arguments.beside:
            measured = beside(known, name, results, arguments.onnx)
            where = f"{processor()} by the ratio of CPU times to {known}"
        else:
            measured, where = measure(name, variant, arguments.onnx, arguments.threads), on
        results["models"][name] = {"date": today, "on": where} | measured
        print(name, results["models"][name], flush=True)
        write_json(arguments.results, results)
    if arguments.table:
        arguments.table.write_text("# Models\n\n" + render_table(results))


def export_all(chosen: dict[str, Variant], folder: Path) -> None:
    """Writes every missing ONNX file, and prints how long it took or why it failed."""
    for name, variant in chosen.items():
        start, tile = time.perf_counter(), tile_of(variant)
        path = folder / f"{name}-{tile}.onnx"
        try:
            network, inputs = prepare(variant, tile)
            exported(network, inputs, path)
            outcome = f"{time.perf_counter() - start:.0f} s, {path.stat().st_size / 1e6:.0f} MB"
        except Exception as error:
            outcome = reason(error)
        print(path.name, outcome, flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
