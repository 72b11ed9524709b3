"""Backends: their speed against eager PyTorch, Triton's share and latency, and what is not the network's time.

    python -m benchmarks.backends

The baseline is the same network by eager PyTorch in float32, channels_last, with as many threads, at the same tile. All
ways take turns at one tile, and ratios are taken within a turn, so that other programs, whose load is written down, do
not favour one. Latency added by Triton is that of an image of one tile, 512 pixels, less that in process, within a
turn; without the question which release serves, which rollout.py measures. The time of 24 megapixels, one photograph
again and again, is that of a tile times their number; tiler, decoding and encoding are measured in full. Memory is the
peak of a process that restores for some seconds and of the server. Writes benchmarks/results/backends.json.
"""

import argparse
import contextlib
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch

from benchmarks.serving import hardware, own_server, peak, sample, server_processes, spread, timed
from flows.embedded_triton import EmbeddedTriton
from relume import products
from relume.files import write_json
from relume.images import read_image, save_image
from relume.inference.plan import Inference
from relume.inference.tiling import count_tiles, restore_image
from relume.models.artifact import ModelCard, save_model
from relume.models.registry import build, variants
from relume.serving.backends import InProcess, Served, machine, open_backend
from relume.serving.export import export_onnx, levels_of
from relume.serving.openvino_restorer import fastest_precision
from relume.serving.repository import publish_release
from relume.serving.served_model import Serving, read_serving, write_served_model
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl

PHOTOGRAPH = (4000, 6000)
TILES = 4
"""In one request for throughput; latency is that of one."""


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--memory-of", nargs=2, metavar=("FOLDER", "BACKEND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        restore_for_a_while(*options.memory_of)
        return
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    backends: list[Served] = ["onnxruntime", "openvino_f32"]
    if fastest_precision() == "bf16":
        backends.append("openvino_bf16")
    photo = products.shipped("photo") / "serving"
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as folder:
        models = {"photo": photo, "ffdnet-color, random weights": random_model("ffdnet-color", Path(folder) / "ffdnet")}
        result = {
            "date": datetime.date.today().isoformat(),
            "hardware": hardware(),
            "versions": machine()["versions"] | {"torch": torch.__version__},
            "tile": {name: against_pytorch(serving, backends, options.turns) for name, serving in models.items()},
            "photograph": photograph(photo, backends[-1], Path(folder)),
            "triton": through_triton(photo, backends, options.turns, Path(folder)),
        }
    result["load_after"] = round(os.getloadavg()[0], 1)
    write_json(Path("benchmarks/results/backends.json"), result)
    print(Path("benchmarks/results/backends.json").read_text())


def random_model(variant: str, folder: Path) -> Path:
    """A served model of a network of random weights, with the plan of `photo`, beside its artifact."""
    torch.manual_seed(0)
    chosen = variants()[variant]
    network = build(chosen.architecture, chosen.arguments).eval()
    card = ModelCard(
        architecture=chosen.architecture, arguments=chosen.arguments, trained_for={"levels": [0, 75]}, provenance={}
    )
    save_model(folder, network, card)
    inference = read_serving(products.shipped("photo") / "serving").inference
    export_onnx(network, folder / "source.onnx", tile=inference.tile)
    serving = Serving(inference=inference, levels=levels_of(network, card))
    write_served_model(folder / "source.onnx", folder / "serving", serving)
    return folder / "serving"


def against_pytorch(serving: Path, backends: list[Served], turns: int) -> dict[str, object]:
    """Milliseconds of a tile by backend, and how many times as fast as PyTorch it is."""
    ways: list[InProcess] = ["torch", *backends]
    restorers = {backend: open_backend(backend, serving) for backend in ways}
    plan, levels = restorers["torch"].inference, restorers["torch"].serving.levels
    tile = sample(plan.tile, plan.tile).transpose(2, 0, 1)[None].copy()
    level = np.array([levels.default], np.float32) if levels else None
    milliseconds = by_turns(
        {name: lambda each=each: each.restore_batch(tile, level) for name, each in restorers.items()},  # type: ignore[misc]
        turns,
    )
    return {
        "side": plan.tile,
        "milliseconds": {name: spread(values) for name, values in milliseconds.items()},
        "times_as_fast_as_pytorch": {
            name: spread([eager / own for eager, own in zip(milliseconds["torch"], values, strict=True)])
            for name, values in milliseconds.items()
        },
    }


def photograph(serving: Path, backend: Served, folder: Path) -> dict[str, object]:
    """Seconds of each part of restoring 24 megapixels, and the share of what is not the network, in per cent."""
    restorer = open_backend(backend, serving)
    plan: Inference = restorer.inference
    tile = sample(plan.tile, plan.tile).transpose(2, 0, 1)[None].copy()
    tiles = count_tiles(*PHOTOGRAPH, plan)
    restorer.restore_batch(tile)
    one = statistics.median(timed(lambda: restorer.restore_batch(tile)) for _ in range(9))
    image, jpeg = np.tile(skimage.data.astronaut(), (8, 12, 1))[: PHOTOGRAPH[0], : PHOTOGRAPH[1]], folder / "p.jpg"
    save_image(jpeg, image)
    megabytes = round(jpeg.stat().st_size / 1e6, 1)
    seconds = {
        "network": one * tiles,
        "decode": timed(lambda: read_image(jpeg), repeat=3),
        "tiler": timed(lambda: restore_image(image, lambda tiles: tiles, plan, batch=1, in_flight=1), repeat=3),
        "encode": timed(lambda: save_image(jpeg, image), repeat=3),
    }
    return {
        "megapixels": PHOTOGRAPH[0] * PHOTOGRAPH[1] / 1e6,
        "megabytes_of_its_jpeg": megabytes,
        "backend": backend,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "per_cent_of_the_network": {
            name: round(100 * value / seconds["network"], 1) for name, value in seconds.items() if name != "network"
        },
        "peak_megabytes_in_process": memory_of(serving, backend),
    }


def through_triton(serving: Path, backends: list[Served], turns: int, folder: Path) -> dict[str, object]:
    """By backend the throughput over that in process, the milliseconds that a tile takes longer, and the memory."""
    found: dict[str, object] = {}
    side = read_serving(serving).inference.tile
    tile, image = sample(side, side), sample(*(side * 2,) * 2)
    for backend in backends:
        home = folder / backend
        home.mkdir()
        triton: EmbeddedTriton = own_server(home)
        try:
            server = triton.start()
            publish_release(serving, server.repository, "photo", backend=backend)
            with TritonControl(server.grpc, key=server.key) as control:
                control.load_release("photo")
            here = open_backend(backend, serving)
            with (
                TritonRestorer(server.grpc, "photo", key=server.key) as shared,
                TritonRestorer(server.grpc, "photo", shared_memory=False) as grpc,
            ):
                served = grpc.served()
                latency = by_turns(
                    {
                        "in process": lambda here=here: here.restore(tile),  # type: ignore[misc]
                        "shared memory": lambda way=shared, of=served: way.restore(tile, served=of),  # type: ignore[misc]
                        "grpc": lambda way=grpc, of=served: way.restore(tile, served=of),  # type: ignore[misc]
                    },
                    turns,
                )
                whole = by_turns(
                    {
                        "in process": lambda here=here: here.restore(image),  # type: ignore[misc]
                        "shared memory": lambda shared=shared: shared.restore(image),  # type: ignore[misc]
                        "grpc": lambda grpc=grpc: grpc.restore(image),  # type: ignore[misc]
                    },
                    max(3, turns // 3),
                )
            megabytes = sum(peak(process.pid) for process in server_processes(triton))
        finally:
            triton.stop()
        found[backend] = {
            "throughput_over_in_process": {
                name: spread([base / own for base, own in zip(whole["in process"], whole[name], strict=True)])
                for name in ("shared memory", "grpc")
            },
            "added_milliseconds": {
                name: spread([own - base for base, own in zip(latency["in process"], latency[name], strict=True)])
                for name in ("shared memory", "grpc")
            },
            "peak_megabytes_of_the_server": megabytes,
        }
    return found


def by_turns(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each way in each turn; a turn before them warms up."""
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, run in ways.items():
            seconds = timed(run)
            if turn:
                milliseconds[name].append(seconds * 1000)
    return milliseconds


def memory_of(serving: Path, backend: Served) -> int:
    """Peak megabytes of a process of its own that reads, restores and writes the photograph's pixels for a while."""
    command = [sys.executable, "-m", "benchmarks.backends", "--memory-of", str(serving), backend]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def restore_for_a_while(folder: str, backend: Served) -> None:
    """Restores 24 megapixels for 12 seconds at most and prints the peak of this process."""

    class Enough(Exception):
        """Ends the restoration."""

    end = time.monotonic() + 12

    def progress(_done: int, _of: int) -> None:
        if time.monotonic() > end:
            raise Enough

    pixels = sample(*PHOTOGRAPH)
    with contextlib.suppress(Enough):
        open_backend(backend, folder).restore(pixels, on_progress=progress)
    print(peak(os.getpid()))


if __name__ == "__main__":
    main()
