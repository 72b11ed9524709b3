"""The level estimator: the published size, the image it looks at, and what every network owes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relume.models.level_estimator import TILE, VARIANTS, LevelEstimator
from relume.models.registry import build

from . import contract


def demo():
    """The demo size."""
    return build("level_estimator", VARIANTS["level-estimator-demo"].arguments)


def test_published_parameter_count():
    """It has the 330,561 parameters of the published weights."""
    assert sum(parameter.numel() for parameter in LevelEstimator().parameters()) == 330_561


def transcribed(state, tiles):
    """The published layers from the state dict alone: strided, four residual blocks and poolings, 1024-32-16-1."""

    def convolve(x, key, **options):
        return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1, **options)

    x = convolve(tiles, "intro", stride=2)
    for block in range(4):
        inner = convolve(x, f"blocks.{block}.conv1").clamp(min=0)
        x = x + convolve(inner, f"blocks.{block}.conv2")
        x = torch.maximum(
            torch.maximum(x[..., ::2, ::2], x[..., 1::2, ::2]), torch.maximum(x[..., ::2, 1::2], x[..., 1::2, 1::2])
        )
    x = x.reshape(len(tiles), -1)
    for layer in (0, 2, 4):
        x = x @ state[f"linear.{layer}.weight"].t() + state[f"linear.{layer}.bias"]
        x = x if layer == 4 else x.clamp(min=0)
    return x[:, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_estimate_of_a_tile_equals_a_transcription(channels):
    """At the published width, colour and gray, it computes what the published layers say."""
    network = contract.randomised(lambda: LevelEstimator(channels=channels))
    tiles = contract.images(3, channels, TILE, TILE)
    with torch.no_grad():
        state = network.state_dict()
        assert state["linear.0.weight"].shape == (32, 1024)
        expected = transcribed(state, tiles)
        assert expected.std() > 0
        assert contract.relative(network(tiles), expected) < 1e-4
        assert torch.equal(network(tiles), network(tiles))


def test_the_papers_text_has_five_convolutions_and_three_linear_layers():
    """Without residual blocks the layers are those, and the estimate is what they say one after the other."""
    network = contract.randomised(lambda: LevelEstimator(width=8, residual=False))
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 5 + [nn.Linear] * 3
    with torch.no_grad():
        x = contract.images(2, 3, TILE, TILE)
        expected = layers[0](x)
        for layer in layers[1:5]:
            expected = F.max_pool2d(layer(expected).relu(), 2)
        expected = layers[7](layers[6](layers[5](expected.flatten(1)).relu()).relu())
        assert contract.relative(network(x), expected[:, 0]) < 1e-5


def test_classes_give_the_level_that_is_expected_of_them():
    """The estimate is the mean of the classes' levels, each as probable as its logit says."""
    network = contract.randomised(lambda: LevelEstimator(width=8, classes=(15, 35, 55, 75)))
    with torch.no_grad():
        image = contract.images(2, 3, TILE, 2 * TILE)
        logits = network.scores(image)
        assert logits.shape == (2, 2, 4)
        probable = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
        expected = (15 * probable[..., 0] + 35 * probable[..., 1] + 55 * probable[..., 2] + 75 * probable[..., 3]).mean(
            1
        )
        assert contract.relative(network(image), expected) < 1e-5


def test_a_level_between_two_classes_is_of_both():
    """The loss at 40 is 3/4 of that of class 35 and 1/4 of that of 55; beyond the classes the nearest counts."""
    network = contract.randomised(lambda: LevelEstimator(width=8, classes=(15, 35, 55, 75)))
    image = contract.images(1, 3, TILE, TILE)
    with torch.no_grad():
        of_class = [F.cross_entropy(network.scores(image)[:, 0], torch.tensor([k])) for k in range(4)]
        for level, expected in (
            (35.0, of_class[1]),
            (40.0, 0.75 * of_class[1] + 0.25 * of_class[2]),
            (15.0, of_class[0]),
            (3.0, of_class[0]),
            (90.0, of_class[3]),
        ):
            assert torch.allclose(network.class_loss(image, torch.tensor([level])), expected, rtol=1e-5), level


def test_estimate_is_the_mean_over_the_tiles():
    """An image of two by three tiles gives the mean of the six tiles' estimates; the ragged border is left out."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, 2 * TILE + 5, 3 * TILE + 127)
    with torch.no_grad():
        tiles = [
            network(image[:, :, TILE * row : TILE * (row + 1), TILE * column : TILE * (column + 1)])
            for row in range(2)
            for column in range(3)
        ]
        assert torch.allclose(network(image), torch.stack(tiles).mean(dim=0), atol=1e-6)


def test_a_small_image_is_mirrored():
    """An image smaller than a tile is continued by mirroring, as often as needed."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, 60, TILE)
    mirrored = torch.cat([image, image.flip(2), image], dim=2)[:, :, :TILE]
    with torch.no_grad():
        assert torch.allclose(network(image), network(mirrored), atol=1e-6)
        assert network(contract.images(3, 3, 1, 2)).shape == (3,)


def test_gradients_and_one_whole_graph():
    """Every parameter has a gradient, and TorchDynamo captures one graph."""
    contract.check_gradients(demo)
    contract.check_fullgraph(demo)


class Scaled(nn.Module):
    """The image times its estimate, an image for the checks that expect one."""

    def __init__(self):
        super().__init__()
        self.estimator = demo()

    def forward(self, image):
        """(N, 3, H, W) to the same shape."""
        return image * self.estimator(image).view(-1, 1, 1, 1)


def test_number_formats_and_onnx():
    """Same estimate in channels_last, nearly in bfloat16, and in ONNX Runtime below and above the size of a tile."""
    contract.check_channels_last_and_bfloat16(Scaled)
    contract.check_onnx(Scaled, [(48, 64), (256, 130)])
