"""FFDNet against the official implementation, its level map, and what every network owes."""

import pytest
import torch

from relume.models.ffdnet import VARIANTS, FFDNet
from relume.models.registry import build

from . import contract, golden


def demo():
    """The demo size."""
    return build("ffdnet", VARIANTS["ffdnet-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


def test_state_dict_and_output_are_the_official_ones():
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read("ffdnet")
    network = FFDNet(width=16, layers=5).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    for sigma in (15, 50):
        at = torch.tensor([float(sigma)])
        assert golden.relative_error(lambda image, at=at: network(image, at), arrays, f"output_sigma{sigma}") < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = FFDNet(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


def test_level_map_of_one_value_is_the_level():
    """A level for every pixel that is the same everywhere gives what the plain level gives."""
    network = contract.randomised(demo)
    image, levels = contract.images(2, 3, 9, 14), torch.tensor([15.0, 40.0])
    with torch.no_grad():
        expected = network(image, levels)
        assert contract.relative(network(image, levels.view(2, 1, 1, 1).expand(2, 1, 9, 14)), expected) < 1e-5


def test_level_map_acts_where_it_is():
    """A change of the level in the right half leaves the far left as it was."""
    network = contract.randomised(demo)
    image, levels = contract.images(1, 3, 8, 80), torch.full((1, 1, 8, 80), 20.0)
    changed = levels.clone()
    changed[..., 40:] = 60
    with torch.no_grad():
        difference = (network(image, changed) - network(image, levels)).abs()
    assert float(difference[..., :24].max()) == 0
    assert float(difference[..., 40:].max()) > 1e-4


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=level)
    contract.check_any_size(lambda: FFDNet(width=8, layers=3, channels=1), channels=1, sizes=((9, 6),), level=level)
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_has_the_level_as_input_and_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, a level for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)], level=level)
