"""How one step uses the network: plainly, as one of several that share weights, at every level, or to estimate it."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from relume.degradations import counter_rng
from relume.training.batches import Batch
from relume.training.config import AlternateReuse, EstimateLevel, EveryLevel, Method

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_of_batch(
    model: nn.Module, batch: Batch, method: Method, loss_of: Loss, seed_and_step: tuple[int, int]
) -> torch.Tensor:
    """The loss of one batch under a training method.

    Args:
        model: The network as Fabric wraps it.
        batch: On the model's device, in channels_last memory.
        method: See there.
        loss_of: Loss between a restored and a clean batch.
        seed_and_step: Of what the method draws, which is the same on every rank.

    Returns:
        A scalar.
    """
    if isinstance(method, AlternateReuse):
        seed, step = seed_and_step
        return loss_of(model(batch.degraded, reuse=drawn_reuse(method, seed, step)), batch.clean)
    if isinstance(method, EveryLevel):
        restored = model.forward_many(batch.degraded, batch.level)
        losses = torch.stack([loss_of(one, batch.clean) for one in restored.unbind()])
        return losses.sum() if method.reduction == "sum" else losses.mean()
    if isinstance(method, EstimateLevel):
        assert batch.level is not None  # see relume.training.rules
        if _classifies(model):
            return model.class_loss(batch.degraded, batch.level)
        return loss_of(model(batch.degraded), batch.level)
    restored = model(batch.degraded) if batch.level is None else model(batch.degraded, batch.level)
    return loss_of(restored, batch.clean)


def drawn_reuse(method: AlternateReuse, seed: int, step: int) -> tuple[int, ...]:
    """Which of the networks that share their weights is trained at a step; the same for all ranks."""
    drawn = counter_rng(seed, "variant", step).choice(len(method.reuse), p=method.probabilities or None)
    return method.reuse[int(drawn)]


def forward_names(method: Method, network: nn.Module) -> Iterable[str]:
    """Methods of the network, beside `forward`, that the training method calls."""
    if isinstance(method, EstimateLevel) and _classifies(network):
        return ["class_loss"]
    return ["forward_many"] if isinstance(method, EveryLevel) else []


def _classifies(network: nn.Module) -> bool:
    """Whether a level estimator recognises classes."""
    return bool(network.classes)
