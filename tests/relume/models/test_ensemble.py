"""The ensemble and its artifact."""

import numpy as np
import pytest
import torch

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.files import write_json
from relume.models.artifact import ModelCard, load_card, load_model, save_model
from relume.models.ensemble import Average
from relume.models.registry import build
from relume.reading import read_json

from . import contract

NAFNET = {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]}
BASE = {"architecture": "nafnet", "arguments": NAFNET}
ARGUMENTS = {"bases": [BASE, BASE], "head": {"width": 4, "blocks": 1}}


def ensemble(*, random_head: bool):
    """An ensemble of two small networks that differ; a new head has zero weights at its end."""
    torch.manual_seed(0)
    network = build("ensemble", ARGUMENTS)
    for name, parameter in network.named_parameters():
        if name.startswith("bases") or random_head:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def test_a_new_head_is_the_plain_average():
    """Before training the ensemble gives the mean of its bases' outputs, at an odd size too."""
    network, image = ensemble(random_head=False), torch.rand(2, 3, 13, 18)
    with torch.no_grad():
        expected = Average(list(network.bases))(image)
        assert expected.std() > 0
        torch.testing.assert_close(network(image), expected)


def test_the_head_mixes_by_convex_weights_and_adds_a_correction():
    """The output equals the softmax-weighted sum plus the correction, computed here channel by channel."""
    network, image = ensemble(random_head=True), torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        outputs = [base(image) for base in network.bases]
        head = network.head
        maps = head.ending(head.body(head.intro(torch.cat([image, *outputs], dim=1))))
        weights = torch.exp(maps[:, :2]) / torch.exp(maps[:, :2]).sum(dim=1, keepdim=True)
        expected = weights[:, :1] * outputs[0] + weights[:, 1:] * outputs[1] + maps[:, 2:]
        torch.testing.assert_close(network(image), expected)


def test_frozen_bases_stay_in_eval_mode():
    """`train()` reaches the head and, once they are trained, the bases."""
    network = ensemble(random_head=False)
    network.bases.requires_grad_(False)
    network.train()
    assert network.head.training
    assert not any(base.training for base in network.bases)
    network.bases.requires_grad_(True)
    assert all(base.training for base in network.train().bases)


@pytest.fixture
def artifact(tmp_path):
    """A saved ensemble."""
    card = ModelCard(architecture="ensemble", arguments=ARGUMENTS, trained_for={"task": "denoise"}, provenance={})
    save_model(tmp_path / "model", ensemble(random_head=True), card, files={"history.csv": "step\n"})
    return tmp_path / "model"


def test_an_artifact_gives_the_same_network_back(artifact):
    """The rebuilt network computes the same bits from nothing but the folder."""
    image = torch.rand(1, 3, 9, 10)
    with torch.no_grad():
        torch.testing.assert_close(load_model(artifact)(image), ensemble(random_head=True)(image))
    assert load_card(artifact).architecture == "ensemble"
    assert sorted(path.name for path in artifact.iterdir()) == ["history.csv", "model.json", "model.safetensors"]


def test_weights_that_do_not_fit_are_reported_by_key(artifact):
    """Missing, extra and mis-shaped keys are named."""
    card = read_json(artifact / "model.json")
    card["arguments"]["head"] = {"width": 6, "blocks": 1}
    write_json(artifact / "model.json", card)
    with pytest.raises(ModelFormatError, match=r"head\.body\.0\.conv1\.weight has shape"):
        load_model(artifact)
    card["arguments"]["head"] = {"width": 4, "blocks": 2}
    write_json(artifact / "model.json", card)
    with pytest.raises(ModelFormatError, match=r"missing head\.body\.1"):
        load_model(artifact)


def test_a_missing_artifact_and_a_wrong_name_say_what_to_do(tmp_path):
    """The messages name the command or the choices."""
    with pytest.raises(ModelMissingError, match="relume pipeline run"):
        load_model(tmp_path)
    with pytest.raises(ConfigError, match="choose one of"):
        build("nonsense", {})
    with pytest.raises(ConfigError, match="The arguments do not fit"):
        build("nafnet", {"width": 4})


def test_saving_replaces_the_old_artifact_whole(artifact):
    """A file of the old artifact does not survive in the new one."""
    save_model(artifact, ensemble(random_head=False), load_card(artifact))
    assert not (artifact / "history.csv").exists()
    assert np.isfinite(load_model(artifact)(torch.rand(1, 3, 8, 8)).detach().numpy()).all()


def test_what_every_network_owes():
    """Any size, gradients, number formats, one whole graph, and ONNX at two tile sizes and two batches."""

    def demo():
        return ensemble(random_head=True)

    contract.check_any_size(demo)
    contract.check_gradients(demo, size=(24, 32))
    contract.check_channels_last_and_bfloat16(demo)
    contract.check_fullgraph(demo)
    contract.check_onnx(demo, [(24, 32), (16, 24)])
