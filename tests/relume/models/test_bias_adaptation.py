"""Bias adaptation starts as the frozen network, trains only the biases, and has the published size."""

import pytest
import torch
from torch import nn

from relume.models.bias_adaptation import RESTORMER_WITHOUT, VARIANTS, BiasAdapted, add_biases
from relume.models.registry import build, variants

from . import contract


def filled(network):
    """The same network with every parameter random."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def demo():
    """Arguments of a small Restormer."""
    return variants()["restormer-demo"].arguments


def test_nothing_changes_at_step_0(demo):
    """With the added biases at zero the output is bit for bit that of the frozen network."""
    frozen = filled(build("restormer", demo))
    adapted = BiasAdapted(architecture="restormer", arguments=demo).eval()
    adapted.load_frozen(frozen.state_dict())
    image = torch.rand(1, 3, 21, 34)
    with torch.no_grad():
        assert torch.equal(adapted(image), frozen(image))


def test_a_step_changes_only_the_biases(demo):
    """Every added bias has a gradient, and a training step moves these alone."""
    network = filled(build("restormer", demo))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    added = add_biases(network)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    output = network(torch.rand(1, 3, 16, 24))
    (output * torch.randn_like(output)).sum().backward()
    optimizer.step()
    assert all(bias.grad is not None and bias.grad.any() and bias.any() for bias in added)
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert sum(bias.numel() for bias in added) == sum(v.numel() for v in after.values()) - sum(
        v.numel() for v in before.values()
    )


def test_published_size():
    """Restormer's denoiser gets 139,779 biases, 26,251,447 parameters in all, as published; 1,560 stay away."""
    with torch.device("meta"):
        network = build("restormer", {})
        assert sum(bias.numel() for bias in add_biases(network, RESTORMER_WITHOUT)) == 139_779
        assert sum(bias.numel() for bias in add_biases(network)) == 141_339 - 139_779
        (variant,) = VARIANTS.values()
        adapted = build(variant.architecture, variant.arguments)
    assert sum(parameter.numel() for parameter in adapted.parameters()) == variant.parameters == 26_251_447


def test_biases_that_exist_are_kept_and_frozen():
    """A convolution that has a bias keeps it; transposed convolutions get one too."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 2, bias=False), nn.Linear(5, 5, bias=False))
    kept = network[0].bias
    (added,) = add_biases(network)
    assert network[0].bias is kept
    assert not kept.requires_grad
    assert added is network[1].bias
    assert added.shape == (6,)
    assert network[2].bias is None


def test_what_every_network_owes():
    """Any size, colour and gray, number formats, one whole graph, and ONNX at two tile sizes and two batches."""
    tiny = {"width": 8, "blocks": [0, 0, 0, 1], "refinement_blocks": 0, "heads": [1, 2, 2, 2]}

    def adapted(channels=3):
        return BiasAdapted(architecture="restormer", arguments=tiny | {"channels": channels})

    contract.check_any_size(adapted, sizes=[(1, 1), (17, 23)])
    contract.check_any_size(lambda: adapted(1), channels=1, sizes=[(9, 6)])
    contract.check_channels_last_and_bfloat16(adapted)
    contract.check_fullgraph(adapted)
    contract.check_onnx(adapted, [(24, 16), (32, 40)])
