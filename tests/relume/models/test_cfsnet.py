"""CFSNet against the official outputs, at its end points, and what every network owes."""

import pytest
import torch

from relume.models.cfsnet import VARIANTS, CFSNet
from relume.models.registry import build

from . import contract, golden

SCALES = {"cfsnet_denoise": 1, "cfsnet_sr": 2}


def demo():
    """The demo size."""
    return build("cfsnet", VARIANTS["cfsnet-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


@pytest.mark.parametrize("name", SCALES)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones; outputs at scalars 0, 0.5 and 1 within 2e-5 of the std."""
    meta, arrays = golden.read(name)
    network = CFSNet(width=16, blocks=3, scale=SCALES[name]).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    for prefix, sigma in (("output_alpha0", 15.0), ("output_alpha0.5", 45.0), ("output_alpha1", 75.0)):
        at = torch.tensor([sigma])
        assert golden.relative_error(lambda image, at=at: network(image, at), arrays, prefix) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters; the main branch of denoising 742,016."""
    with torch.device("meta"):
        network = CFSNet(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters
    if name == "cfsnet-denoise":
        assert sum(parameter.numel() for parameter in network.main.parameters()) == 742_016


def test_first_level_is_the_main_branch():
    """At the first training level the tuning branch plays no part, whatever it holds."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, 13, 16)
    with torch.no_grad():
        coupled = network(image, torch.tensor([15.0]))
        head = network.main.head(image)
        assert contract.relative(coupled, network.main.end(network.main.body(head) + head)) < 1e-6
        for parameter in network.tuning_blocks.parameters():
            parameter.normal_()
        assert torch.equal(network(image, torch.tensor([15.0])), coupled)


def test_coefficient_of_one_is_the_tuning_branch():
    """Where the linear maps give ones, the features are those of the tuning branch alone."""
    network = contract.randomised(demo)
    tuning = network.tuning_blocks
    image = contract.images(2, 3, 13, 16)
    with torch.no_grad():
        for layer in (module for module in network.modules() if isinstance(module, torch.nn.Linear)):
            layer.weight.fill_(1 / layer.in_features)
        head = network.main.head(image)
        alone = head
        for block in tuning.tuning_blocks:
            alone = block(alone)
        assert contract.relative(network(image, torch.tensor([75.0])), network.main.end(alone + head)) < 1e-5


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=level)
    contract.check_any_size(lambda: CFSNet(width=8, blocks=1, channels=1), channels=1, sizes=((9, 6),), level=level)
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_has_the_level_as_input_and_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, a level for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)], level=level)
