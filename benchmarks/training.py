"""Training samples per second of our loop against a straightforward one, and what tracking and checkpoints cost.

    python -m benchmarks.training --results benchmarks/results/training.json
    python -m benchmarks.training --only nafnet --rounds 1 --seconds 1 --no-overhead

The straightforward loop is what a paper's training does each step: gradients to zero, forward, loss, backward, the
norm of the gradient clipped, AdamW; in PyTorch's default memory layout, without a moving average, checkpoints or
validation. It runs twice: with the plain transcription of the network's published block order
(`benchmarks/models/transcribed_*`), which all ratios are taken to, and with our network. Ours is
`relume.training.loop.train` as the stages call it, alone and with each option. All start from the same weights and
take the same batches.

Each variant is a process of its own that lives through the case and runs when it is its turn, for some seconds, the
others waiting; the order is another in every round. The figure is the median over rounds of the ratio to the
transcription in the same round. Validation is outside: the stub that stands for it runs after the last step. The
networks and phases are those of the recipe `ensemble` at the `cpu` scale.

The overhead is what the same loop spends in checkpoints and reports, MLflow in SQLite, over the rest of its time, at
the recipe's own pace of validations with checkpoints every ten seconds.
"""

import argparse
import math
import multiprocessing as mp
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.data_loading import conditions, make_shards
from benchmarks.models.case import Case
from benchmarks.models.run import cases as transcriptions
from relume.files import write_json
from relume.losses.registry import build_loss
from relume.models.registry import build
from relume.reading import read_json
from relume.recipes.recipe import resolve
from relume.training import loop
from relume.training.batches import StepBatches, TrainingCrops
from relume.training.checkpoint import Checkpoint
from relume.training.config import BaseModelSettings, StageSettings, TrainingSettings
from relume.training.patches import PatchShards
from relume.training.validation import Validation

WITHOUT_END = 1_000_000  # steps
STEPS = 3  # of a turn, at least; the first may compile, the second again
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, a worker": {"workers": 1},
    "ours, compiled": {"compile": True},
    "ours, bfloat16": {"precision": "bf16-mixed"},
    "ours, a worker, compiled": {"workers": 1, "compile": True},
    "ours, a worker, compiled, bfloat16": {"workers": 1, "compile": True, "precision": "bf16-mixed"},
}
PLAIN = ("transcription, plain loop", "our network, plain loop")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a variant's process is told.

    Attributes:
        base: Below `pretrain.bases`, with one phase.
        training: The section `training`, with what every variant shares.
        shards: Folder of patches.
    """

    base: dict[str, Any]
    training: dict[str, Any]
    shards: str

    def read(self, **options: Any) -> tuple[BaseModelSettings, TrainingSettings, nn.Module, TrainingCrops]:
        """The settings, the network at its start, and the crops."""
        stage = BaseModelSettings.model_validate(self.base)
        training = TrainingSettings.model_validate(self.training | options)
        torch.set_num_threads(training.threads)
        torch.manual_seed(training.seed)
        network = build(stage.architecture, dict(stage.arguments))
        with torch.no_grad():  # NAFNet starts with zero scales, whose products are those of nothing
            for parameter in network.parameters():
                if (parameter == parameter.flatten()[0]).all():
                    parameter += 0.1 * torch.randn_like(parameter)
        return stage, training, network, TrainingCrops(PatchShards(self.shards), seed=training.seed)


def stub(network: nn.Module) -> Validation:
    """Stands for the validation, whose time does not count."""
    return Validation(value=0.0, image=np.zeros((1, 3, 3), np.uint8))


class Turns:
    """Lets a process step while it is its turn.

    Args:
        pipe: Gives the seconds of a turn, takes the mean seconds of its steps; 0 ends the process.
    """

    def __init__(self, pipe: Connection):
        self._pipe, self._left, self._start, self._steps = pipe, 0.0, 0.0, -2

    def step(self) -> None:
        """Called when a step begins."""
        now = time.perf_counter()
        self._steps += 1
        if 0 <= self._steps < STEPS or now - self._start < self._left:
            return
        if self._steps > 0:
            self._pipe.send((now - self._start) / self._steps)
        self._left = self._pipe.recv()
        if not self._left:
            os._exit(0)  # with its workers waiting for more, which end with it
        self._start, self._steps = time.perf_counter(), 0


def plain_steps(
    network: nn.Module, stage: StageSettings, training: TrainingSettings, crops: TrainingCrops
) -> Iterator[float]:
    """The straightforward loop; yields each step's loss."""
    settings, loss_of = stage.optimizer, build_loss(stage.loss)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
    )
    for batch in torch.utils.data.DataLoader(StepBatches(crops, stage.resolved(training)), batch_size=None):
        optimizer.zero_grad()
        loss = loss_of(network(batch.degraded), batch.clean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip or math.inf)
        optimizer.step()
        yield loss.item()


def transcribed(stage: BaseModelSettings, network: nn.Module) -> nn.Module:
    """The plain transcription with a network's weights."""
    case: Case = next(case for case in transcriptions([]) if case.architecture == stage.architecture)
    plain = case.transcription(**stage.arguments)
    plain.load_state_dict(network.state_dict())
    return plain


def run_variant(name: str, setup: Setup, pipe: Connection) -> None:
    """A variant's process."""
    mp.set_start_method("fork", force=True)  # of its workers, as in a training
    turns = Turns(pipe)
    stage, training, network, crops = setup.read(**OURS.get(name, {}))
    if name in PLAIN:
        steps = plain_steps(transcribed(stage, network) if name == PLAIN[0] else network, stage, training, crops)
        while True:
            turns.step()
            next(steps)
    learning_rate_at = loop.learning_rate_at

    def at_the_beginning_of_a_step(stage: StageSettings, step: int) -> float:
        turns.step()
        return learning_rate_at(stage, step)

    loop.learning_rate_at = at_the_beginning_of_a_step
    train(network, crops, stage, training, setup.shards)


def train(
    network: nn.Module, crops: TrainingCrops, stage: StageSettings, training: TrainingSettings, folder: str
) -> list[dict[str, float]]:
    """Our loop, silent and without validation."""
    return loop.train(
        network,
        crops,
        stage=stage,
        training=training,
        checkpoint=Checkpoint(folder, "benchmark"),
        validate=stub,
        report=lambda *_: None,
    )


def losses_apart(setup: Setup, steps: int = 4) -> float:
    """How far the losses of ours and of the transcription's plain loop are apart over a few steps: the same work?"""
    short = Setup(
        base=setup.base | {"phases": [setup.base["phases"][0] | {"steps": steps}]},
        training=setup.training,
        shards=setup.shards,
    )
    stage, training, network, crops = short.read()
    plain = statistics.mean(plain_steps(transcribed(stage, network), stage, training, crops))
    with tempfile.TemporaryDirectory() as folder:
        ours = train(network, crops, stage, training, folder)[0]["loss"]
    return abs(ours / plain - 1)


def compare(setup: Setup, rounds: int, seconds: float) -> dict[str, Any]:
    """The variants of one case by name: samples per second and ratio, medians over the rounds."""
    spawn = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name in (*PLAIN, *OURS):
        pipes[name], theirs = spawn.Pipe()
        processes.append(spawn.Process(target=run_variant, args=(name, setup, theirs)))
        processes[-1].start()
        theirs.close()

    def turn(name: str, length: float) -> float:
        pipes[name].send(length)
        return pipes[name].recv()

    for name in pipes:
        turn(name, min(seconds, 2.0))  # compiles, and lets the allocator find its sizes
        turn(name, min(seconds, 1.0))
    names, found = list(pipes), []
    for number in range(rounds):
        shift = number * 3 % len(names)  # 3 and the eight variants have no common factor
        found.append({name: turn(name, seconds) for name in names[shift:] + names[:shift]})
    for pipe in pipes.values():
        pipe.send(0)
    for process in processes:
        process.join()
    batch = setup.base["phases"][0]["batch"]
    rows = {}
    for name in names:
        ratios = sorted(one[PLAIN[0]] / one[name] for one in found)
        rows[name] = {
            "samples_per_second": round(batch / statistics.median(one[name] for one in found), 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        }
    return rows


def overhead(base: dict[str, Any], training: dict[str, Any], shards: str, share: float) -> dict[str, Any]:
    """What a part of a recipe's own training spends in checkpoints and reports to MLflow.

    Args:
        base: Below `pretrain.bases`, as in params.yaml.
        training: The section `training`, as in params.yaml.
        shards: Folder of patches.
        share: Of the recipe's steps; validations come as often as in the whole.
    """
    from components.tracking import StageRun
    from components.training_stage.reporting import reporter

    phases = [phase | {"steps": max(1, round(phase["steps"] * share))} for phase in base["phases"]]
    spent = {"checkpoints": 0.0, "reports": 0.0, "validation": 0.0}

    def timed(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                spent[what] += time.perf_counter() - start

        return run

    setup = Setup(
        base=base | {"phases": phases},
        training=training | {"validations": max(1, round(training["validations"] * share))},
        shards=shards,
    )
    stage, settings, network, crops = setup.read()
    image = np.random.default_rng(0).integers(0, 256, (192, 576, 3), np.uint8)
    save, loop._save = loop._save, timed("checkpoints", loop._save)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"RELUME_HOME": folder, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow/mlflow.db"}
        before = time.perf_counter()
        with StageRun("benchmark", {"stage": stage.model_dump(mode="json")}) as run:
            opened = time.perf_counter() - before
            start = time.perf_counter()
            loop.train(
                network,
                crops,
                stage=stage,
                training=settings,
                checkpoint=Checkpoint(folder, "benchmark"),
                validate=timed("validation", lambda network: Validation(value=30.0, image=image)),
                report=timed("reports", reporter("benchmark", run, stage)),
            )
            whole = time.perf_counter() - start
    loop._save = save
    bare = whole - sum(spent.values())
    return {
        "steps": stage.steps,
        "seconds_training": round(bare, 2),
        "seconds_checkpoints": round(spent["checkpoints"], 3),
        "seconds_reports": round(spent["reports"], 3),
        "overhead": round((spent["checkpoints"] + spent["reports"]) / bare, 4),
        "seconds_to_open_the_run_once": round(opened, 2),
    }


def main() -> None:
    """Runs the cases, prints the tables, and writes them with date, hardware and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a variant's turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.25, help="of a recipe's steps, for the overhead")
    parser.add_argument("--no-overhead", action="store_true")
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    params = resolve("ensemble", "cpu")
    training = params["training"] | {"threads": options.threads}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as folder:
        make_shards(Path(folder), side=params["curate"]["patch"], count=256)
        for name, base in params["pretrain"]["bases"].items():
            for phase in base["phases"]:
                case = f"{name}, cpu scale, patch {phase['patch']}, batch {phase['batch']}"
                if options.only and not any(word in case for word in options.only):
                    continue
                endless = {"patch": phase["patch"], "batch": phase["batch"], "steps": WITHOUT_END}
                quiet = {"validations": 1, "checkpoint_seconds": 1e9}
                steady = base["optimizer"] | {"warmup": 0, "shape": "constant"}
                changed = base | {"phases": [endless], "optimizer": steady}
                setup = Setup(base=changed, training=training | quiet, shards=folder)
                apart = losses_apart(setup)
                print(f"{case}; losses apart by {apart:.1e}")
                rows[case] = {"losses_apart": float(f"{apart:.1e}"), **conditions(options.threads, options.rounds)}
                rows[case]["variants"] = compare(setup, options.rounds, options.seconds)
                for variant, row in rows[case]["variants"].items():
                    low, high = row["ratio_range"]
                    print(
                        f"  {variant:36} {row['samples_per_second']:8.2f}/s "
                        f"{row['ratio']:6.2f}  {low:.2f} .. {high:.2f}",
                        flush=True,
                    )
            case = f"{name}, cpu scale, overhead"
            if not options.no_overhead and (not options.only or any(word in case for word in options.only)):
                rows[case] = overhead(base, training, folder, options.share) | conditions(options.threads, 1)
                print(f"{case}: {100 * rows[case]['overhead']:.2f} % of {rows[case]['seconds_training']} s", flush=True)
    if options.results:
        earlier = read_json(options.results) if options.results.exists() else {}
        write_json(options.results, {**earlier, **rows})


if __name__ == "__main__":
    main()
