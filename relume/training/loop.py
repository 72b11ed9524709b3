"""The training loop: one function that can be killed at any step and ends with the weights of one never killed."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from relume.errors import TrainingDivergedError
from relume.losses import LOSSES
from relume.training.batches import NoisyCrops
from relume.training.checkpoint import Checkpoint
from relume.training.config import OptimizerSettings, StageSettings, TrainingSettings
from relume.training.schedule import learning_rate, phase_at

# Called after a validation with the step (from 1), all steps, and figures by name.
Report = Callable[[int, int, dict[str, float]], None]


class TrainingState:
    """What changes while training: trainable weights, their moving average, the optimiser's moments, the step.

    Random numbers need no state here: they are functions of the step (`NoisyCrops`).

    Args:
        network: Its parameters that require gradients are trained; the others stay as they are.
        settings: Of the optimiser.
    """

    def __init__(self, network: nn.Module, settings: OptimizerSettings):
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.losses: list[float] = []  # since the last validation

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes everything to a checkpoint."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, parameter in self.parameters.items():
            for moment, value in self.optimizer.state[parameter].items():
                tensors[f"{moment}.{name}"] = value
        checkpoint.save(tensors, {"step": self.step, "history": self.history, "losses": self.losses})

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Goes back to the state of a checkpoint; False when there is none."""
        saved = checkpoint.load()
        if saved is None:
            return False
        tensors, facts = saved
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                if facts["step"]:
                    # In the parameter's own memory format: other strides take other kernels, and other last bits.
                    moments = {
                        moment: torch.empty_like(parameter).copy_(tensors[f"{moment}.{name}"])
                        for moment in ("exp_avg", "exp_avg_sq")
                    }
                    self.optimizer.state[parameter] = {"step": tensors[f"step.{name}"], **moments}
        self.step, self.history, self.losses = facts["step"], facts["history"], facts["losses"]
        return True

    def update_average(self, decay: float) -> None:
        """average = decay · average + (1 - decay) · weights; early on with a smaller decay, to forget the start."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def use_average(self) -> None:
        """Puts the moving average into the network."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])


def train(
    network: nn.Module,
    crops: NoisyCrops,
    *,
    stage: StageSettings,
    training: TrainingSettings,
    checkpoint: Checkpoint,
    validate: Callable[[nn.Module], float],
    report: Report,
) -> list[dict[str, float]]:
    """Trains a network in place and leaves the moving average of its weights in it.

    Args:
        network: Its parameters that require gradients are trained.
        crops: Noisy and clean crops by sample number.
        stage: Loss, optimiser and phases.
        training: Precision, checkpoint interval, number of validations.
        checkpoint: Where the state is kept; a training found there goes on from its step.
        validate: PSNR in dB of a network on the validation photographs.
        report: Told about every validation and, about once a second, the progress.

    Returns:
        The history: for each validation `step`, `loss` (mean since the last), `lr` and `psnr` in dB.

    Raises:
        TrainingDivergedError: The loss is not finite.
    """
    torch.set_num_threads(training.threads)
    torch.use_deterministic_algorithms(True)
    fabric = Fabric(accelerator="auto", devices=1, precision=training.precision)
    network = network.to(memory_format=torch.channels_last)
    state = TrainingState(network, stage.optimizer)
    model, optimizer = fabric.setup(network, state.optimizer)
    if state.restore(checkpoint):
        print(f"goes on from step {state.step} of {stage.steps}", flush=True)
    loss_of, every = LOSSES[stage.loss], math.ceil(stage.steps / training.validations)
    last_save = last_report = time.monotonic()
    while state.step < stage.steps:
        phase, first = phase_at(stage.phases, state.step)
        noisy, clean = fabric.to_device(crops.batch(first, phase.batch, phase.patch))
        lr = learning_rate(stage.optimizer, state.step, stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = loss_of(model(noisy.contiguous(memory_format=torch.channels_last)), clean)
        state.losses.append(loss.item())
        if not math.isfinite(state.losses[-1]):
            raise TrainingDivergedError(
                f"The loss is {state.losses[-1]} at step {state.step}",
                where=f"phase of patch {phase.patch}, batch {phase.batch}, learning rate {lr:.2e}",
                next_step="lower optimizer.lr or optimizer.clip in params.yaml",
            )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=stage.optimizer.clip)
        optimizer.step()
        state.step += 1
        state.update_average(stage.optimizer.ema)
        now = time.monotonic()
        if state.step % every == 0 or state.step == stage.steps:
            figures: dict[str, Any] = {"loss": sum(state.losses) / len(state.losses), "lr": lr}
            figures["psnr"] = _validate_average(network, state, validate)
            state.history.append({"step": state.step, **figures})
            state.losses.clear()
            report(state.step, stage.steps, figures)
            state.save(checkpoint)
            last_save = last_report = now
        elif now - last_save >= training.checkpoint_seconds:
            state.save(checkpoint)
            last_save = now
        if now - last_report >= 1:
            report(state.step, stage.steps, {})
            last_report = now
    state.use_average()
    return state.history


def _validate_average(network: nn.Module, state: TrainingState, validate: Callable[[nn.Module], float]) -> float:
    """PSNR of the moving average; the weights in training are put back afterwards."""
    weights = {name: p.detach().clone() for name, p in state.parameters.items()}
    state.use_average()
    network.eval()
    with torch.no_grad():
        value = validate(network)
        for name, parameter in state.parameters.items():
            parameter.copy_(weights[name])
    network.train()
    return value
