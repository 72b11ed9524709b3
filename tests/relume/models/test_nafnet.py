"""NAFNet and Baseline against the official outputs and against a plain reading of their blocks."""

import pytest
import torch
import torch.nn.functional as F

from relume.models.nafnet import VARIANTS, Baseline, NAFBlock
from relume.models.registry import build

from . import contract, golden

NETWORKS = {
    "baseline_dw1": {"depthwise_expansion": 1},
    "baseline_dw2": {"depthwise_expansion": 2},
}
SMALL = {"width": 8, "encoder_blocks": [1, 1, 2], "middle_blocks": 2, "decoder_blocks": [1, 2, 1]}


def demo(name):
    """Builds the demo size of an architecture."""
    return lambda: build(name, VARIANTS[f"{name}-demo"].arguments)


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read(name)
    network = Baseline(**SMALL, **NETWORKS[name]).eval()
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        entry[:2] for entry in meta["state_dict"]
    ]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = build(VARIANTS[name].architecture, VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


@torch.no_grad()
def test_block_follows_the_equations():
    """A block with its scales inside the weights equals the paper's equations in their order."""
    block = contract.randomised(lambda: NAFBlock(6)).double()
    x = contract.images(2, 6, 9, 7).double()
    wide = block.conv2(F.conv2d(block.norm1(x), block.conv1.weight, block.conv1.bias))
    gated = wide[:, :6] * wide[:, 6:]
    attended = gated * F.conv2d(gated.mean(dim=(2, 3), keepdim=True), block.sca[1].weight, block.sca[1].bias)
    y = x + block.beta * F.conv2d(attended, block.conv3.weight, block.conv3.bias)
    wide = F.conv2d(block.norm2(y), block.conv4.weight, block.conv4.bias)
    expected = y + block.gamma * F.conv2d(wide[:, :6] * wide[:, 6:], block.conv5.weight, block.conv5.bias)
    assert contract.relative(block(x), expected) < 1e-12


def test_float32_equals_float64():
    """The float32 path of the 1x1 convolutions equals the plain one in float64 within rounding."""
    block = contract.randomised(lambda: NAFBlock(16))
    x = contract.images(2, 16, 24, 24)
    with torch.no_grad():
        assert contract.relative(block(x), block.double()(x.double()).float()) < 1e-5


@pytest.mark.parametrize("name", ["nafnet", "baseline"])
class TestContract:
    """What every network owes."""

    def test_any_size(self, name):
        """Any height and width come back unchanged."""
        contract.check_any_size(demo(name))

    def test_gray(self, name):
        """One image channel works."""
        gray = VARIANTS[f"{name}-demo"].arguments | {"channels": 1}
        contract.check_any_size(lambda: build(name, gray), channels=1, sizes=[(19, 24)])

    def test_gradients(self, name):
        """Every parameter learns."""
        contract.check_gradients(demo(name))

    def test_channels_last_and_bfloat16(self, name):
        """Memory format changes nothing, bfloat16 little."""
        contract.check_channels_last_and_bfloat16(demo(name))

    def test_fullgraph(self, name):
        """One graph without breaks."""
        contract.check_fullgraph(demo(name))

    def test_onnx(self, name):
        """The exported graph computes the same at two tiles and two batches."""
        tiny = {"width": 8, "encoder_blocks": [1, 1], "middle_blocks": 1, "decoder_blocks": [1, 1]}
        contract.check_onnx(lambda: build(name, tiny), sizes=[(24, 32), (40, 24)])
