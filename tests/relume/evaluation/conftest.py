"""What the tests of evaluation share: the benchmark sets where they are, a photograph, and models."""

import os
from pathlib import Path

import pytest
import skimage.data
import torch

from relume.images import save_image
from relume.models.artifact import ModelCard, save_model
from relume.models.registry import build

from ..models import contract


@pytest.fixture(scope="session")
def benchmark_sets():
    """The folder of the benchmark sets."""
    folder = Path(os.environ.get("RELUME_DATA") or Path(__file__).parents[4] / "shared" / "data" / "test")
    if not folder.is_dir():
        pytest.skip(f"no benchmark sets in {folder}; RELUME_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def photograph():
    """A small photograph, uint8 (48, 60, 3)."""
    return skimage.data.chelsea()[100:148, 150:210]


@pytest.fixture
def own_images(tmp_path, photograph):
    """A folder of three images of the user's own: parts of a photograph."""
    for number, name in enumerate(["a", "b", "c"]):
        save_image(tmp_path / "pictures" / f"{name}.png", skimage.data.chelsea()[60 * number :][:40, 100:150])
    return tmp_path / "pictures"


@pytest.fixture(scope="session")
def save_network():
    """Writes a network as an artifact: random weights, or none, by which DnCNN changes nothing."""

    def save(folder, architecture, *, seed=0, identity=False, trained_for=None, **arguments):
        network = contract.randomised(lambda: build(architecture, arguments), seed)
        if identity:
            for parameter in network.parameters():
                torch.nn.init.zeros_(parameter)
        card = ModelCard(architecture=architecture, arguments=arguments, trained_for=trained_for or {}, provenance={})
        save_model(folder, network, card)
        return network

    return save
