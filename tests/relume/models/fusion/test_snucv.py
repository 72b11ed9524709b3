"""SNUCV: its start, what its head reads, and what every network owes."""

import pytest
import torch
from torch import nn

from relume.models import mambairv2
from relume.models.fusion.snucv import SNUCV, VARIANTS, EnsembleXformer
from relume.models.registry import build, variants

from .. import contract

DEMO = VARIANTS["snucv-demo"].arguments


def demo():
    """The demo size."""
    return build("snucv", DEMO)


@pytest.mark.parametrize("name", ["mambairv2-demo", "xformer-demo", "restormer-demo"])
def test_deepest_features_come_with_the_result(name):
    """Asking a member for its features gives the result of `forward` bit for bit, and features of the latent's grid."""
    variant = variants()[name]
    network = contract.randomised(lambda: build(variant.architecture, variant.arguments))
    image = contract.images(2, 3, 20, 33)
    with torch.no_grad():
        result, features = network.deepest_features(image)
        assert torch.equal(result, network(image))
    assert features.shape[0] == 2
    assert features.shape[-2:] in ((3, 5), (24, 40))


def test_a_new_one_is_the_average_of_its_members():
    """Before training the result is the mean of the three members' results."""
    torch.manual_seed(0)
    network = demo().eval()
    image = contract.images(1, 3, 20, 33)
    with torch.no_grad():
        mean = torch.stack([member(image) for member in network.members]).mean(dim=0)
        assert torch.allclose(network(image), mean, atol=1e-6)


def head():
    """The ensemble network alone, with everything random."""
    return contract.randomised(lambda: EnsembleXformer(results=2, features=5, channels=3, **DEMO["head"]))


def test_head_reads_every_input():
    """The noisy image, each result and each feature change what the head returns."""
    network = head()
    image, results = contract.images(1, 3, 16, 24), [contract.images(1, 3, 16, 24, seed) for seed in (2, 3)]
    features = [torch.randn(1, 3, 2, 3), torch.randn(1, 2, 16, 24)]
    with torch.no_grad():
        expected = network(image, results, features)
        changed = [
            network(image + 0.1, results, features),
            network(image, [results[0], results[1].flip(-1)], features),
            network(image, results, [features[0] + 1, features[1]]),
            network(image, results, [features[0], features[1] + 1]),
        ]
    assert all(contract.relative(other, expected) > 1e-3 for other in changed)


def test_fine_features_are_averaged_to_the_latent():
    """Features at full resolution, padded to larger windows, act as their means over 8 x 8 pixels of the latent."""
    network = head()
    image, results = contract.images(1, 3, 20, 20), [contract.images(1, 3, 20, 20, seed) for seed in (2, 3)]
    fine = torch.randn(1, 5, 32, 32)
    coarse = nn.functional.interpolate(fine, scale_factor=1 / 8, mode="area")[:, :, :3, :3]
    with torch.no_grad():
        assert contract.relative(network(image, results, [fine]), network(image, results, [coarse])) < 1e-5


def test_frozen_members_stay_in_eval_mode():
    """Training mode reaches the head, and the members only while they have something to train."""
    network = demo().train()
    assert all(member.training for member in network.members)
    network.members.requires_grad_(False)
    network.train()
    assert network.head.training
    assert not any(member.training for member in network.members)


def test_members_take_the_weights_of_their_families():
    """In the published sizes the members' state dicts are those of the families' denoisers."""
    with torch.device("meta"):
        network = build("snucv", VARIANTS["snucv"].arguments)
        for member, name in zip(
            network.members, ("mambairv2-denoise", "xformer-denoise", "restormer-denoise"), strict=True
        ):
            variant = variants()[name]
            assert list(member.state_dict()) == list(build(variant.architecture, variant.arguments).state_dict())
            assert sum(parameter.numel() for parameter in member.parameters()) == variant.parameters


def test_what_every_network_owes():
    """Any size, colour and gray, gradients, number formats and one whole graph."""
    contract.check_any_size(demo, sizes=((1, 1), (17, 23)))
    contract.check_any_size(lambda: SNUCV(**DEMO, channels=1), channels=1, sizes=((9, 6),))
    contract.check_gradients(demo, size=(24, 32))
    contract.check_channels_last_and_bfloat16(demo, size=(16, 24))
    contract.check_fullgraph(demo, size=(16, 16))


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
def test_onnx_computes_the_same(size, monkeypatch):
    """With few blocks and short chunks of the scan, ONNX Runtime computes the same at two batches."""
    monkeypatch.setattr(mambairv2, "EXPORTED_STEPS", 4)
    xformer = DEMO["xformer"] | {"channel_blocks": [0, 0, 0], "refinement_blocks": 0}
    restormer = DEMO["restormer"] | {"blocks": [0, 0, 0, 1], "refinement_blocks": 0}
    shallow = DEMO | {"xformer": xformer, "restormer": restormer, "head": xformer}
    contract.check_onnx(lambda: SNUCV(**shallow), [size])
