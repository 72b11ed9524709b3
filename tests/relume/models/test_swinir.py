"""SwinIR against the official implementation, and what every network owes."""

import pytest
import torch

from relume.models.registry import build
from relume.models.swinir import VARIANTS, SwinIR

from . import contract, golden


def demo(**changes):
    """The demo size."""
    return build("swinir", VARIANTS["swinir-demo"].arguments | changes)


def test_state_dict_and_output_are_the_official_ones():
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read("swinir_dn")
    network = SwinIR(width=24, blocks=(2, 3), heads=(2, 3), image_size=32).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters and of state-dict entries."""
    with torch.device("meta"):
        network = SwinIR(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters
    assert len(network.state_dict()) == 544
    assert network.state_dict()["layers.5.residual_group.blocks.5.attn_mask"].shape == (256, 64, 64)


def test_jpeg_checkpoints_have_windows_of_seven():
    """The JPEG variants have the bias table, index and masks of 7 x 7 windows on 126 x 126 training patches."""
    with torch.device("meta"):
        state = SwinIR(**VARIANTS["swinir-jpeg"].arguments).state_dict()
    assert state["layers.0.residual_group.blocks.1.attn.relative_position_bias_table"].shape == (169, 6)
    assert state["layers.0.residual_group.blocks.1.attn_mask"].shape == (324, 49, 49)


def test_image_range_scales_the_image_inside_only():
    """With a range of 255 the network sees 255 x, and its residual comes back divided by 255."""
    plain = contract.randomised(lambda: demo(channels=1))
    scaled = demo(channels=1, image_range=255.0).eval()
    scaled.load_state_dict(plain.state_dict())
    image = contract.images(1, 1, 16, 24)
    with torch.no_grad():
        scaled.conv_first.weight /= 255
        assert torch.allclose((scaled(image) - image) * 255, plain(image) - image, atol=2e-3, rtol=1e-3)


def test_stored_masks_are_not_used():
    """A checkpoint's masks belong to its training patch; the result does not depend on them."""
    network = contract.randomised(demo)
    image = contract.images(1, 3, 24, 40)
    with torch.no_grad():
        before = network(image)
        for name, buffer in network.named_buffers():
            if name.endswith("attn_mask"):
                buffer.fill_(7)
        assert torch.equal(network(image), before)


def test_closing_convolution_of_the_large_model():
    """`bottleneck` gives the keys of the lighter closing convolution, through a quarter of the channels."""
    state = demo(bottleneck=True).state_dict()
    assert [state[f"layers.0.conv.{i}.weight"].shape[:2] for i in (0, 2, 4)] == [(6, 24), (6, 6), (24, 6)]


def test_stochastic_depth_acts_in_training_only():
    """In training two passes differ, in eval they are equal."""
    network = contract.randomised(lambda: demo(drop_path=0.5))
    image = contract.images(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(image), network(image))
        network.train()
        assert not torch.equal(network(image), network(image))


def test_any_size():
    """Colour and gray at odd and tiny sizes, with windows of 8 and of 7."""
    contract.check_any_size(demo)
    contract.check_any_size(lambda: demo(channels=1, window=7, image_size=28), channels=1)


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
