"""DRUNet against another implementation and its published keys, its symmetries, and what every network owes."""

import pytest
import torch
import torch.nn.functional as F

from relume.models.drunet import VARIANTS, DRUNet
from relume.models.registry import build

from . import contract, golden


def demo():
    """The demo size."""
    return build("drunet", VARIANTS["drunet-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


def published_keys():
    """The 64 keys and shapes of the colour checkpoint."""
    yield "m_head.weight", (64, 4, 3, 3)
    blocks = range(4)
    for number, width in ((1, 64), (2, 128), (3, 256)):
        for block in blocks:
            yield f"m_down{number}.{block}.res.0.weight", (width, width, 3, 3)
            yield f"m_down{number}.{block}.res.2.weight", (width, width, 3, 3)
        yield f"m_down{number}.4.weight", (2 * width, width, 2, 2)
    for block in blocks:
        yield f"m_body.{block}.res.0.weight", (512, 512, 3, 3)
        yield f"m_body.{block}.res.2.weight", (512, 512, 3, 3)
    for number, width in ((3, 256), (2, 128), (1, 64)):
        yield f"m_up{number}.0.weight", (2 * width, width, 2, 2)
        for block in blocks:
            yield f"m_up{number}.{block + 1}.res.0.weight", (width, width, 3, 3)
            yield f"m_up{number}.{block + 1}.res.2.weight", (width, width, 3, 3)
    yield "m_tail.weight", (3, 64, 3, 3)


def test_state_dict_is_the_published_one():
    """Keys, order and shapes of the colour network equal those of the published checkpoint."""
    with torch.device("meta"):
        state = DRUNet().state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == list(published_keys())


@pytest.mark.parametrize("sigma", [15, 50])
def test_output_is_that_of_another_implementation(sigma):
    """With the same weights the output differs from the MIT-licensed network's by at most 2e-5 of its std."""
    meta, arrays = golden.read("drunet")
    network = DRUNet(width=8, blocks=2).eval()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    at = torch.tensor([float(sigma)])
    assert golden.relative_error(lambda image: network(image, at), arrays, f"output_sigma{sigma}") < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = DRUNet(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


def reference(state, image, level, blocks):
    """The same network from its state dict alone, written with functions."""

    def convolve(x, key, **options):
        return F.conv2d(x, state[f"{key}.weight"], **options)

    def stack(x, key, first):
        for block in range(first, first + blocks):
            inner = convolve(x, f"{key}.{block}.res.0", padding=1).relu()
            x = x + convolve(inner, f"{key}.{block}.res.2", padding=1)
        return x

    x = torch.cat([image, torch.ones_like(image[:, :1]) * level[:, None, None, None] / 255], dim=1)
    skips = [convolve(x, "m_head", padding=1)]
    for number in (1, 2, 3):
        skips.append(convolve(stack(skips[-1], f"m_down{number}", 0), f"m_down{number}.{blocks}", stride=2))
    x = stack(skips[-1], "m_body", 0)
    for number in (3, 2, 1):
        x = F.conv_transpose2d(x + skips.pop(), state[f"m_up{number}.0.weight"], stride=2)
        x = stack(x, f"m_up{number}", 1)
    return convolve(x + skips.pop(), "m_tail", padding=1)


def test_output_equals_a_transcription_from_the_state_dict():
    """The network computes what its published block order says."""
    network = contract.randomised(lambda: DRUNet(width=4, blocks=2))
    image = contract.images(2, 3, 24, 32)
    with torch.no_grad():
        expected = reference(network.state_dict(), image, level(2), 2)
        assert contract.relative(network(image, level(2)), expected) < 1e-5


def test_homogeneous_in_image_and_level():
    """Bias-free: twice the image at twice the level gives twice the result."""
    network = contract.randomised(demo)
    image = contract.images(1, 3, 16, 24)
    with torch.no_grad():
        twice = network(2 * image, torch.tensor([50.0]))
        assert contract.relative(twice, 2 * network(image, torch.tensor([25.0]))) < 1e-5


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=level)
    contract.check_any_size(lambda: DRUNet(width=4, blocks=1, channels=1), channels=1, sizes=((9, 6),), level=level)
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_has_the_level_as_input_and_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, a level for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)], level=level)
