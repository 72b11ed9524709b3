"""DnCNN against the official implementation, and what every network owes."""

import pytest
import torch

from relume.models.dncnn import VARIANTS, DnCNN
from relume.models.registry import build

from . import contract, golden

CONFIGURATIONS = {"dncnn_r": {}, "dncnn_br": {"batch_norm": True}}


def demo():
    """The demo size."""
    return build("dncnn", VARIANTS["dncnn-demo"].arguments)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read(name)
    network = DnCNN(width=16, layers=5, **CONFIGURATIONS[name]).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = DnCNN(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


def test_batch_norm_merges_into_the_convolutions():
    """With statistics in place, the batch-normalised chain equals the plain one with scaled kernels and biases."""
    torch.manual_seed(0)
    normed = contract.randomised(lambda: DnCNN(width=8, layers=4, batch_norm=True, channels=1))
    plain = DnCNN(width=8, layers=4, channels=1).eval()
    with torch.no_grad():
        state, layers = {}, list(normed.model)
        norms = [layer for layer in layers if isinstance(layer, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
        convolutions = [layer for layer in layers if isinstance(layer, torch.nn.Conv2d)]
        for index, (convolution, norm) in enumerate(zip(convolutions, [None, *norms, None], strict=True)):
            weight, bias = convolution.weight, convolution.bias
            if norm is not None:
                scale = norm.weight / (norm.running_var + 1e-4).sqrt()
                weight, bias = weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias
            state |= {f"model.{2 * index}.weight": weight, f"model.{2 * index}.bias": bias}
        plain.load_state_dict(state)
        image = contract.images(1, 1, 12, 15)
        assert contract.relative(plain(image), normed(image)) < 1e-5


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo)
    contract.check_any_size(lambda: DnCNN(width=8, layers=3, channels=1), channels=1, sizes=((9, 6),))
    contract.check_gradients(demo)
    contract.check_gradients(lambda: DnCNN(width=8, layers=3, batch_norm=True))
    contract.check_channels_last_and_bfloat16(demo)
    contract.check_fullgraph(demo)


def test_onnx_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches."""
    contract.check_onnx(demo, [(32, 32), (24, 40)])
