"""The start of one model from another one's weights."""

import pytest
import torch

from reference.train import PRODUCTS, START_LEVEL, blind, deeper, starting_weights
from relume.errors import ModelMissingError
from relume.models.artifact import load_card
from relume.models.registry import build

ARGUMENTS = {"widths": [8, 16], "blocks": [1, 1]}


def test_a_blind_network_starts_as_the_adjustable_one_at_a_level():
    """Away from the border both give the same image; at another level the adjustable one gives another."""
    torch.manual_seed(0)
    adjustable = build("resunet_adjustable", ARGUMENTS).eval()
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        started = blind(adjustable, ARGUMENTS)(image)
        same, other = (adjustable(image, torch.tensor([level])) for level in (START_LEVEL, 2 * START_LEVEL))
    inside = (..., slice(40, 56), slice(40, 56))  # beyond what a network of this size sees of the border
    torch.testing.assert_close(started[inside], same[inside], atol=1e-6, rtol=0)
    assert (started - other)[inside].abs().max() > 1e-3


def test_a_deeper_network_starts_as_the_one_it_is_made_of():
    """The further blocks change nothing at first, and all of them learn."""
    torch.manual_seed(0)
    network = build("resunet_adjustable", ARGUMENTS).eval()
    larger = deeper(network, "resunet_adjustable", {"widths": [8, 16], "blocks": [2, 3]})
    image, level = torch.rand(1, 3, 48, 48), torch.tensor([25.0])
    with torch.no_grad():
        torch.testing.assert_close(larger(image, level), network(image, level), atol=0, rtol=0)
    larger(image, level).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in larger.named_parameters() if ".conv2.weight" in name}
    assert len(gradients) == 7
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


def test_where_a_training_starts(tmp_path, monkeypatch):
    """From its own weights, or from nothing, or from another product's, which must be there."""
    assert starting_weights("photo", "photo") == PRODUCTS / "photo"
    assert starting_weights("nafnet", "nafnet") is None
    assert load_card(starting_weights("dejpeg", "photo")).architecture == "resunet"
    with pytest.raises(ModelMissingError, match="denoise_adjustable"):
        starting_weights("denoise", "denoise_ajustable")
    monkeypatch.setattr("reference.train.STARTING", tmp_path / "starting")
    assert load_card(starting_weights("denoise", "denoise_adjustable")).architecture == "resunet"
    assert load_card(PRODUCTS / "denoise_adjustable").architecture == "resunet_adjustable"
    assert load_card(starting_weights("base", "denoise_adjustable")).arguments["blocks"] == [2, 6]
