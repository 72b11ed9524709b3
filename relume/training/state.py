"""The state of a training: everything that changes from step to step, saved to a checkpoint and restored from it."""

import math
from typing import Any

import torch
from torch import nn

from relume.errors import ModelFormatError
from relume.training.checkpoint import Checkpoint
from relume.training.config import OptimizerSettings
from relume.training.processes import placed, whole


class TrainingState:
    """What changes while training: weights, buffers, the weights' moving average, the optimiser's moments, the step.

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
        # Average and buffers at the best validation, empty if they are not kept; None before the first validation.
        self.best: dict[str, torch.Tensor] | None = None
        self.best_metric, self.since_best = -math.inf, 0
        self._network, self._persistent = network, set(network.state_dict())

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """The network's persistent buffers, such as running statistics; a pass may replace them."""
        return {name: value for name, value in self._network.named_buffers() if name in self._persistent}

    def save(self, checkpoint: Checkpoint | None) -> None:
        """Writes everything to a checkpoint; ranks that have none only send their shards."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"buffer.{name}": value for name, value in self.buffers.items()}
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        for name, parameter in self.parameters.items():
            for moment, value in self.optimizer.state[parameter].items():
                tensors[f"{moment}.{name}"] = value
        tensors = {name: whole(tensor) for name, tensor in tensors.items()}
        if checkpoint is None:
            return
        facts = {"step": self.step, "history": self.history, "losses": self.losses, "scaler": self.scaler}
        if self.best is not None:
            facts |= {"best_psnr": self.best_metric, "since_best": self.since_best}
        checkpoint.save(tensors, facts)

    def restore(self, checkpoint: Checkpoint) -> bool:
        """Returns to the state of a checkpoint; False when there is none.

        Raises:
            ModelFormatError: The checkpoint lacks a part of the state.
        """
        saved = checkpoint.load()
        if saved is None:
            return False
        tensors, facts = saved
        buffers = self.buffers
        needed = [f"{kind}.{name}" for kind in ("weight", "average") for name in self.parameters]
        needed += [f"buffer.{name}" for name in buffers]
        if lacking := [name for name in needed if name not in tensors]:
            raise ModelFormatError(
                "The checkpoint does not hold the whole state of the training",
                where=checkpoint.path,
                why=f"{len(lacking)} tensors such as {lacking[0]} are missing; relume did not save buffers before",
                next_step="remove the file, and run the same command to train from the start",
            )

        def like(tensor: torch.Tensor, name: str) -> torch.Tensor:
            """The saved tensor in another one's memory format: other strides take other kernels, other last bits."""
            return torch.empty_like(tensor).copy_(placed(tensors[name], tensor))

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(placed(tensors[f"weight.{name}"], parameter))
                self.average[name].copy_(placed(tensors[f"average.{name}"], parameter))
                if f"exp_avg.{name}" in tensors:  # parameters of a later phase have none yet
                    moments = {moment: like(parameter, f"{moment}.{name}") for moment in ("exp_avg", "exp_avg_sq")}
                    self.optimizer.state[parameter] = {"step": tensors[f"step.{name}"], **moments}
            for name, buffer in buffers.items():
                buffer.copy_(tensors[f"buffer.{name}"])
            if "best_psnr" in facts:
                kept = self.average | buffers
                self.best = {n: like(value, f"best.{n}") for n, value in kept.items() if f"best.{n}" in tensors}
                self.best_metric, self.since_best = facts["best_psnr"], facts["since_best"]
        self.step, self.history, self.losses = facts["step"], facts["history"], facts["losses"]
        self.scaler = facts["scaler"]
        return True

    def advance(self, loss: float, decay: float) -> None:
        """Notes a step: its loss, its number, and its weights in the moving average.

        average = decay · average + (1 - decay) · weights; early on with a smaller decay, to forget the start.
        """
        self.losses.append(loss)
        self.step += 1
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def note_validation(self, metrics: dict[str, float], *, by: str, keep_best: bool) -> None:
        """Adds a validation to the history; remembers the best, and with `keep_best` average and buffers of it.

        Args:
            metrics: By name.
            by: Name of the one that is best where it is highest.
            keep_best: Whether the weights of the best validation are kept.
        """
        self.history.append({"step": self.step, **metrics})
        self.losses.clear()
        if metrics[by] > self.best_metric:
            self.best_metric, self.since_best = metrics[by], 0
            self.best = {n: v.clone() for n, v in (self.average | self.buffers).items()} if keep_best else {}
        else:
            self.since_best += 1

    def use(self, weights: dict[str, torch.Tensor]) -> None:
        """Puts weights such as the moving average, and buffers if they are among them, into the network."""
        own = self.parameters | self.buffers
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)
