"""Local statistics against the official outputs, against plain loops over windows, and against the global networks."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from relume.models.nafnet import NAFNet
from relume.models.registry import build
from relume.models.restormer import Restormer, TransposedAttention
from relume.models.tlc import (
    VARIANTS,
    LocalMean,
    LocalTransposedAttention,
    NAFNetLocal,
    RestormerLocal,
    both_sides,
    layer_window,
    window_starts,
)

from . import contract, golden

NAFNET = {"width": 8, "encoder_blocks": [1, 1, 2], "middle_blocks": 2, "decoder_blocks": [1, 2, 1]}
RESTORMER = {"width": 16, "blocks": [1, 2, 1, 1], "refinement_blocks": 1}
TINY_NAFNET = {"width": 8, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]}
TINY_RESTORMER = {"width": 8, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 2, 2, 2]}
NETWORKS = {
    "nafnet_local": ("nafnet_local", NAFNET),
    "restormer_local_biasfree": ("restormer_local", RESTORMER),
    "restormer_local_withbias": ("restormer_local", RESTORMER | {"bias_free_norm": False}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_and_output_are_the_official_ones(name):
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read(name)
    architecture, arguments = NETWORKS[name]
    network = build(architecture, arguments | {"train_size": 16}).eval()
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        entry[:2] for entry in meta["state_dict"]
    ]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """No parameter is added: a published configuration has the official number."""
    with torch.device("meta"):
        network = build(VARIANTS[name].architecture, VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


@pytest.mark.parametrize(
    ("local", "plain", "arguments"), [(NAFNetLocal, NAFNet, NAFNET), (RestormerLocal, Restormer, RESTORMER)]
)
def test_a_window_over_the_whole_image_is_the_global_network(local, plain, arguments):
    """With windows that cover the image the output is the global network's, bit for bit; with smaller ones not."""
    reference = contract.randomised(lambda: plain(**arguments))
    image = contract.images(2, 3, 40, 24)
    for train_size, same in ((40, True), (16, False)):
        network = local(**arguments, train_size=train_size).eval()
        network.load_state_dict(reference.state_dict())
        with torch.no_grad():
            assert torch.equal(network(image), reference(image)) == same


@pytest.mark.parametrize(
    ("height", "width", "window"), [(7, 9, 4), (5, 12, 6), (1, 8, 3), (9, 8, (4, 6)), (5, 9, (7, 2))]
)
def test_local_mean_is_the_mean_of_every_window(height, width, window):
    """The running sums give the same means as a loop over the windows inside the image."""
    x = contract.images(2, 3, height, width).double()
    rows, columns = (min(pair) for pair in zip(both_sides(window), (height, width), strict=True))
    expected = torch.stack(
        [
            torch.stack(
                [x[:, :, i : i + rows, j : j + columns].mean(dim=(2, 3)) for j in range(width - columns + 1)], -1
            )
            for i in range(height - rows + 1)
        ],
        -2,
    )
    assert contract.relative(LocalMean(window)(x), expected) < 1e-12


def test_local_mean_keeps_its_precision_in_large_images():
    """Over 2048 columns of large values the float32 result is still exact to float32 rounding."""
    x = 1000 + contract.images(1, 1, 4, 2048)
    expected = x.double().unfold(3, 8, 1).mean(-1).mean(2, keepdim=True)
    rows = LocalMean(8)(x)
    assert float((rows - expected).abs().max()) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    ("height", "width", "window"), [(20, 31, 8), (6, 30, 12), (25, 25, 10), (20, 31, (20, 12)), (30, 22, (12, 9))]
)
def test_local_attention_is_the_average_over_overlapping_windows(height, width, window):
    """Cell by cell, any batch, it equals running global attention in each window and averaging the overlaps."""
    local = contract.randomised(lambda: LocalTransposedAttention(8, 2, True, window)).double()
    x = contract.images(2, 8, height, width).double()
    query, key, value = local.qkv_dwconv(local.qkv(x)).chunk(3, dim=1)
    rows, columns = (min(pair) for pair in zip(both_sides(window), (height, width), strict=True))
    total, count = torch.zeros_like(value), torch.zeros(height, width, dtype=torch.float64)
    for i in window_starts(height, rows):
        for j in window_starts(width, columns):
            place = (..., slice(i, i + rows), slice(j, j + columns))
            q, k, v = (part[place].flatten(2).unflatten(1, (2, 4)) for part in (query, key, value))
            q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
            attended = (q @ k.transpose(-2, -1) * local.temperature).softmax(-1) @ v
            total[place] += attended.flatten(1, 2).unflatten(-1, (rows, columns))
            count[place] += 1
    assert contract.relative(local(x), local.project_out(total / count)) < 1e-12


@pytest.mark.parametrize(("size", "window"), [(40, 24), (56, 24), (384, 384), (1280, 384), (33, 8)])
def test_windows_cover_the_axis_evenly(size, window):
    """As few windows as cover it, starting at 0, ending at the border, no gap, steps equal but for the last."""
    starts = window_starts(size, window)
    steps = [b - a for a, b in pairwise(starts)]
    assert starts[0] == 0
    assert starts[-1] + window == size
    assert len(starts) == -(-size // window)
    assert all(0 < step <= window for step in steps)
    assert len(set(steps[:-1])) <= 1


def test_windows_of_the_published_networks():
    """Trained on 256 pixels, the windows are 384 at full resolution and shrink with the features."""
    assert [layer_window(level, 16, 256, None)[0] for level in range(5)] == [384, 192, 96, 48, 24]
    assert layer_window(2, 8, 256, 576) == (144, 144)


def test_windows_of_a_patch_that_is_not_square():
    """Height and width are each those of the patch, and of the window where it is given, as the official code's are."""
    assert layer_window(0, 8, (256, 384), None) == (384, 576)
    assert layer_window(1, 16, [320, 192], [480, 384]) == (240, 192)


@pytest.mark.parametrize(
    ("local", "plain", "arguments"), [(NAFNetLocal, NAFNet, NAFNET), (RestormerLocal, Restormer, RESTORMER)]
)
def test_a_window_that_covers_one_axis_acts_along_the_other(local, plain, arguments):
    """With a patch as wide as the image and half as high, the image's upper part sees less of the lower, not more."""
    reference = contract.randomised(lambda: plain(**arguments))
    network = local(**arguments, train_size=(16, 40), base_size=(16, 40)).eval()
    network.load_state_dict(reference.state_dict())
    turned = local(**arguments, train_size=(40, 16), base_size=(40, 16)).eval()
    turned.load_state_dict(reference.state_dict())
    image = contract.images(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(network(image[:, :, :16]), reference(image[:, :, :16]))  # both axes are covered
        assert not torch.equal(network(image), reference(image))
        assert not torch.equal(network(image), turned(image))


def test_attention_is_restormers():
    """Where the window covers the feature, local attention is the plain one."""
    local = contract.randomised(lambda: LocalTransposedAttention(8, 2, False, 16))
    plain = TransposedAttention(8, 2, False)
    plain.load_state_dict(local.state_dict())
    x = contract.images(1, 8, 16, 12)
    with torch.no_grad():
        assert torch.equal(local(x), plain(x))


@pytest.mark.parametrize(
    ("architecture", "arguments"), [("nafnet_local", TINY_NAFNET), ("restormer_local", TINY_RESTORMER)]
)
class TestContract:
    """What every network owes, with windows smaller than the images."""

    def test_any_size(self, architecture, arguments):
        """Any height and width come back unchanged."""
        contract.check_any_size(lambda: build(architecture, arguments | {"train_size": 16}))

    def test_gray(self, architecture, arguments):
        """One image channel works."""
        gray = arguments | {"channels": 1, "train_size": 16}
        contract.check_any_size(lambda: build(architecture, gray), channels=1, sizes=[(19, 24)])

    def test_gradients(self, architecture, arguments):
        """Every parameter learns."""
        contract.check_gradients(lambda: build(architecture, arguments | {"train_size": 16}))

    def test_channels_last_and_bfloat16(self, architecture, arguments):
        """Memory format changes nothing, bfloat16 little."""
        contract.check_channels_last_and_bfloat16(lambda: build(architecture, arguments | {"train_size": 16}))

    def test_fullgraph(self, architecture, arguments):
        """One graph without breaks."""
        contract.check_fullgraph(lambda: build(architecture, arguments | {"train_size": 16}))


class Layer(nn.Module):
    """Local attention alone, on features in the place of an image."""

    def __init__(self):
        super().__init__()
        self.attention = LocalTransposedAttention(4, 2, False, 16)

    def forward(self, image):
        """As the attention's."""
        return self.attention(image)


@pytest.mark.parametrize(
    ("build_layer", "channels"),
    [
        (lambda: build("nafnet_local", TINY_NAFNET | {"train_size": 16}), 3),
        (Layer, 4),
    ],
)
def test_onnx(build_layer, channels):
    """The exported graph computes the same at two tiles, one of them covered by the windows, and two batches."""
    contract.check_onnx(build_layer, sizes=[(24, 16), (16, 40)], channels=channels)
