"""Xformer against the official implementation, and what every network owes."""

import pytest
import torch

from relume.models.registry import build
from relume.models.xformer import VARIANTS, Xformer

from . import contract, golden

CONFIGURATIONS = {"xformer_withbias": False, "xformer_biasfree": True}


def demo(**changes):
    """The demo size."""
    return build("xformer", VARIANTS["xformer-demo"].arguments | changes)


def small(**changes):
    """The configuration of the golden vectors."""
    return Xformer(
        width=12,
        channel_blocks=(1, 2, 1),
        spatial_blocks=(2, 2, 2, 2),
        refinement_blocks=2,
        heads=(1, 2, 4, 4),
        window=4,
        image_size=32,
        **changes,
    )


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read(name)
    network = small(bias_free_norm=CONFIGURATIONS[name]).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters, and ten stored masks."""
    with torch.device("meta"):
        network = Xformer(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters
    masks = {key: tuple(value.shape) for key, value in network.state_dict().items() if key.endswith("attn_mask")}
    assert len(masks) == 10
    assert masks["encoder1.1.attn_mask"] == (64, 256, 256)
    assert masks["decoder3.3.attn_mask"] == (4, 256, 256)


def test_no_call_changes_the_network():
    """A tile no larger than a window leaves later results as they were, and stored masks are not used."""
    network = contract.randomised(demo)
    large = contract.images(1, 3, 48, 64)
    with torch.no_grad():
        before = network(large)
        network(contract.images(1, 3, 8, 8))
        for name, buffer in network.named_buffers():
            if name.endswith("attn_mask"):
                buffer.fill_(7)
        assert torch.equal(network(large), before)


def test_latent_is_never_shifted_and_other_levels_always():
    """Every other spatial block is shifted by half a window, but for those of the latent."""
    network = small()
    for level in ("encoder1", "encoder2", "encoder3", "decoder3", "decoder2", "decoder1"):
        assert [block.shift for block in getattr(network, level)] == [0, 2]
    assert [block.shift for block in network.s_latent] == [0, 0]


def test_both_latents_share_their_blocks():
    """The latent's blocks run once, on both branches as one batch of twice the images."""
    network = contract.randomised(demo)
    seen = []
    network.s_latent.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output.shape)))
    with torch.no_grad():
        network(contract.images(2, 3, 32, 48))
    assert seen == [((4, 96, 4, 6), (4, 96, 4, 6))]


def test_any_size():
    """Colour and gray, both norms, at odd and tiny sizes."""
    contract.check_any_size(demo)
    contract.check_any_size(lambda: demo(channels=1, bias_free_norm=True), channels=1)


def test_gradients_reach_every_parameter():
    """No parameter is without a gradient."""
    contract.check_gradients(demo)


def test_channels_last_and_bfloat16():
    """Memory layout does not matter and bfloat16 stays close."""
    contract.check_channels_last_and_bfloat16(demo)


def test_one_graph():
    """TorchDynamo needs no graph break."""
    contract.check_fullgraph(demo)


@pytest.mark.exhaustive
def test_onnx():
    """ONNX Runtime computes the same at two tile sizes and two batches, with padded windows at the coarse levels."""
    contract.check_onnx(demo, [(16, 16), (32, 24)])
