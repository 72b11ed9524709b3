"""Weighted averages: their value, the fitted weights, and what every network owes."""

import pytest
import torch

from relume.models.fusion.averages import VARIANTS, WeightedAverage, fit_weights
from relume.models.registry import build

from .. import contract

BASES = [
    {"architecture": "dncnn", "arguments": {"width": 4, "layers": 3}},
    {
        "architecture": "nafnet",
        "arguments": {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]},
    },
]


def demo():
    """The demo size."""
    return build("weighted_average", VARIANTS["average-demo"].arguments)


@pytest.mark.parametrize("weights", [None, [0.95, 0.05], [1.2, -0.2]])
def test_result_is_the_weighted_sum(weights):
    """The result is the sum of the bases' results times their weights, equal ones by default."""
    network = WeightedAverage(bases=BASES, weights=weights).eval()
    image = contract.images(2, 3, 12, 15)
    first, second = (base(image) for base in network.bases)
    a, b = weights or (0.5, 0.5)
    assert torch.allclose(network(image), a * first + b * second, atol=1e-6)


def test_fitted_weights_are_the_best():
    """No other weights of sum one have a smaller squared error."""
    torch.manual_seed(0)
    clean = torch.rand(3, 16, 16)
    restored = clean + torch.stack(
        [0.1 * torch.randn(3, 16, 16), 0.2 * torch.randn(3, 16, 16), 0.05 * torch.rand(3, 16, 16)]
    )

    def error(weights):
        return float(((weights.view(3, 1, 1, 1) * restored).sum(dim=0) - clean).double().square().sum())

    weights = fit_weights(restored, clean)
    assert float(weights.sum()) == pytest.approx(1)
    best = error(weights)
    for _ in range(50):
        shift = 0.05 * torch.randn(3, dtype=torch.float64)
        assert error(weights + shift - shift.mean()) > best


def test_independent_errors_weigh_by_their_inverse_variance():
    """For uncorrelated errors the weights follow the closed form 1 / variance."""
    torch.manual_seed(0)
    clean = torch.zeros(200_000)
    restored = torch.stack([torch.randn(200_000), 2 * torch.randn(200_000)])
    assert fit_weights(restored, clean).tolist() == pytest.approx([0.8, 0.2], abs=0.01)


def test_equal_networks_share_the_weight():
    """Two equal results have a singular covariance; each then gets one half."""
    restored = torch.rand(1, 50).expand(2, 50)
    assert fit_weights(restored, torch.zeros(50)).tolist() == pytest.approx([0.5, 0.5])


def test_what_every_network_owes():
    """Any size, gradients for weights and bases, number formats, one whole graph, and ONNX."""
    contract.check_any_size(demo)
    contract.check_gradients(demo)
    contract.check_channels_last_and_bfloat16(demo)
    contract.check_fullgraph(demo)
    contract.check_onnx(demo, [(24, 32), (16, 24)])
