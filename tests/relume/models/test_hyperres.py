"""Hypernetwork restoration against the official outputs, explicit convolution, and what every network owes."""

import numpy as np
import pytest
import torch

from relume.models.adafm import VARIANTS as ADAFM_VARIANTS
from relume.models.hyperres import VARIANTS, HyperConv, HyperRes
from relume.models.registry import build

from . import contract, golden


def demo():
    """The demo size."""
    return build("hyperres", VARIANTS["hyperres-demo"].arguments)


def level(batch):
    """A level for each image."""
    return torch.linspace(15, 50, batch + 1)[1:]


def official():
    """The network of the golden file, filled."""
    meta, _ = golden.read("hyperres")
    network = HyperRes(blocks=2).eval()
    golden.fill(network, meta)
    return network


def test_state_dict_and_output_are_the_official_ones():
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read("hyperres")
    network = official()
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    for sigma in (15, 55):
        at = torch.tensor([float(sigma)])
        assert golden.relative_error(lambda image, at=at: network(image, at), arrays, f"output_level{sigma}") < 2e-5


@pytest.mark.parametrize("sigma", [15, 55])
def test_generated_kernels_are_the_official_ones(sigma):
    """The kernels and biases generated at a level equal the official ones."""
    _, arrays = golden.read("hyperres")
    kernel, bias = official().res_blocks_meta[1].hy_conv1.generate(torch.tensor([sigma / 255]))
    expected = arrays[f"generated_level{sigma}_first_out_channel"]
    np.testing.assert_allclose(kernel[0].detach(), expected, atol=2e-6 * expected.std())
    expected = arrays[f"generated_level{sigma}_bias"]
    np.testing.assert_allclose(bias.detach(), expected, atol=2e-6 * expected.std())


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = HyperRes(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


def explicit(layer, image, sigma):
    """One image convolved pixel by pixel with the kernel that the level's formula gives."""
    values = (layer.fc.weight[:, 0] * sigma + layer.fc.bias).detach().numpy().astype(np.float64)
    channels = layer.channels
    kernel, bias = values[:-channels].reshape(channels, channels, 3, 3), values[-channels:]
    padded = np.pad(image.numpy().astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    result = np.zeros(image.shape)
    for y, x in np.ndindex(*image.shape[1:]):
        result[:, y, x] = np.tensordot(kernel, padded[:, y : y + 3, x : x + 3], 3) + bias
    return result


def test_convolution_equals_an_explicit_one():
    """One level, a level per image and grouped levels all give the explicit convolution by the level's kernel."""
    torch.manual_seed(3)
    layer, x, levels = HyperConv(4), torch.randn(3, 4, 5, 6), torch.tensor([0.1, 0.2, -0.7])
    with torch.no_grad():
        expected = np.stack([explicit(layer, image, sigma) for image, sigma in zip(x, levels.numpy(), strict=True)])
        per_image = layer(x, levels)
        grouped = layer.forward_many(x.reshape(1, 12, 5, 6), levels).view(3, 4, 5, 6)
        single = layer(x[2:], levels[2:])
    np.testing.assert_allclose(per_image, expected, atol=1e-6)
    np.testing.assert_allclose(grouped, expected, atol=1e-6)
    np.testing.assert_allclose(single, expected[2:], atol=1e-6)


def test_kernels_are_affine_in_the_level():
    """The kernel half way between two levels is the mean of their kernels, within and beyond the trained range."""
    layer = HyperConv(3)
    for first, second in ((0.0, 1.0), (0.2, 0.4), (-1.0, 3.0)):
        ends = zip(layer.generate(torch.tensor([first])), layer.generate(torch.tensor([second])), strict=True)
        half = layer.generate(torch.tensor([(first + second) / 2]))
        for value, (one, other) in zip(half, ends, strict=True):
            assert torch.allclose(value, (one + other) / 2, atol=1e-6)


def test_many_main_networks_at_once_equal_one_after_the_other():
    """K networks in one call compute, and send back gradients, as K calls do."""
    network = contract.randomised(demo)
    images, levels = contract.images(6, 3, 10, 13).view(3, 2, 3, 10, 13), torch.tensor([15.0, 35.0, 75.0])
    weights = torch.randn(3, 2, 3, 10, 13)

    def gradients(outputs):
        network.zero_grad()
        (outputs * weights).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    together = network.forward_many(images, levels)
    apart = torch.stack([network(batch, levels[i : i + 1]) for i, batch in enumerate(images)])
    assert contract.relative(together.detach(), apart.detach()) < 1e-5
    assert contract.relative(gradients(together), gradients(apart)) < 1e-4


def test_main_network_of_a_level_is_the_basic_one_with_the_generated_kernels():
    """The stored network of a level computes the same; at 16 blocks it has AdaFM's 1,406,787 parameters."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, 14, 9)
    with torch.no_grad():
        stored = network.main_network(33.0)(image, torch.tensor([33.0]))
        assert contract.relative(stored, network(image, torch.tensor([33.0]))) < 1e-5
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in HyperRes().main_network(33.0).parameters())
    assert count == ADAFM_VARIANTS["adafm-basic"].parameters


def test_a_level_changes_only_its_own_image():
    """Each image of a batch is restored at its own level."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, 12, 12)
    with torch.no_grad():
        first = network(image, torch.tensor([15.0, 50.0]))
        second = network(image, torch.tensor([15.0, 70.0]))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=level)
    contract.check_any_size(lambda: HyperRes(width=8, blocks=1, channels=1), channels=1, sizes=((9, 6),), level=level)
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_has_the_level_as_input_and_computes_the_same():
    """ONNX Runtime computes the same at two tile sizes and two batches, a level for each image."""
    contract.check_onnx(demo, [(32, 32), (24, 41)], level=level)
