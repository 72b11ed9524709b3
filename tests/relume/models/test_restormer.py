"""Restormer's attention in its own order of operations, and what every network owes."""

import pytest
import torch
import torch.nn.functional as F

from relume.models.registry import build
from relume.models.restormer import VARIANTS, BiasFreeLayerNorm, GatedFeedForward, TransposedAttention

from . import contract

TINY = {"width": 8, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 2, 2, 4]}


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_attention_follows_the_equations(heads, bias):
    """Projecting the maps instead of the pixels equals normalise, softmax, weighted sum, project, in that order."""
    attention = contract.randomised(lambda: TransposedAttention(8, heads, bias)).double()
    x = contract.images(2, 8, 9, 7).double()
    query, key, value = attention.qkv_dwconv(attention.qkv(x)).flatten(2).unflatten(1, (3, heads, -1)).unbind(1)
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    maps = (query @ key.transpose(-2, -1) * attention.temperature).softmax(dim=-1)
    expected = attention.project_out((maps @ value).flatten(1, 2).unflatten(-1, (9, 7)))
    for memory in (torch.contiguous_format, torch.channels_last):
        assert contract.relative(attention(x.contiguous(memory_format=memory)), expected) < 1e-12


def test_attention_of_a_black_image_is_finite():
    """A feature of zeros has no direction; the result is zero and the gradient finite."""
    attention = contract.randomised(lambda: TransposedAttention(8, 2, False))
    x = torch.zeros(1, 8, 6, 6, requires_grad=True)
    output = attention(x)
    output.sum().backward()
    assert not output.any()
    assert x.grad.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_follows_the_equation(bias):
    """Gate and content computed apart equal the two halves of the one convolution."""
    feed_forward = contract.randomised(lambda: GatedFeedForward(6, 2.66, bias)).double()
    x = contract.images(2, 6, 9, 7).double()
    gate, content = feed_forward.dwconv(feed_forward.project_in(x)).chunk(2, dim=1)
    expected = feed_forward.project_out(F.gelu(gate) * content)
    assert contract.relative(feed_forward(x), expected) < 1e-12


@torch.no_grad()
def test_bias_free_norm_divides_by_the_standard_deviation():
    """x / sqrt(var + 1e-5) · weight, the variance about the mean, the value not."""
    norm = contract.randomised(lambda: BiasFreeLayerNorm(5)).double()
    x = 3 + contract.images(2, 5, 4, 3).double()
    expected = x / (x.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt() * norm.weight.view(-1, 1, 1)
    assert contract.relative(norm(x), expected) < 1e-12


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = build("restormer", VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


class TestContract:
    """What every network owes."""

    def test_any_size(self):
        """Any height and width come back unchanged."""
        contract.check_any_size(lambda: build("restormer", TINY))

    def test_gray(self):
        """One image channel works."""
        contract.check_any_size(lambda: build("restormer", TINY | {"channels": 1}), channels=1, sizes=[(19, 24)])

    @pytest.mark.parametrize("bias_free_norm", [True, False])
    def test_gradients(self, bias_free_norm):
        """Every parameter learns."""
        contract.check_gradients(lambda: build("restormer", TINY | {"bias": True, "bias_free_norm": bias_free_norm}))

    def test_channels_last_and_bfloat16(self):
        """Memory format changes nothing, bfloat16 little."""
        contract.check_channels_last_and_bfloat16(lambda: build("restormer", TINY))

    def test_fullgraph(self):
        """One graph without breaks."""
        contract.check_fullgraph(lambda: build("restormer", TINY))

    def test_onnx(self):
        """The exported graph computes the same at two tiles and two batches."""
        shallow = TINY | {"blocks": [1, 0, 0, 1], "refinement_blocks": 0}
        contract.check_onnx(lambda: build("restormer", shallow), sizes=[(24, 16), (32, 40)])
