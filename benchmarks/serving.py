"""Serving: tiles per second in process and through Triton, and the memory of restoring a 24-megapixel photograph.

    python benchmarks/serving.py [models/exported] [--whole-photograph]

Targets: through Triton (gRPC, shared memory) at least 0.85 of the tiles per second in process; below 2 GB for the
photograph on each way, the server included. The throughput of all ways is measured in turns, on the same image, and
the ratios are taken within a turn, so that a machine that gets slower or faster does not favour one of them. CPU time
is that of client and server together: where other programs run beside the benchmark, it says more than the clock.

Memory is the peak of a fresh process that reads a JPEG, restores it and writes a PNG, and of a fresh server. By default
it stops restoring after some seconds, when every buffer has been used many times, and writes an image as large.
The result is printed and written to benchmarks/results/serving.json.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from flows.embedded_triton import EmbeddedTriton, TritonServer
from relume.files import write_json
from relume.home import relume_home
from relume.images import read_image, save_image
from relume.inference.tiling import count_tiles
from relume.serving.backends import processor
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.repository import publish_release
from relume.serving.restoration import Restoration
from relume.serving.route import Route
from relume.serving.served_model import read_serving
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl

TURN_SECONDS = 4.0
TURNS = 3
PHOTOGRAPH = (4000, 6000)
MEMORY_SECONDS = 12.0


class Enough(Exception):
    """Ends a restoration whose memory has been seen."""


def main() -> None:
    """Runs the benchmark, or one restoration of it in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("served", nargs="?", default="models/exported", help="a served model")
    parser.add_argument("--whole-photograph", action="store_true", help="restore it to the end (minutes)")
    parser.add_argument("--output", default="benchmarks/results/serving.json")
    parser.add_argument("--restore-once", nargs=2, metavar=("WAY", "JPEG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.restore_once:
        way, jpeg = options.restore_once
        restore_once(way, jpeg, options.served, options.whole_photograph)
        return
    served, output = str(Path(options.served).resolve()), Path(options.output)
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as home:
        triton = own_server(Path(home))
        try:
            result = {
                "date": datetime.date.today().isoformat(),
                "hardware": hardware(),
                "versions": {
                    name: importlib.metadata.version(name) for name in ("onnxruntime", "tritonclient", "numpy")
                },
                "model": json.loads((Path(served) / "serving.json").read_text()),
                "throughput": throughput(served, triton),
                "memory": memory(served, triton, Path(home), whole=options.whole_photograph),
            }
        finally:
            triton.stop()
    write_json(output, result)
    show(result)
    print(f"written to {output}")


def own_server(home: Path) -> EmbeddedTriton:
    """A server of the benchmark's own, in the environment that is installed already."""
    (home / "triton").mkdir()
    (home / "triton" / "env").symlink_to(relume_home() / "triton" / "env")
    return EmbeddedTriton(home)


def start_server(served: str, triton: EmbeddedTriton) -> TritonServer:
    """A fresh server with the model as product `denoise`."""
    server = triton.start()
    publish_release(served, server.repository, "denoise-benchmark")
    with TritonControl(server.grpc, key=server.key) as control:
        control.load_release("denoise-benchmark")
        control.switch_product(server.repository, "denoise", Route(champion="denoise-benchmark"))
    return server


def throughput(served: str, triton: EmbeddedTriton) -> dict[str, object]:
    """Tiles per second on each way and its ratio to in process: median, least and most over the turns."""
    serving = read_serving(served)
    in_process, inference = OnnxRestorer(served), serving.inference
    side = inference.tile
    tile_seconds = timed(lambda: in_process.restore(sample(side, side)), repeat=3)
    while count_tiles(side, side, inference) * tile_seconds < TURN_SECONDS:
        side += inference.tile // 2
    image, count = sample(side, side), count_tiles(side, side, inference)

    server = start_server(served, triton)
    ways: dict[str, Callable[[np.ndarray], Restoration]] = {"in process": in_process.restore}
    restorers = {
        "grpc + shared memory": TritonRestorer(server.grpc, "denoise", key=server.key),
        "grpc": TritonRestorer(server.grpc, "denoise", shared_memory=False),
        "http + shared memory": TritonRestorer(server.http, "denoise", key=server.key),
        "http": TritonRestorer(server.http, "denoise", shared_memory=False),
    }
    ways |= {name: restorer.restore for name, restorer in restorers.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, restore in ways.items():
            before = cpu_seconds(triton)
            rates[name].append(count / timed(functools.partial(restore, image)))
            costs[name].append((cpu_seconds(triton) - before) / count * 1000)
    for restorer in restorers.values():
        restorer.close()
    triton.stop()
    return {
        "tiles": count,
        "turns": TURNS,
        "cpu_milliseconds_per_tile": {name: spread(values) for name, values in costs.items()},
        "tiles_per_second": {name: spread(values) for name, values in rates.items()},
        "ratio_to_in_process": {
            name: spread([rate / base for rate, base in zip(values, rates["in process"], strict=True)])
            for name, values in rates.items()
        },
    }


def memory(served: str, triton: EmbeddedTriton, home: Path, *, whole: bool) -> dict[str, object]:
    """Peak megabytes of restoring the photograph on both ways."""
    jpeg = home / "photograph.jpg"
    save_image(jpeg, sample(*PHOTOGRAPH))
    found: dict[str, object] = {"photograph": list(PHOTOGRAPH)}
    for way in ("in process", "triton"):
        arguments = [sys.executable, __file__, served, "--restore-once"]
        if way == "triton":
            server = start_server(served, triton)
            arguments += [server.grpc, str(jpeg)]
        else:
            arguments += ["in process", str(jpeg)]
        ended = subprocess.run(
            arguments + (["--whole-photograph"] if whole else []),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "RELUME_HOME": str(home)},
        )
        numbers = json.loads(ended.stdout.splitlines()[-1])
        if way == "triton":
            numbers["server_megabytes"] = sum(peak(process.pid) for process in server_processes(triton))
            triton.stop()
        numbers["megabytes"] = round(numbers["client_megabytes"] + numbers.get("server_megabytes", 0))
        found[way] = numbers
    return found


def restore_once(way: str, jpeg: str, served: str, whole: bool) -> None:
    """Reads, restores and writes the photograph as a user would, and prints the peak of this process."""
    pixels = read_image(jpeg).pixels
    started, seen = time.monotonic(), [0, 0]

    def progress(done: int, total: int) -> None:
        seen[:] = done, total
        if not whole and time.monotonic() - started > MEMORY_SECONDS:
            raise Enough

    own = EmbeddedTriton(relume_home()).at(way)
    restorer = TritonRestorer(way, "denoise", key=own.key) if own else OnnxRestorer(served)
    try:
        restored = restorer.restore(pixels, on_progress=progress).image
    except Enough:
        restored = pixels[::-1].copy()
    seconds = time.monotonic() - started
    save_image(Path(jpeg).with_suffix(".png"), restored)
    print(json.dumps({"client_megabytes": peak(os.getpid()), "tiles": seen, "seconds": round(seconds, 1)}))


def server_processes(triton: EmbeddedTriton) -> list[psutil.Process]:
    """The server and its models' processes; none when it does not run."""
    pid = triton.status().pid
    return [] if pid is None else [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def peak(pid: int) -> int:
    """Peak megabytes of a process since its start; `ru_maxrss` would count the process that started it."""
    return round(int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024)


def cpu_seconds(triton: EmbeddedTriton) -> float:
    """CPU seconds that this process and the server have used."""
    times = [process.cpu_times() for process in (psutil.Process(), *server_processes(triton))]
    return sum(time.user + time.system for time in times)


def sample(height: int, width: int) -> np.ndarray:
    """An image with gradients and noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(0)
    gradient = np.linspace(40, 200, width)[None, :, None] * np.linspace(0.5, 1, height)[:, None, None]
    noise = rng.integers(-20, 21, (height, width, 3), np.int16)
    return np.clip(gradient.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def timed(function: Callable[[], object], *, repeat: int = 1) -> float:
    """Seconds of one call, the least of `repeat`."""
    seconds = []
    for _ in range(repeat):
        started = time.monotonic()
        function()
        seconds.append(time.monotonic() - started)
    return min(seconds)


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most, rounded."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def hardware() -> dict[str, object]:
    """What the figures hold for."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": round(psutil.virtual_memory().total / 2**30),
        "load_before": round(os.getloadavg()[0], 1),
    }


def show(result: dict) -> None:
    """Prints the result as two tables."""
    width = shutil.get_terminal_size().columns
    print("-" * min(width, 78))
    plan = result["model"]["inference"]
    print(f"{result['date']}  {result['hardware']}  tile {plan['tile']}, halo {plan['halo']}")
    print(f"\n{'way':24}{'tiles/s':>10}{'least':>9}{'most':>9}{'ratio':>10}{'least':>9}{'most':>9}{'CPU ms':>9}")
    throughput = result["throughput"]
    for name, rate in throughput["tiles_per_second"].items():
        ratio = throughput["ratio_to_in_process"][name]
        cells = "".join(f"{values[key]:>{size}.2f}" for values in (rate, ratio) for key, size in COLUMNS)
        cost = throughput["cpu_milliseconds_per_tile"][name]["median"]
        print(f"{name:24}{cells}{cost:>9.0f}")
    height, width = result["memory"]["photograph"]
    print(f"\n{height * width / 1e6:.0f} megapixels{'':11}{'MB':>8}{'client':>9}{'server':>9}   tiles")
    for way in ("in process", "triton"):
        numbers = result["memory"][way]
        done, total = numbers["tiles"]
        print(
            f"{way:24}{numbers['megabytes']:>8}{numbers['client_megabytes']:>9}"
            f"{numbers.get('server_megabytes', 0):>9}   {done} of {total} in {numbers['seconds']} s"
        )


COLUMNS = (("median", 10), ("least", 9), ("most", 9))

if __name__ == "__main__":
    main()
