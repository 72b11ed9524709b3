"""SRC-B: how its parts are joined, its start, and what every network owes."""

import pytest
import torch

from relume.models.fusion.src_b import SRCB, VARIANTS
from relume.models.registry import build, variants

from .. import contract

SMALL = VARIANTS["src-b-demo"].arguments


def demo():
    """The demo size."""
    return build("src_b", SMALL)


@pytest.mark.parametrize("topology", ["cascade", "parallel"])
def test_a_new_one_is_the_mean_of_its_parts(topology):
    """Before training the result is the mean of Restormer's and NAFNet's, NAFNet reading what the topology says."""
    torch.manual_seed(1)
    network = SRCB(**SMALL, topology=topology).eval()
    with torch.no_grad():
        for part in (network.structure, network.detail):
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        image = contract.images(1, 3, 24, 20)
        structure = network.structure(image)
        detail = network.detail(structure if topology == "cascade" else image)
        assert contract.relative(network(image), (structure + detail) / 2) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("topology", ["cascade", "parallel"])
def test_the_correction_is_of_the_features_of_both_parts(topology):
    """It is computed from what the last layer of each part reads, each feature weighted, not from their results."""
    network = contract.randomised(lambda: SRCB(**SMALL, topology=topology))
    given = {}
    network.structure.output.register_forward_pre_hook(lambda _, inputs: given.update(structure=inputs[0]))
    network.detail.ending.register_forward_pre_hook(lambda _, inputs: given.update(detail=inputs[0]))
    image = contract.images(1, 3, 24, 16)
    restored = network(image)
    fusion, joined = network.fusion, 0
    for index, part in enumerate(("structure", "detail")):
        layer = fusion.get_submodule(f"{part}_features")
        at_each_pixel = torch.einsum("of,nfhw->nohw", layer.weight[:, :, 0, 0], given[part])
        joined = joined + fusion.feature_weights[index] * (at_each_pixel + layer.bias.view(1, -1, 1, 1))
    gelu = torch.nn.functional.gelu
    correction = fusion.ending(gelu(fusion.mix(gelu(joined))))
    structure = network.structure(image)
    detail = network.detail(structure if topology == "cascade" else image)
    expected = fusion.balance[0] * structure + fusion.balance[1] * detail + correction
    assert contract.relative(restored, expected) < 1e-5
    assert contract.relative(correction, torch.zeros_like(correction) + 1e-9) > 1


def test_parts_take_the_weights_of_their_families():
    """The parts' state dicts are those of the published networks, and the count is theirs plus the fusion's."""
    with torch.device("meta"):
        network = build("src_b", VARIANTS["src-b"].arguments)
        for part, name in ((network.structure, "restormer-denoise"), (network.detail, "nafnet-sidd-width32")):
            variant = variants()[name]
            family = build(variant.architecture, variant.arguments)
            assert list(part.state_dict()) == list(family.state_dict())
    fusion = sum(parameter.numel() for parameter in network.fusion.parameters())
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == 26_111_668 + 29_159_715 + fusion


def test_what_every_network_owes():
    """Any size, colour and gray, gradients, number formats and one whole graph."""
    contract.check_any_size(demo, sizes=((1, 1), (17, 23)))
    contract.check_any_size(lambda: SRCB(**SMALL, channels=1), channels=1, sizes=((9, 6),))
    contract.check_gradients(demo, size=(24, 32))
    contract.check_channels_last_and_bfloat16(demo, size=(24, 32))
    contract.check_fullgraph(demo, size=(24, 32))


def test_onnx_computes_the_same():
    """With few blocks, ONNX Runtime computes the same at two tile sizes and two batches."""
    shallow = SMALL["structure"] | {"blocks": [0, 0, 0, 1], "refinement_blocks": 0}
    contract.check_onnx(lambda: SRCB(**SMALL | {"structure": shallow}), [(16, 40), (24, 16)])
