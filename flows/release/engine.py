"""`relume export --backend tensorrt`: a served model in mixed precision, proved, and its engine for this machine."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from flows.release.backend_parity import BackendParity, prove
from relume.errors import EngineError
from relume.files import write_bytes, write_json
from relume.params import PrecisionLimits
from relume.serving.backends import probe_tile
from relume.serving.emulated_restorer import EmulatedRestorer
from relume.serving.in_process import InProcessRestorer
from relume.serving.mixed_precision import LowPrecision, mixed_precision
from relume.serving.served_model import onnx_path, read_serving
from relume.serving.tensorrt_engine import (
    GRAPH,
    TIMING,
    EngineKey,
    EngineRecord,
    EngineRestorer,
    build_engine,
    engine_key,
    library,
    machine,
    read_engine,
    write_engine,
)

PLAN, PARITY = "precision_plan.json", "parity.json"
RUNS, WARM_UP = 20, 5

Say = Callable[[str], object]


def export_engine(
    serving: Path, folder: Path, precision: LowPrecision, limits: PrecisionLimits, say: Say
) -> EngineRecord:
    """Writes the graph in mixed precision, its plan and its proof, and the engine of this machine.

    The proof of the graph is by its emulated twin on the CPU, so it needs no GPU, and is written on any machine. The
    engine is built where there is none yet that is valid here, and kept when it keeps the same limits.

    Args:
        serving: The served model.
        folder: Where all of it goes; see `relume.serving.tensorrt_engine.engine_folder`.
        precision: The low one.
        limits: Of that precision.
        say: Takes a line or more about each step.

    Raises:
        ParityError: The graph, or the engine, does not compute what float32 does; no engine is kept.
        BackendUnavailableError: This machine has no TensorRT or no GPU.
        EngineError: TensorRT cannot build an engine of the graph.
    """
    mixed = mixed_precision(onnx_path(serving), precision)
    say(mixed.summary())
    _prove(EmulatedRestorer(serving, precision=precision), precision, limits, folder, "emulated", say)
    graph = mixed.model.SerializeToString(deterministic=True)
    write_bytes(folder / GRAPH, graph)
    write_json(folder / PLAN, mixed.plan())
    say(f"  written   {folder}: {GRAPH}, {PLAN}, {PARITY}")

    key = engine_key(serving, graph, machine())
    try:
        record = read_engine(folder, key)
    except EngineError as error:
        say(f"  build     {error.what}{f' ({error.why})' if error.why else ''}; a new one is built")
        return _build(serving, folder, graph, key, precision, limits, say)
    say(f"  kept      the engine is valid here: {key.gpu}, TensorRT {key.tensorrt}")
    return record


def _build(
    serving: Path,
    folder: Path,
    graph: bytes,
    key: EngineKey,
    precision: LowPrecision,
    limits: PrecisionLimits,
    say: Say,
) -> EngineRecord:
    engine = build_engine(library(), graph, timing=folder / TIMING)
    restorer = EngineRestorer(serving, engine)
    _prove(restorer, precision, limits, folder, f"run on {key.gpu}", say)
    milliseconds = _milliseconds(restorer)
    say(f"  built     {len(engine) / 1e6:.1f} MB, {milliseconds:.1f} ms a tile on {key.gpu}, TensorRT {key.tensorrt}")
    return write_engine(folder, engine, key, milliseconds=milliseconds)


def _prove(
    restorer: InProcessRestorer, precision: str, limits: PrecisionLimits, folder: Path, evidence: str, say: Say
) -> None:
    """Requires the limits, and keeps the figures with the level of evidence that they are of."""
    import skimage.data

    # One that comes with a package: the machine that serves has no photographs.
    found: list[BackendParity] = prove(
        restorer,
        skimage.data.astronaut(),
        limits,
        name=f"{precision}, {evidence},",
        next_step=f"use --precision {'bf16' if precision == 'fp16' else 'fp16'}, or serve with another backend",
    )
    for each in found:
        say(f"  {evidence}  {each.picture}: {each.psnr:.1f} dB, {each.within:.3%} within {limits.difference} levels")
    rows = {"precision": precision, "evidence": evidence, "pictures": [dataclasses.asdict(each) for each in found]}
    write_json(folder / PARITY, rows)


def _milliseconds(restorer: InProcessRestorer) -> float:
    """Median time of a tile."""
    import numpy as np

    serving = read_serving(restorer.folder)
    tile = probe_tile(serving.inference.tile)
    tile = tile / np.float32(255) if serving.inference.dtype == "float32" else tile
    levels = np.array([serving.levels.default], np.float32) if serving.levels else None
    seconds = []
    for _ in range(WARM_UP + RUNS):
        start = time.perf_counter()
        restorer.restore_batch(tile, levels)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[WARM_UP:]) * 1000, 2)
