"""The training loop: one function that can be killed at any step and ends with the weights of one never killed."""

import copy
import itertools
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import nn
from torch.distributed.fsdp import FSDPModule

from relume.errors import RelumeError, TrainingDivergedError, WorkerError
from relume.losses.registry import build_loss
from relume.training.batches import Batch, StepBatches, TrainingCrops
from relume.training.checkpoint import Checkpoint
from relume.training.config import ResolvedPhase, ResolvedStage, StageSettings, TrainingSettings
from relume.training.methods import Loss, forward_names, loss_of_batch
from relume.training.processes import agreed, emulates_bfloat16, is_sharded, launched, seed_network, whole
from relume.training.rules import data_problems, problems, workers_problem
from relume.training.schedule import learning_rate_at, position_at
from relume.training.state import TrainingState
from relume.training.validation import Validation

PREFETCHED = 4  # batches that each worker prepares ahead
WORKER_SECONDS = 600.0  # that a step waits for a batch from its worker

# Called after a validation with the step (from 1), all steps, metrics by name, and an image of the validation
# (uint8 (H, W, 3)); and about once a second without metrics and image.
Report = Callable[[int, int, dict[str, float], np.ndarray | None], None]


def train(
    network: nn.Module,
    crops: TrainingCrops,
    *,
    stage: StageSettings,
    training: TrainingSettings,
    checkpoint: Checkpoint,
    validate: Callable[[nn.Module], Validation],
    report: Report,
) -> list[dict[str, float]]:
    """Trains a network in place and leaves the moving average of its weights in it.

    In a process group, as torchrun starts it, every rank calls this with the same arguments; the ranks share each
    step's batch, the first one writes the checkpoint, and all end with the same weights. Only the first reports.

    Args:
        network: Its parameters that require gradients are trained.
        crops: Degraded and clean crops by sample number.
        stage: Loss, optimiser, phases and method.
        training: Precision, checkpoint interval, number of validations.
        checkpoint: Where the state is kept; a training found there is resumed from its step.
        validate: The metrics of a network on the validation photographs.
        report: Called after every validation and, about once a second, with the progress.

    Returns:
        The history: for each validation `step`, `loss` (mean since the last), `lr` and `psnr` in dB, or of a level
        network the `accuracy` in percent.

    Raises:
        TrainingDivergedError: The loss or its gradient is not finite; the batch is kept beside the checkpoint.
        ConfigError: The first of `relume.training.rules.problems` and `data_problems`.
        ModelFormatError: The checkpoint lacks a part of the state.
        WorkerError: A worker did not prepare its batch in time, or died.
    """
    fabric = launched(training)
    stage = stage.resolved(training)
    found = problems(stage, network, ranks=fabric.world_size, side=crops.patches.side)
    for problem in itertools.chain(found, data_problems(stage, network, crops)):
        raise problem
    result = network = network.to(memory_format=torch.channels_last)
    if is_sharded(fabric):
        # Its parameters become shards, which have no other memory format.
        network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    run = _set_up(network, stage, training, checkpoint, fabric)
    state = run.state
    if state.restore(checkpoint):
        fabric.strategy.precision.load_state_dict(state.scaler)
        if fabric.is_global_zero:
            print(f"The training is resumed from step {state.step} of {stage.steps}.", flush=True)
    if fabric.is_global_zero and fabric.device.type == "cpu" and training.precision == "bf16-mixed":
        _warn_of_emulation()
    every = math.ceil(stage.steps / training.validations)
    batches = _batches(crops, stage, training.workers, fabric, state.step)
    clock, phase_number, loss_of = _Clock(), -1, build_loss(stage.loss)
    while state.step < stage.steps and not _patience_ended(stage, state):
        position = position_at(stage.phases, state.step)
        if position.number != phase_number:
            phase_number, loss_of = position.number, build_loss(position.phase.loss)
            _set_trained(state, position.phase.train, freeze=not is_sharded(fabric))
        lr = learning_rate_at(stage, state.step)
        batch = next(batches)
        loss = _step(run, batch, position.phase, lr, loss_of)
        state.advance(loss, stage.optimizer.ema)
        clock.add(position.phase.batch)
        if state.step % every == 0 or state.step == stage.steps:
            metrics = {"loss": sum(state.losses) / len(state.losses), "lr": lr}
            validation = _validate_average(run, validate)
            # Last bits can differ between ranks, and with them which validation is the best and when patience ends.
            metrics[validation.metric] = agreed(validation.value, fabric)
            state.note_validation(metrics, by=validation.metric, keep_best=stage.keep == "best")
            if fabric.is_global_zero:
                report(state.step, stage.steps, metrics | clock.metrics(fabric.device), validation.image)
            _save(run)
            clock.restart()
        elif agreed(clock.since_save >= training.checkpoint_seconds, fabric):
            _save(run)
            clock.saved()
        if clock.since_report >= 1 and fabric.is_global_zero:
            report(state.step, stage.steps, {}, None)
            clock.reported()
    state.use(state.best if stage.keep == "best" and state.best else state.average)
    if is_sharded(fabric):
        result.load_state_dict({name: whole(tensor) for name, tensor in network.state_dict().items()})
    return state.history


def _warn_of_emulation() -> None:
    if emulates_bfloat16():
        print(
            "warning: this processor has no instructions for bfloat16, and emulating them makes the training several"
            " times slower; set training.precision to 32-true in recipe.yaml",
            flush=True,
        )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a training works with.

    Attributes:
        fabric: Of its processes and devices.
        network: The network itself.
        model: The network as Fabric wraps it, compiled if it is asked for.
        state: What changes.
        optimizer: The state's, as Fabric wraps it.
        stage: What is trained.
        training: What all training stages share.
        checkpoint: Where the state is kept.
    """

    fabric: Fabric
    network: nn.Module
    model: _FabricModule
    state: TrainingState
    optimizer: _FabricOptimizer
    stage: ResolvedStage
    training: TrainingSettings
    checkpoint: Checkpoint


def _set_up(
    network: nn.Module, stage: ResolvedStage, training: TrainingSettings, checkpoint: Checkpoint, fabric: Fabric
) -> _Run:
    """Places the network on its device, and makes state and optimiser for it."""
    model = fabric.setup_module(torch.compile(network) if training.compile else network)
    for name in forward_names(stage.method, network):
        model.mark_forward_method(name)
    state = TrainingState(network, stage.optimizer)
    return _Run(
        fabric=fabric,
        network=network,
        model=model,
        state=state,
        optimizer=cast(_FabricOptimizer, fabric.setup_optimizers(state.optimizer)),
        stage=stage,
        training=training,
        checkpoint=checkpoint,
    )


def _step(run: _Run, batch: Batch, phase: ResolvedPhase, lr: float, loss_of: Loss) -> float:
    """Moves the weights once.

    Args:
        run: What the training works with.
        batch: This rank's part of the step's batch.
        phase: Whose step it is.
        lr: Learning rate.
        loss_of: Loss between a restored and a clean batch.

    Returns:
        The loss before the step, the mean over the ranks.

    Raises:
        TrainingDivergedError: The loss or its gradient is not finite; the weights are still those before the step.
    """
    fabric, state, seed = run.fabric, run.state, run.training.seed
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    seed_network(seed, state.step, fabric)
    run.optimizer.zero_grad(set_to_none=True)
    parts = batch.parts(phase.accumulate)
    total = torch.zeros((), device=fabric.device)
    for number, part in enumerate(parts, start=1):
        with fabric.no_backward_sync(run.model, enabled=number < len(parts)):
            part = part.to(fabric.device)
            loss = loss_of_batch(run.model, part, run.stage.method, loss_of, (seed, state.step)) / len(parts)
            fabric.backward(loss)
        total += loss.detach()
    mean = fabric.all_reduce(total, reduce_op="mean")
    assert isinstance(mean, torch.Tensor)
    if not mean.isfinite():
        raise _diverged(f"The loss is {mean.item()}", run, batch, phase, lr)
    for name, parameter in state.parameters.items():
        if name not in state.moving:
            parameter.grad = None
    limit = run.stage.optimizer.clip or math.inf
    norm = fabric.clip_gradients(run.model, run.optimizer, max_norm=limit, error_if_nonfinite=False)
    # In float16 gradients overflow now and then: the scaler leaves such a step out and scales less from then on.
    if run.training.precision != "16-mixed" and norm is not None and not whole(norm).isfinite():
        raise _diverged("The loss is finite, its gradient is not,", run, batch, phase, lr)
    run.optimizer.step()
    return mean.item()


def _diverged(what: str, run: _Run, batch: Batch, phase: ResolvedPhase, lr: float) -> TrainingDivergedError:
    kept = run.checkpoint.keep_batch(batch.tensors(), step=run.state.step, rank=run.fabric.global_rank)
    return TrainingDivergedError(
        f"{what} at step {run.state.step}",
        where=f"in a phase of patch {phase.patch} at learning rate {lr:.2e}; the batch is saved in {kept}",
        next_step="lower optimizer.lr or optimizer.clip in recipe.yaml",
    )


def _validate_average(run: _Run, validate: Callable[[nn.Module], Validation]) -> Validation:
    """Metrics of the moving average; the weights in training are put back afterwards."""
    network, state = run.network, run.state
    for buffer in state.buffers.values():  # each rank has its own; those of the first are kept
        buffer.copy_(agreed(buffer, run.fabric))
    weights = {name: p.detach().clone() for name, p in state.parameters.items()}
    state.use(state.average)
    network.eval()
    with torch.no_grad():
        result = validate(network)
    if isinstance(network, FSDPModule):
        network.reshard()  # forgets the gathered average, which the next pass would take for the weights
    state.use(weights)
    network.train()
    return result


def _save(run: _Run) -> None:
    run.state.scaler = run.fabric.strategy.precision.state_dict()
    run.state.save(run.checkpoint if run.fabric.is_global_zero else None)


def _batches(crops: TrainingCrops, stage: ResolvedStage, workers: int, fabric: Fabric, start: int) -> Iterator[Batch]:
    """This rank's batches from a step on, prepared ahead by worker processes if there are any."""
    steps = StepBatches(crops, stage, rank=fabric.global_rank, ranks=fabric.world_size)
    ahead: dict[str, Any] = {"prefetch_factor": PREFETCHED, "timeout": WORKER_SECONDS} if workers else {}
    if workers:
        free = shutil.disk_usage("/dev/shm").free
        if problem := workers_problem(stage, workers=workers, ahead=PREFETCHED, free=free):
            raise problem
    loader = torch.utils.data.DataLoader(
        steps,
        sampler=range(start, stage.steps),
        batch_size=None,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        **ahead,
    )
    # The loader's iterator is made here and not at the first step: it draws from the generator that steps seed.
    return _from_workers(iter(loader), workers)


def _from_workers(batches: Iterator[Batch | RelumeError], workers: int) -> Iterator[Batch]:
    """What a DataLoader passes on; an error instead of a batch, and a worker that hangs or died, are raised."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader" not in str(error):
                raise
            raise WorkerError(
                "A process that prepares batches does not answer",
                where=f"training.workers: {workers}",
                why=str(error).splitlines()[0],
                next_step="run the same command again, which resumes; if it happens again, set training.workers to 0 in"
                " recipe.yaml",
            ) from error
        if isinstance(batch, RelumeError):
            raise batch
        yield batch


def _set_trained(state: TrainingState, patterns: tuple[str, ...], *, freeze: bool) -> None:
    """Says which parameters move; freezing the others saves their gradients, which shards cannot do half-way."""
    state.moving = {name for name in state.parameters if any(fnmatch(name, pattern) for pattern in patterns)}
    if freeze:
        for name, parameter in state.parameters.items():
            parameter.requires_grad_(name in state.moving)


def _patience_ended(stage: StageSettings, state: TrainingState) -> bool:
    return stage.patience is not None and state.since_best >= stage.patience


class _Clock:
    """Times of the last save and report, and the samples per second since the last validation."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._start = self._save = self._report = time.monotonic()
        self._samples = 0

    def add(self, samples: int) -> None:
        self._samples += samples

    def saved(self) -> None:
        self._save = time.monotonic()

    def reported(self) -> None:
        self._report = time.monotonic()

    @property
    def since_save(self) -> float:
        return time.monotonic() - self._save

    @property
    def since_report(self) -> float:
        return time.monotonic() - self._report

    def metrics(self, device: torch.device) -> dict[str, float]:
        """Throughput in samples per second, and peak memory in MB of the process and of the GPU."""
        found = {
            "samples_per_second": self._samples / max(1e-9, time.monotonic() - self._start),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if device.type == "cuda":
            found["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        return found
