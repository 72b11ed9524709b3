"""The training loop: one function that can be killed at any step and ends with the weights of one never killed."""

import copy
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from lightning_fabric.wrappers import _FabricOptimizer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from relume.errors import RelumeError, TrainingDivergedError
from relume.losses.registry import build_loss
from relume.training.batches import Batch, StepBatches, TrainingCrops
from relume.training.checkpoint import Checkpoint
from relume.training.config import OptimizerSettings, ResolvedStage, StageSettings, TrainingSettings
from relume.training.methods import forward_names, loss_of_batch
from relume.training.rules import problems
from relume.training.schedule import learning_rate_at, position_at
from relume.training.validation import Validation

T = TypeVar("T")

# Called after a validation with the step (from 1), all steps, figures by name, and a picture of the validation
# (uint8 (H, W, 3)); and about once a second without figures and picture.
Report = Callable[[int, int, dict[str, float], np.ndarray | None], None]


class TrainingState:
    """What changes while training: trained weights, their moving average, the optimiser's moments, the step.

    Random numbers need no state here: they are functions of the step.

    Args:
        network: Its parameters that require gradients are trained; the others stay as they are.
        settings: Of the optimiser.
    """

    def __init__(self, network: nn.Module, settings: OptimizerSettings):
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.moving = set(self.parameters)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.kind]
        self.optimizer = optimizer(
            self.parameters.values(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []  # since the last validation
        self.scaler: dict[str, Any] = {}  # of float16, the loss's scale
        self.best: dict[str, torch.Tensor] | None = None  # the average at the best validation, empty if not kept
        self.best_psnr, self.since_best = -math.inf, 0

    def save(self, checkpoint: Checkpoint | None) -> None:
        """Writes everything to a checkpoint; ranks that have none only hand their shards over."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        for name, parameter in self.parameters.items():
            for moment, value in self.optimizer.state[parameter].items():
                tensors[f"{moment}.{name}"] = value
        tensors = {name: whole(tensor) for name, tensor in tensors.items()}
        if checkpoint is None:
            return
        facts = {"step": self.step, "history": self.history, "losses": self.losses, "scaler": self.scaler}
        if self.best is not None:
            facts |= {"best_psnr": self.best_psnr, "since_best": self.since_best}
        checkpoint.save(tensors, facts)

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Goes back to the state of a checkpoint; False when there is none."""
        saved = checkpoint.load()
        if saved is None:
            return False
        tensors, facts = saved
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(placed(tensors[f"weight.{name}"], parameter))
                self.average[name].copy_(placed(tensors[f"average.{name}"], parameter))
                if f"exp_avg.{name}" in tensors:  # parameters of a later phase have none yet
                    # In the parameter's own memory format: other strides take other kernels, and other last bits.
                    moments = {
                        moment: torch.empty_like(parameter).copy_(placed(tensors[f"{moment}.{name}"], parameter))
                        for moment in ("exp_avg", "exp_avg_sq")
                    }
                    self.optimizer.state[parameter] = {"step": tensors[f"step.{name}"], **moments}
            if "best_psnr" in facts:
                self.best = {
                    name: torch.empty_like(parameter).copy_(placed(tensors[f"best.{name}"], parameter))
                    for name, parameter in self.parameters.items()
                    if f"best.{name}" in tensors
                }
                self.best_psnr, self.since_best = facts["best_psnr"], facts["since_best"]
        self.step, self.history, self.losses = facts["step"], facts["history"], facts["losses"]
        self.scaler = facts["scaler"]
        return True

    def update_average(self, decay: float) -> None:
        """average = decay · average + (1 - decay) · weights; early on with a smaller decay, to forget the start."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def note_validation(self, psnr: float, *, keep_best: bool) -> None:
        """Remembers the best validation, and with `keep_best` the average that it was of."""
        if psnr > self.best_psnr:
            self.best_psnr, self.since_best = psnr, 0
            self.best = {n: v.clone() for n, v in self.average.items()} if keep_best else {}
        else:
            self.since_best += 1

    def use(self, weights: dict[str, torch.Tensor]) -> None:
        """Puts weights such as the moving average into the network."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])


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
        checkpoint: Where the state is kept; a training found there goes on from its step.
        validate: The figures of a network on the validation photographs.
        report: Told about every validation and, about once a second, the progress.

    Returns:
        The history: for each validation `step`, `loss` (mean since the last), `lr` and `psnr` in dB.

    Raises:
        TrainingDivergedError: The loss is not finite; the batch is kept beside the checkpoint.
        ConfigError: The first of `relume.training.rules.problems`.
    """
    fabric = _fabric(training)
    stage = stage.resolved(training)
    for problem in problems(stage, network, ranks=fabric.world_size, side=crops.patches.side):
        raise problem
    result = network = network.to(memory_format=torch.channels_last)
    sharded = isinstance(fabric.strategy, ModelParallelStrategy)
    if sharded:
        # Its parameters become shards, which have no other memory format.
        network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    model = fabric.setup_module(torch.compile(network) if training.compile else network)
    state = TrainingState(network, stage.optimizer)
    optimizer = cast(_FabricOptimizer, fabric.setup_optimizers(state.optimizer))
    for name in forward_names(stage.method, network):
        model.mark_forward_method(name)
    if state.restore(checkpoint):
        fabric.strategy.precision.load_state_dict(state.scaler)
        if fabric.is_global_zero:
            print(f"goes on from step {state.step} of {stage.steps}", flush=True)
    every = math.ceil(stage.steps / training.validations)
    batches = _batches(crops, stage, training.workers, fabric, state.step)
    clock, phase_number, loss_of = _Clock(), -1, build_loss(stage.loss)
    while state.step < stage.steps and not _patience_ended(stage, state):
        position = position_at(stage.phases, state.step)
        if position.number != phase_number:
            phase_number = position.number
            loss_of = build_loss(position.phase.loss)
            _set_trained(state, position.phase.train, freeze=not sharded)
        lr = learning_rate_at(stage, state.step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        _seed_network(training.seed, state.step, fabric)
        optimizer.zero_grad(set_to_none=True)
        batch = next(batches)
        diverged = partial(_diverged, state, batch, checkpoint, lr, position.phase.patch, fabric.global_rank)
        parts = batch.parts(position.phase.accumulate)
        total = torch.zeros((), device=fabric.device)
        for number, part in enumerate(parts):
            with fabric.no_backward_sync(model, enabled=number < len(parts) - 1):
                part = part.to(fabric.device)
                seed = (training.seed, state.step)
                loss = loss_of_batch(model, part, stage.method, loss_of, seed) / len(parts)
                fabric.backward(loss)
            total += loss.detach()
        mean = fabric.all_reduce(total, reduce_op="mean")
        assert isinstance(mean, torch.Tensor)
        state.losses.append(mean.item())
        if not math.isfinite(state.losses[-1]):
            raise diverged(f"The loss is {state.losses[-1]}")
        for name, parameter in state.parameters.items():
            if name not in state.moving:
                parameter.grad = None
        limit = stage.optimizer.clip or math.inf
        norm = fabric.clip_gradients(model, optimizer, max_norm=limit, error_if_nonfinite=False)
        # In float16 gradients overflow now and then: the scaler leaves such a step out and scales less from then on.
        if training.precision != "16-mixed" and norm is not None and not whole(norm).isfinite():
            raise diverged("The loss is finite, its gradient is not,")
        optimizer.step()
        state.step += 1
        state.update_average(stage.optimizer.ema)
        clock.add(position.phase.batch)
        if state.step % every == 0 or state.step == stage.steps:
            figures = {"loss": sum(state.losses) / len(state.losses), "lr": lr}
            validation = _validate_average(network, state, validate)
            # Last bits can differ between ranks, and with them which validation is the best and when patience ends.
            figures["psnr"] = _agreed(validation.psnr, fabric)
            state.note_validation(figures["psnr"], keep_best=stage.keep == "best")
            state.history.append({"step": state.step, **figures})
            state.losses.clear()
            if fabric.is_global_zero:
                report(state.step, stage.steps, figures | clock.figures(fabric.device), validation.picture)
            _save(state, checkpoint, fabric)
            clock.restart()
        elif _agreed(clock.since_save >= training.checkpoint_seconds, fabric):
            _save(state, checkpoint, fabric)
            clock.saved()
        if clock.since_report >= 1 and fabric.is_global_zero:
            report(state.step, stage.steps, {}, None)
            clock.reported()
    state.use(state.best if stage.keep == "best" and state.best else state.average)
    if sharded:
        result.load_state_dict({name: whole(tensor) for name, tensor in network.state_dict().items()})
    return state.history


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from its shards, which every rank must ask for; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut into shards as another one is, or as it is."""
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


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

    def figures(self, device: torch.device) -> dict[str, float]:
        """Throughput in samples per second, and peak memory in MB of the process and of the GPU."""
        found = {
            "samples_per_second": self._samples / max(1e-9, time.monotonic() - self._start),
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if device.type == "cuda":
            found["gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        return found


def _fabric(training: TrainingSettings) -> Fabric:
    """Fabric on one device, or on all ranks of the process group that torchrun describes in the environment."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products on a GPU
    torch.set_num_threads(training.threads)
    world, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    strategy: Any = "auto"
    if world > 1 and training.strategy == "ddp":
        # The official networks have parameters that no output depends on, and phases leave some out.
        strategy = DDPStrategy(find_unused_parameters=True)
    elif world > 1:
        strategy = ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision=training.precision,
    )
    fabric.launch()
    # Some operations have no deterministic form on a GPU; bits are promised on the CPU.
    torch.use_deterministic_algorithms(True, warn_only=fabric.device.type != "cpu")
    return fabric


def _batches(crops: TrainingCrops, stage: ResolvedStage, workers: int, fabric: Fabric, start: int) -> Iterator[Batch]:
    """This rank's batches from a step on, prepared ahead by worker processes if there are any."""
    steps = StepBatches(crops, stage, rank=fabric.global_rank, ranks=fabric.world_size)
    ahead: dict[str, Any] = {"prefetch_factor": 4} if workers else {}
    loader = torch.utils.data.DataLoader(
        steps,
        sampler=range(start, stage.steps),
        batch_size=None,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        **ahead,
    )
    # The loader's iterator is made here and not at the first step: it draws from the generator that steps seed.
    return map(_or_raised, iter(loader))


def _or_raised(batch: Batch | RelumeError) -> Batch:
    """What a DataLoader handed on: a batch, or what went wrong instead."""
    if isinstance(batch, RelumeError):
        raise batch
    return batch


def _shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Spreads weights, gradients, moments and average over the ranks; a pass gathers the weights all at once.

    By block would save the memory of the gathered weights too, but blocks here use the weights of their parts
    directly; and the largest published network has 0.8 GB of them.
    """
    return fully_shard(network, mesh=mesh["data_parallel"])


def _set_trained(state: TrainingState, patterns: tuple[str, ...], *, freeze: bool) -> None:
    """Says which parameters move; freezing the others saves their gradients, which shards cannot do half-way."""
    state.moving = {name for name in state.parameters if any(fnmatch(name, pattern) for pattern in patterns)}
    if freeze:
        for name, parameter in state.parameters.items():
            parameter.requires_grad_(name in state.moving)


def _seed_network(seed: int, step: int, fabric: Fabric) -> None:
    """Makes what a network draws itself, such as masks and dropped paths, a function of the step."""
    # torch.manual_seed keeps a traceback for each kind of device that is not in use, two milliseconds a step.
    seed_all = torch.default_generator.manual_seed if fabric.device.type == "cpu" else torch.manual_seed
    seed_all(int(np.random.SeedSequence((seed, step, fabric.global_rank)).generate_state(1, np.uint64)[0]))


def _patience_ended(stage: StageSettings, state: TrainingState) -> bool:
    return stage.patience is not None and state.since_best >= stage.patience


def _agreed(value: T, fabric: Fabric) -> T:
    """What the first rank found: clocks and last bits differ, and all ranks must take the same way."""
    return fabric.broadcast(value) if fabric.world_size > 1 else value


def _save(state: TrainingState, checkpoint: Checkpoint, fabric: Fabric) -> None:
    state.scaler = fabric.strategy.precision.state_dict()
    state.save(checkpoint if fabric.is_global_zero else None)


def _diverged(
    state: TrainingState, batch: Batch, checkpoint: Checkpoint, lr: float, patch: int, rank: int, what: str
) -> TrainingDivergedError:
    kept = checkpoint.keep_batch(batch.tensors(), step=state.step, rank=rank)
    return TrainingDivergedError(
        f"{what} at step {state.step}",
        where=f"phase of patch {patch}, learning rate {lr:.2e}; the batch is kept in {kept}",
        next_step="lower optimizer.lr or optimizer.clip in params.yaml",
    )


def _validate_average(
    network: nn.Module, state: TrainingState, validate: Callable[[nn.Module], Validation]
) -> Validation:
    """Figures of the moving average; the weights in training are put back afterwards."""
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
