"""CResMD against the official outputs, its conditions, and what every network owes."""

import pytest
import torch

from relume.errors import ConfigError
from relume.models.cresmd import VARIANTS, CResMD
from relume.models.registry import build

from . import contract, golden

CONDITIONS = {
    "cresmd_2d": {"output_c0": (0.0, 0.0), "output_c1": (0.3, 0.6), "output_c2": (1.0, 0.2)},
    "cresmd_3d": {"output_c1": (0.3, 0.6, 0.1), "output_c2": (1.0, 0.2, 0.5)},
}


def demo():
    """The demo size."""
    return build("cresmd", VARIANTS["cresmd-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


@pytest.mark.parametrize("name", CONDITIONS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read(name)
    norms = (40, 50, 92)[: int(name[-2])]
    network = CResMD(blocks=3, norms=norms).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    for prefix, condition in CONDITIONS[name].items():
        levels = torch.tensor([condition]) * torch.tensor(norms)
        assert golden.relative_error(lambda image, at=levels: network(image, at), arrays, prefix) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = CResMD(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


@pytest.mark.parametrize("norms", [(40, 50), (40, 50, 92)])
def test_a_plain_level_is_noise_alone(norms):
    """One number for each image stands for noise without blur and JPEG."""
    network = contract.randomised(lambda: CResMD(width=8, blocks=2, norms=norms))
    image = contract.images(2, 3, 12, 14)
    full = torch.tensor([[0.0, 20.0, 0.0], [0.0, 45.0, 0.0]])[:, : len(norms)]
    with torch.no_grad():
        assert torch.equal(network(image, torch.tensor([20.0, 45.0])), network(image, full))


def test_the_other_conditions_of_a_plain_level_can_be_fixed():
    """Served for images of one blur is the network of both conditions at that blur; too few numbers are refused."""
    torch.manual_seed(3)
    full, served = CResMD(width=8, blocks=2), CResMD(width=8, blocks=2, others=(15.0,))
    served.load_state_dict(full.state_dict())
    image = contract.images(2, 3, 12, 14)
    with torch.no_grad():
        both = full(image, torch.tensor([[15.0, 20.0], [15.0, 45.0]]))
        assert torch.equal(served(image, torch.tensor([20.0, 45.0])), both)
        assert not torch.equal(full(image, torch.tensor([20.0, 45.0])), both)
    with pytest.raises(ConfigError, match="norms"):
        CResMD(norms=(40, 50, 92), others=(15.0,))


def test_scales_are_affine_in_the_condition():
    """With residual blocks switched off the correction of the image is affine in the level."""
    network = contract.randomised(demo)
    image = contract.images(1, 3, 12, 14)
    with torch.no_grad():
        for block in network.recon_trunk:
            block.local_scale.weight.zero_()
        low, middle, high = (network(image, torch.tensor([sigma])) for sigma in (10.0, 45.0, 80.0))
    assert contract.relative(middle, (low + high) / 2) < 1e-5


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=level)
    contract.check_any_size(lambda: CResMD(width=8, blocks=1, channels=1), channels=1, sizes=((9, 6),), level=level)
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_has_the_levels_as_input_and_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, blur and noise for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)], level=lambda n: torch.stack([level(n) / 2, level(n)], dim=1))
