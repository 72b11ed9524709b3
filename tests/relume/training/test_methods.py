"""How a step uses the network: which of several that share weights, all levels at once, or the level alone."""

import pytest
import torch
from lightning_fabric import Fabric

from relume.losses.registry import build_loss
from relume.models.registry import build
from relume.training.batches import Batch
from relume.training.config import (
    AlternateReuse,
    EstimateLevel,
    EveryLevel,
)
from relume.training.methods import drawn_reuse, forward_names, loss_of_batch


def test_the_network_of_a_step_alternates():
    """Drawn by step alone, both come, in the asked proportion (binomial, five standard deviations)."""
    method = AlternateReuse(kind="alternate_reuse", reuse=((4, 6, 6, 8), (2, 3, 3, 4)), probabilities=(0.25, 0.75))
    drawn = [drawn_reuse(method, 7, step) for step in range(2000)]
    assert drawn == [drawn_reuse(method, 7, step) for step in range(2000)]
    assert abs(drawn.count((4, 6, 6, 8)) - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    assert drawn.count((4, 6, 6, 8)) + drawn.count((2, 3, 3, 4)) == 2000


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_of_every_level_is_that_of_the_levels_alone(reduction):
    """The step's loss is the sum or mean of single passes at each level."""
    torch.manual_seed(0)
    network = build("hyperres", {"width": 4, "blocks": 2})
    images, clean = torch.rand(3, 2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    levels = torch.tensor([5.0, 30.0, 70.0])
    method = EveryLevel(kind="every_level", levels=(5, 30, 70), reduction=reduction)
    loss = loss_of_batch(network, Batch(images, clean, levels), method, build_loss("l1"), (0, 0))
    single = torch.stack([(network(images[k], levels[k : k + 1]) - clean).abs().mean() for k in range(3)])
    torch.testing.assert_close(loss, single.sum() if reduction == "sum" else single.mean())


def test_the_loss_of_a_level_estimator_is_that_of_the_levels():
    """The images that crops were made of have no part in it."""
    network = build("level_estimator", {"width": 4})
    images, levels = torch.rand(3, 3, 128, 128), torch.tensor([5.0, 30.0, 70.0])
    batch = Batch(images, torch.full_like(images, torch.nan), levels)
    loss = loss_of_batch(network, batch, EstimateLevel(kind="estimate_level"), build_loss("mse"), (0, 0))
    torch.testing.assert_close(loss, (network(images) - levels).square().mean())


def test_a_level_estimator_with_classes_learns_their_cross_entropy():
    """As the training loop wraps it, whatever the stage's loss is."""
    network, method = (
        build("level_estimator", {"width": 4, "classes": [5, 30, 70]}),
        EstimateLevel(kind="estimate_level"),
    )
    model = Fabric(accelerator="cpu", devices=1).setup_module(network)
    for name in forward_names(method, network):
        model.mark_forward_method(name)
    images, levels = torch.rand(3, 3, 128, 128), torch.tensor([70.0, 5.0, 30.0])
    batch = Batch(images, torch.full_like(images, torch.nan), levels)
    expected = torch.nn.functional.cross_entropy(network.scores(images)[:, 0], torch.tensor([2, 0, 1]))
    loss = loss_of_batch(model, batch, method, build_loss("mse"), (0, 0))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
