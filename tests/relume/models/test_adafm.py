"""AdaFM against the official outputs, at its end points, and what every network owes."""

import pytest
import torch

from relume.models.adafm import VARIANTS, AdaFM
from relume.models.registry import build

from . import contract, golden

KERNELS = {"adafm_basic": 0, "adafm_k1": 1, "adafm_k3": 3}


def demo():
    """The demo size."""
    return build("adafm", VARIANTS["adafm-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


@pytest.mark.parametrize("name", KERNELS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones; outputs at coefficients 0, 0.5 and 1 within 2e-5 of the std."""
    meta, arrays = golden.read(name)
    network = AdaFM(width=16, blocks=2, kernel=KERNELS[name]).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    for prefix, sigma in (("output", 75.0), ("output_coef0", 15.0), ("output_coef0.5", 45.0)):
        at = torch.tensor([sigma])
        assert golden.relative_error(lambda image, at=at: network(image, at), arrays, prefix) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = AdaFM(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


def test_first_level_is_the_basic_network():
    """At the first training level the output is bit for bit that of the network without modification layers."""
    network = contract.randomised(lambda: AdaFM(width=8, blocks=2, kernel=5))
    basic = AdaFM(width=8, blocks=2, kernel=0).eval()
    state = network.state_dict()
    basic.load_state_dict({key: state[key] for key in basic.state_dict()})
    image = contract.images(2, 3, 16, 20)
    with torch.no_grad():
        assert torch.equal(network(image, torch.tensor([15.0])), basic(image, torch.tensor([60.0])))


def test_coefficient_scales_the_modification_kernels():
    """A level between and beyond the two equals the second level with kernels and biases scaled by its coefficient."""
    network = contract.randomised(demo)
    image = contract.images(1, 3, 16, 20)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for sigma, coefficient in ((30.0, 0.25), (105.0, 1.5), (0.0, -0.25)):
        network.load_state_dict(state)
        with torch.no_grad():
            at_level = network(image, torch.tensor([sigma]))
            for key, value in network.state_dict().items():
                if "transformer" in key:
                    value *= coefficient
            assert contract.relative(network(image, torch.tensor([75.0])), at_level) < 1e-5


def test_second_stage_starts_at_the_first():
    """A new network's modification layers do nothing: every level gives the same image."""
    network = demo().eval()
    image = contract.images(1, 3, 16, 20)
    with torch.no_grad():
        assert torch.equal(network(image, torch.tensor([15.0])), network(image, torch.tensor([75.0])))


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=level)
    contract.check_any_size(lambda: AdaFM(width=8, blocks=1, channels=1), channels=1, sizes=((9, 6),), level=level)
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_has_the_level_as_input_and_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, a level for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)], level=level)
