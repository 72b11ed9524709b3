"""Orchestration: what a stage costs over its bare command, by `dvc repro` and by the flow.

    python benchmarks/orchestration.py [CHECKOUT] [--rounds N]

Without a checkout it measures a graph of four stages that do nothing, so that all that is left is overhead; with
one, that graph as it is at HEAD, from empty caches. Target: at most 3 s a stage over the bare command.

A round runs each stage three ways, one stage at a time, in fresh clones: its command alone, `dvc repro
--single-item`, and a step of the flow's runner; then the whole graph by `dvc repro` and by the flow, which runs
independent stages at the same time and has Prefect to start. Overhead is taken within a round.
The result is printed and written to benchmarks/results/orchestration.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from flows.graph import Graph, read_graph, read_store
from flows.lock import merge
from flows.run_commit import clone_commit, commit_run, git
from flows.runners import Run
from flows.runners.subprocess import SubprocessRunner
from relume.files import write_json
from relume.serving.backends import processor

TARGET_SECONDS = 3.0


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "checkout", nargs="?", type=Path, help="the top of a checkout; a graph that does nothing if left out"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/results/orchestration.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as folder:
        source = arguments.checkout.resolve() if arguments.checkout else _toy(Path(folder))
        rounds = [_round(source, Path(folder) / f"round-{number}") for number in range(arguments.rounds)]
    result = {
        "what": "seconds; medians over the rounds",
        "graph": "the checkout's" if arguments.checkout else "four stages that do nothing",
        "rounds": arguments.rounds,
        "stages": {stage: _stage_row(rounds, stage) for stage in rounds[0]["stages"]},
        "whole_graph": {key: _median(r["whole"][key] for r in rounds) for key in rounds[0]["whole"]},
        "machine": _machine(),
    }
    overheads = [row["flow_over_bare"] for row in result["stages"].values()]
    result["flow_over_bare_a_stage"] = {"median": _median(overheads), "max": max(overheads), "target": TARGET_SECONDS}
    write_json(arguments.output, result)
    print(json.dumps(result, indent=2))


def _toy(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.flows.toy import make_toy

    return make_toy(folder / "toy", folder / "toy-home").root


def _round(source: Path, folder: Path) -> dict[str, Any]:
    def fresh(name: str) -> tuple[Path, dict[str, str]]:
        clone, home = folder / name, folder / f"{name}-home"
        clone_commit(source, "HEAD", clone)
        (clone / "dvc.lock").unlink(missing_ok=True)
        home.mkdir()
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            "RELUME_HOME": str(home),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(home / "dvc"),
        }
        return clone, environment

    graph = read_graph(source)
    bare, repro = fresh("bare"), fresh("repro")
    stages: dict[str, dict[str, float]] = {}
    for name, stage in graph.stages.items():
        stages[name] = {
            "bare": _seconds(["sh", "-c", stage.command], *bare),
            "dvc": _seconds([sys.executable, "-m", "dvc", "repro", "--single-item", name], *repro),
        }
    for name, seconds in _steps(graph, *fresh("steps")).items():
        stages[name]["flow"] = seconds
    flow = "from pathlib import Path; from flows.pipeline import run; from relume.home import relume_home; "
    flow += "run(Path(), relume_home())"
    whole = {
        "bare_commands_in_turn": sum(row["bare"] for row in stages.values()),
        "dvc_repro": _seconds([sys.executable, "-m", "dvc", "repro"], *fresh("repro-all")),
        "flow": _seconds([sys.executable, "-c", flow], *fresh("flow-all")),
    }
    return {"stages": stages, "whole": whole}


def _steps(graph: Graph, clone: Path, environment: dict[str, str]) -> dict[str, float]:
    """Runs each stage through the flow's runner, in turn."""
    run = Run(
        name="benchmark",
        root=clone,
        commit=commit_run(clone, "benchmark"),
        store=read_store(clone),
        home=Path(environment["RELUME_HOME"]),
    )
    runner = SubprocessRunner(run, environment={"PYTHONPATH": environment["PYTHONPATH"]})
    lock, seconds = "", {}
    for name, stage in graph.stages.items():
        start = time.monotonic()
        result = runner.run(stage, lock)
        lock = merge(lock, [result.entry], list(graph.stages))
        seconds[name] = time.monotonic() - start
        assert result.outcome == "ran", name
    return seconds


def _seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def _median(values: Any) -> float:
    return round(statistics.median(values), 2)


def _stage_row(rounds: list[dict[str, Any]], stage: str) -> dict[str, float]:
    rows = [r["stages"][stage] for r in rounds]
    seconds = {way: _median(row[way] for row in rows) for way in ("bare", "dvc", "flow")}
    over = {f"{way}_over_bare": _median(row[way] - row["bare"] for row in rows) for way in ("dvc", "flow")}
    return seconds | over


def _machine() -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[1], 1),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "git": git(Path(), "--version").removeprefix("git version "),
    } | {name: importlib.metadata.version(name) for name in ("dvc", "prefect")}


if __name__ == "__main__":
    main()
