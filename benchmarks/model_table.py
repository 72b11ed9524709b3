"""Milliseconds per megapixel of every named model on this CPU, and the table of docs/models.md made of them.

    python benchmarks/model_table.py --results benchmarks/results/model_table.json --table docs/models.md
    python benchmarks/model_table.py --results ... --only dncnn restormer-demo --threads 1

Every runtime runs one tile, after one run to warm up, and keeps the best of the repeats; heavy models take a smaller
tile and one repeat. The time is scaled by the tile's area. Models measured earlier stay in the file.
"""

import argparse
import contextlib
import datetime
import importlib.util
import io
import json
import logging
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from relume.files import write_json
from relume.models.registry import Variant, build, inputs_of, variants
from relume.models.table import example_inputs, multiply_accumulates, render_table

HEAVY = 60e9  # multiply-accumulates at 256 x 256 from which a model gets the small tile


def best_of(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest of the repeats, after one run that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def eager(network, inputs, repeats):
    """PyTorch in channels_last memory."""
    network = network.to(memory_format=torch.channels_last)
    image = inputs[0].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return best_of(lambda: network(image, *inputs[1:]), repeats)


def export(network, inputs, path):
    """Writes the ONNX file, with the level as an input."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = list(inputs_of(network))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.to(memory_format=torch.contiguous_format),
            tuple(inputs),
            dynamo=True,
            opset_version=20,
            input_names=names,
            output_names=["restored"],
        ).save(path, external_data=True)
    return dict(zip(names, (value.numpy() for value in inputs), strict=True))


def onnxruntime(path, feed, repeats, threads):
    """ONNX Runtime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return best_of(lambda: session.run(None, feed), repeats)


def openvino(path, feed, repeats, threads):
    """OpenVINO's CPU device in float32."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(path, "CPU", options)
    return best_of(lambda: compiled(feed), repeats)


def measure(variant: Variant, threads: int) -> dict[str, object]:
    """Milliseconds per megapixel by runtime, or the reason for none; and the tile."""
    heavy = multiply_accumulates(variant) > HEAVY
    tile, repeats = (128, 1) if heavy else (256, 3)
    torch.manual_seed(0)
    network = build(variant.architecture, variant.arguments).eval()
    inputs = example_inputs(variant, network, tile, "cpu")
    found: dict[str, object] = {"tile": tile}

    def record(name: str, run: Callable[[], float]) -> None:
        try:
            found[name] = round(1e3 * run() / (tile * tile / 1e6), 1)
        except Exception as error:  # the reason is the result
            found[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"

    record("eager", lambda: eager(network, inputs, repeats))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = f"{folder}/model.onnx"
        try:
            feed = export(network, inputs, path)
        except Exception as error:  # the reason is the result
            reason = f"not exported, {type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
            return found | {"onnxruntime": reason, "openvino": reason}
        record("onnxruntime", lambda: onnxruntime(path, feed, repeats, threads))
        if importlib.util.find_spec("openvino"):
            record("openvino", lambda: openvino(path, feed, repeats, threads))
        else:
            found["openvino"] = "OpenVINO is not installed"
    return found


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of the runtimes that are installed."""
    from importlib import metadata

    found = {}
    for name in ("torch", "onnxruntime", "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def main() -> None:
    """Measures, writes the results after every model, and then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON file, kept and added to")
    parser.add_argument("--table", type=Path, help="Markdown file to write")
    parser.add_argument("--only", nargs="*", help="variants or architectures; none measures nothing anew")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"models": {}}
    results |= {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "threads": f"{arguments.threads} threads"},
        "versions": versions(),
    }
    for name, variant in variants().items():
        if arguments.only is not None and not {name, variant.architecture} & set(arguments.only):
            continue
        results["models"][name] = measure(variant, arguments.threads)
        print(name, results["models"][name], flush=True)
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.results, results)
    if arguments.table:
        arguments.table.write_text("# Models\n\n" + render_table(results))


if __name__ == "__main__":
    main()
