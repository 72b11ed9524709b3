"""Every recipe to a served model: trained, exported and asked of a real Triton, one plan on every way."""

import shutil

import numpy as np
import pytest
import skimage.data

from relume.evaluation.benchmark.systems import load_system
from relume.evaluation.networks import at_level, level_estimate, tiled
from relume.metrics import to_8_bit
from relume.models.artifact import load_model
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.openvino_restorer import OpenVinoRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.torch_restorer import TorchRestorer
from relume.serving.triton_client import TritonRestorer
from tests.components.test_recipe_runs import RECIPES, run_recipe

CROSS_SECTION = {"masked"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CROSS_SECTION else pytest.mark.exhaustive) for name in RECIPES]
)
def test_every_recipe_is_served(server, control, tmp_path, name):
    """A few steps of each phase; evaluation, `relume evaluate`, ONNX Runtime, OpenVINO, PyTorch and Triton then restore
    a photograph within one level, of a fusion at edges 99.9 % of the values."""
    run_recipe(tmp_path, name, steps=6)
    models, folder = tmp_path / "models", tmp_path / "package" / "serving"
    shutil.copytree(models / "exported", folder)
    shutil.copytree(models / "final", tmp_path / "package" / "model")
    onnx = OnnxRestorer(folder, threads=1)
    plan, levels = onnx.inference, onnx.serving.levels
    photograph = 60 + skimage.data.astronaut()[100:290, 150:360] // 2  # of several tiles of demo scale
    network = load_model(models / "final")
    level = None if levels is None else levels.default
    if levels is not None and plan.estimator:
        level = levels.nearest(level_estimate(load_model(models / "bases" / plan.estimator))(photograph))
    expected = tiled(network if level is None else at_level(network, level), plan, batch=1)(photograph)

    as_float = photograph / np.float32(255)
    system = load_system(models / "final", inference=plan)
    found = {
        "relume evaluate": to_8_bit(system.restore(as_float, level)),
        "ONNX Runtime": onnx.restore(photograph).image,
        "OpenVINO": OpenVinoRestorer(folder, threads=1).restore(photograph).image,
        "PyTorch": TorchRestorer(folder).restore(photograph).image,
    }
    release = f"{name}-recipe".replace("_", "-")
    publish_release(folder, server.repository, release)
    control.load_release(release)
    control.switch_product(server.repository, "recipe", Route(champion=release))
    with TritonRestorer(server.grpc, "recipe", key=server.key) as restorer:
        restoration = restorer.restore(photograph)
        assert (restorer.served().inference, restoration.level) == (plan, level)
        found["Triton"] = restoration.image
    share = 0.999 if plan.fusion else 1  # a last bit may take a pixel at an edge from the other member
    for way, image in found.items():
        assert (np.abs(image.astype(int) - expected) <= 1).mean() >= share, way
