"""HAT against the official implementation, and what every network owes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relume.models.hat import HAT, VARIANTS, OverlappingBlock, overlap_position_index, overlapping_tokens
from relume.models.registry import build
from relume.models.window_attention import divide

from . import contract, golden

SMALL = {"width": 24, "blocks": (2, 2), "heads": (2, 3), "window": 8, "squeeze": 6}
CONFIGURATIONS = {"hat_up1": SMALL | {"conv_scale": 0.3}, "hat_up2": SMALL | {"upscale": 2}}


def demo(**changes):
    """The demo size."""
    return build("hat", VARIANTS["hat-demo"].arguments | changes)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read(name)
    network = HAT(**CONFIGURATIONS[name]).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = HAT(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


@pytest.mark.parametrize(("window", "low", "high"), [(8, -200, 160), (16, -880, 640)])
def test_overlap_index_wraps_around_and_uses_every_row(window, low, high):
    """The overlap index has the official extremes, equal offsets share a row, and modulo the table all rows occur."""
    overlapping = window * 3 // 2
    index = overlap_position_index(window, overlapping)
    assert (int(index.min()), int(index.max())) == (low, high)
    rows, found = (window + overlapping - 1) ** 2, {}
    for token, answers in enumerate(index.tolist()):
        for other, row in enumerate(answers):
            offset = (other // overlapping - token // window, other % overlapping - token % window)
            assert found.setdefault(offset, row % rows) == row % rows
    assert sorted(found.values()) == list(range(rows))


def test_overlapping_attention_equals_a_loop_with_negative_table_rows():
    """Attention over larger windows equals a loop over windows that takes keys from a zero-padded image.

    The loop indexes the bias table by the negative numbers themselves, so that they count from its end.
    """
    torch.manual_seed(0)
    window, overlapping, margin, heads, channels = 4, 6, 1, 2, 6
    block = OverlappingBlock(channels, heads, window, 0.5, 12)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 12, channels)
    table = block.relative_position_bias_table.detach().numpy()
    index = overlap_position_index(window, overlapping)
    with torch.no_grad():
        qkv = F.linear(block.norm1(x), block.qkv.weight, block.qkv.bias)
        query, others = qkv[..., :channels], F.pad(qkv[..., channels:], (0, 0, margin, margin, margin, margin))
        mixed = torch.zeros_like(x)
        for top in range(0, 8, window):
            for left in range(0, 12, window):
                asked = query[:, top : top + window, left : left + window].reshape(2, -1, heads, 3).transpose(1, 2)
                cut = others[:, top : top + overlapping, left : left + overlapping].reshape(2, -1, 2, heads, 3)
                key, value = cut.permute(2, 0, 3, 1, 4)
                bias = torch.from_numpy(np.moveaxis(table[index.numpy()], -1, 0))
                weights = (asked @ key.transpose(-2, -1) / 3**0.5 + bias).softmax(dim=-1)
                part = (weights @ value).transpose(1, 2).reshape(2, window, window, channels)
                mixed[:, top : top + window, left : left + window] = part
        y = x + F.linear(mixed, block.proj.weight, block.proj.bias)
        hidden = F.gelu(F.linear(block.norm2(y), block.mlp.fc1.weight, block.mlp.fc1.bias))
        expected = y + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
        around = overlapping_tokens(x.shape, window, overlapping, x.device)
        windows = divide(x.shape, window, 0, x.device)
        actual = block(x, windows, around, index % table.shape[0])
    assert torch.allclose(actual, expected, atol=1e-4, rtol=1e-4)


def test_residual_adds_the_image():
    """With the same weights, the residual head differs from the official one by the image minus the mean colour."""
    plain = contract.randomised(lambda: demo(residual=False))
    residual = demo(residual=True).eval()
    residual.load_state_dict(plain.state_dict())
    image = contract.images(1, 3, 16, 24)
    with torch.no_grad():
        difference = residual(image) - plain(image)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    assert torch.allclose(difference, image - mean, atol=1e-5)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_super_resolution_enlarges_any_size(upscale):
    """The super-resolution heads enlarge odd sizes exactly."""
    network = contract.randomised(lambda: demo(residual=False, upscale=upscale))
    with torch.no_grad():
        assert network(contract.images(1, 3, 11, 7)).shape == (1, 3, 11 * upscale, 7 * upscale)


def test_any_size():
    """Colour and gray at odd and tiny sizes."""
    contract.check_any_size(demo)
    contract.check_any_size(lambda: demo(channels=1), channels=1)


def test_gradients_reach_every_parameter():
    """No parameter is without a gradient."""
    contract.check_gradients(demo)


def test_channels_last_and_bfloat16():
    """Memory layout does not matter and bfloat16 stays close."""
    contract.check_channels_last_and_bfloat16(demo)


def test_one_graph():
    """TorchDynamo needs no graph break."""
    contract.check_fullgraph(demo)


@pytest.mark.slow
def test_onnx():
    """ONNX Runtime computes the same at two tile sizes and two batches."""
    contract.check_onnx(demo, [(16, 16), (32, 24)])
