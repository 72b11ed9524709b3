"""DNI at its end points, between and beyond them, and what every network owes."""

import onnxruntime
import pytest
import torch

from relume.errors import ModelFormatError
from relume.models.dncnn import DnCNN
from relume.models.dni import DNI, VARIANTS, interpolate
from relume.models.registry import build
from relume.serving.export import to_onnx

from . import contract


def demo():
    """The demo size, its second network moved away from the first."""
    network = build("dni", VARIANTS["dni-demo"].arguments)
    with torch.no_grad():
        for parameter in network.change.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return network


def level(batch):
    """One level for the batch."""
    return torch.tensor([33.0])


def two(seed=0):
    """Two networks of one architecture with batch norms, whose state dict has integer entries too."""
    torch.manual_seed(seed)
    return [DnCNN(width=4, layers=3, batch_norm=True).eval() for _ in range(2)]


def test_end_points_are_the_two_networks():
    """Strength 0 gives the first state dict bit for bit, strength 1 the second."""
    first, second = (network.state_dict() for network in two())
    for strength, expected in ((0.0, first), (1.0, second)):
        assert all(torch.equal(value, expected[key]) for key, value in interpolate(first, second, strength).items())


@pytest.mark.parametrize("strength", [0.3, -0.5, 1.7])
def test_between_and_beyond_is_the_weighted_sum(strength):
    """Every floating-point entry is (1 − strength) · first + strength · second; integer entries stay the first's."""
    first, second = (network.state_dict() for network in two())
    second["model.3.num_batches_tracked"] += 7
    mixed = interpolate(first, second, strength)
    assert list(mixed) == list(first)
    for key, value in mixed.items():
        if value.is_floating_point():
            assert torch.allclose(value, (1 - strength) * first[key] + strength * second[key], atol=1e-6)
        else:
            assert torch.equal(value, first[key])


def test_other_architectures_are_refused_with_the_keys_that_differ():
    """State dicts of unlike networks are refused; the message names a key that differs."""
    with pytest.raises(ModelFormatError, match=r"model\.4\.weight"):
        interpolate(DnCNN(width=4, layers=3).state_dict(), DnCNN(width=4, layers=4).state_dict(), 0.5)


def test_level_slides_between_the_two_networks():
    """At the two training levels the module is each network; between them it is the network of the mixed weights."""
    network = contract.randomised(demo)
    image = contract.images(1, 3, 14, 17)
    middle, second = DnCNN(width=16, layers=6).eval(), DnCNN(width=16, layers=6).eval()
    first, change = network.first.state_dict(), network.change.state_dict()
    second.load_state_dict({key: value + change[key] for key, value in first.items()})
    middle.load_state_dict(interpolate(first, second.state_dict(), 0.25))
    with torch.no_grad():
        for sigma, expected in ((15.0, network.first), (30.0, middle), (75.0, second)):
            assert contract.relative(network(image, torch.tensor([sigma])), expected(image)) < 1e-5


def test_the_second_starts_from_the_first_and_moves_as_a_network_of_its_own():
    """After the first's training the two are one; a step at the second level moves the second as it would a copy."""
    network = build("dni", VARIANTS["dni-demo"].arguments)
    image, clean = contract.images(1, 3, 14, 17), contract.images(1, 3, 14, 17, seed=2)
    with torch.no_grad():
        for parameter in network.first.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        assert torch.equal(network(image, torch.tensor([75.0])), network.first(image))
    copy_of_first = DnCNN(width=16, layers=6)
    copy_of_first.load_state_dict(network.first.state_dict())
    for moved, restore in (
        (network.change, lambda: network(image, torch.tensor([75.0]))),
        (copy_of_first, lambda: copy_of_first(image)),
    ):
        optimizer = torch.optim.Adam(moved.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            (restore() - clean).square().mean().backward()
            optimizer.step()
    with torch.no_grad():
        assert contract.relative(network(image, torch.tensor([75.0])), copy_of_first(image)) < 1e-3
        assert contract.relative(network(image, torch.tensor([75.0])), network.first(image)) > 1e-2


def test_a_level_per_image():
    """In a batch with several levels each image is restored at its own."""
    network = contract.randomised(demo)
    image, levels = contract.images(2, 3, 14, 17), torch.tensor([20.0, 60.0])
    with torch.no_grad():
        together = network(image, levels)
        for index in (0, 1):
            alone = network(image[index : index + 1], levels[index : index + 1])
            assert contract.relative(together[index : index + 1], alone) < 1e-5


def test_any_size_gray_gradients_and_number_formats():
    """Any size, colour and gray; a gradient for every parameter; channels_last, bfloat16 and one whole graph."""
    contract.check_any_size(demo, level=lambda batch: torch.full((batch,), 33.0))
    gray = {"architecture": "dncnn", "arguments": {"width": 8, "layers": 3, "channels": 1}}
    contract.check_any_size(lambda: DNI(**gray), channels=1, sizes=((9, 6),), level=lambda n: torch.full((n,), 20.0))
    contract.check_gradients(demo, level=level)
    contract.check_channels_last_and_bfloat16(demo, level=level)
    contract.check_fullgraph(demo, level=level)


def test_onnx_with_a_level_for_each_image():
    """ONNX Runtime computes the same when the images of an open batch have levels of their own."""
    contract.check_onnx(demo, [(24, 32)], level=lambda batch: torch.linspace(15, 60, batch))


@pytest.mark.parametrize(("height", "width"), [(24, 32), (40, 24)])
def test_onnx_with_one_level_for_the_batch(height, width):
    """ONNX Runtime computes the same at two tile sizes, batches and levels; the level is one for the batch."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, height, width)
    program = to_onnx(network, (image, level(2)), ["image", "level"], batched=["image"], simplify=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, sigma in ((1, 15.0), (3, 60.0)):
        image, at = contract.images(batch, 3, height, width), torch.tensor([sigma])
        (restored,) = session.run(None, {"image": image.numpy(), "level": at.numpy()})
        with torch.no_grad():
            expected = torch.cat([network(one, at) for one in image.split(1)])
        assert contract.relative(torch.from_numpy(restored), expected) < 1e-4
