"""ResUNet against a functional transcription of its description, its start, its level, and what every network owes."""

import pytest
import torch
import torch.nn.functional as F

from relume.models.registry import build, variants
from relume.models.resunet import VARIANTS, AdjustableResUNet, ResUNet

from . import contract


def demo():
    """The blind demo size."""
    return build("resunet", VARIANTS["resunet-demo"].arguments)


def adjustable():
    """The adjustable demo size."""
    return build("resunet_adjustable", VARIANTS["resunet-adjustable-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


def transcribed(state, image, sigma=None):
    """Two levels, one and three blocks, from the description alone: functions and the state's tensors."""

    def conv(name, x):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def block(name, x):
        return x + conv(f"{name}.conv2", conv(f"{name}.conv1", x).clamp_min(0))

    batch, _, height, width = image.shape
    padded = F.pad(image, (0, -width % 4, 0, -height % 4), mode="replicate")
    # Channel c, row i and column j of each 2x2 cell become channel 4c + 2i + j.
    halves = torch.stack([padded[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2)
    x = halves
    if sigma is not None:
        x = torch.cat([x, torch.full_like(x[:, :1], sigma / 255)], dim=1)
    outer = block("encoders.0.0", conv("head", x))
    x = F.conv2d(outer, state["downs.0.weight"], state["downs.0.bias"], stride=2)
    for number in range(3):
        x = block(f"middle.{number}", x)
    x = F.conv_transpose2d(x, state["ups.0.weight"], state["ups.0.bias"], stride=2) + outer
    corrected = halves + conv("tail", block("decoders.0.0", x))
    cells = corrected.view(batch, 3, 2, 2, *corrected.shape[-2:]).permute(0, 1, 4, 2, 5, 3)
    return cells.reshape(padded.shape)[:, :, :height, :width]


@pytest.mark.parametrize("sigma", [None, 30.0])
def test_network_is_the_described_one(sigma):
    """The output equals that of a functional transcription, blind and with a level."""
    kind = ResUNet if sigma is None else AdjustableResUNet
    network = contract.randomised(lambda: kind(widths=(8, 16), blocks=(1, 3)))
    image = contract.images(2, 3, 19, 26)
    inputs = (image,) if sigma is None else (image, torch.tensor([sigma]))
    with torch.no_grad():
        expected = transcribed(network.state_dict(), image, sigma)
        assert contract.relative(network(*inputs), expected) < 1e-5


def test_parameter_counts_are_those_of_the_description():
    """The two-level size has 629 thousand parameters, as counted where the family was chosen; weights fit 5 MB."""
    counts = {}
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            network = build(variant.architecture, variant.arguments)
        counts[name] = sum(parameter.numel() for parameter in network.parameters())
    by_hand = 12 * 48 * 9 + 48 + 2 * 2 * (48 * 48 * 9 + 48) + (48 * 96 * 4 + 96) + 3 * 2 * (96 * 96 * 9 + 96)
    by_hand += (96 * 48 * 4 + 48) + 48 * 12 * 9 + 12
    assert counts["resunet"] == by_hand
    assert counts["resunet-adjustable"] == by_hand + 48 * 9
    assert round(by_hand / 1000) == 629
    assert 4 * counts["resunet-deep"] < 5e6
    assert counts["resunet-large"] < 20e6


def test_new_network_is_nearly_the_identity():
    """A network that was not trained changes an image by less than a tenth of its contrast."""
    torch.manual_seed(0)
    image = contract.images(1, 3, 32, 32)
    with torch.no_grad():
        assert float((demo()(image) - image).square().mean().sqrt() / image.std()) < 0.1


def test_levels_and_blocks_must_agree():
    """Widths and blocks of different lengths are refused."""
    with pytest.raises(ValueError, match="equally long"):
        ResUNet(widths=(8, 16), blocks=(1,))


def test_level_moves_the_output():
    """Another level gives another image, and each image of a batch has its own."""
    network = contract.randomised(adjustable)
    image = contract.images(1, 3, 16, 16).expand(2, -1, -1, -1)
    with torch.no_grad():
        both = network(image, torch.tensor([10.0, 60.0]))
        assert contract.relative(both[:1], network(image[:1], torch.tensor([10.0]))) < 1e-5
    assert float((both[0] - both[1]).abs().max()) > 1e-3


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo)
    contract.check_any_size(adjustable, level=level)
    contract.check_any_size(lambda: ResUNet(widths=(8, 8), blocks=(1, 1), channels=1), channels=1, sizes=((9, 6),))
    contract.check_gradients(demo)
    contract.check_gradients(adjustable, level=level)
    contract.check_channels_last_and_bfloat16(demo)
    contract.check_fullgraph(demo)
    contract.check_fullgraph(adjustable, level=level)


def test_onnx_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, blind and with a level for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)])
    contract.check_onnx(adjustable, [(32, 32), (24, 41)], level=level)


def test_every_size_is_listed():
    """The sizes are found by name among all models."""
    assert VARIANTS.keys() <= variants().keys()
