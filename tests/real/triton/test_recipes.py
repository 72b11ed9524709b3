"""Every recipe to a release decision and a served model: trained, judged, and asked of a real Triton, one plan on
every way."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import skimage.data

from relume.evaluation.benchmark.systems import load_system
from relume.evaluation.networks import at_level, level_estimate, tiled
from relume.inference.plan import Inference
from relume.metrics import to_8_bit
from relume.models.artifact import load_model
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.openvino_restorer import OpenVinoRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.torch_restorer import TorchRestorer
from relume.serving.triton_client import TritonRestorer
from tests.components.test_recipe_runs import RECIPES, concerns_its_task, decide, holds, run_recipe

CROSS_SECTION = {"masked"}
# Of context and overlap one alone changes nothing where a network sees no further than the other.
LEFT_OUT: tuple[dict[str, Any], ...] = (
    {"orientations": 1},
    {"further_windows": ()},
    {"members": {}},
    {"fusion": None},
    {"passes": 1},
    {"halo": 0, "overlap": 0},
)


def without_each_option(plan: Inference) -> Iterator[tuple[str, Inference]]:
    """The plan without one of its options, for each that it has."""
    for values in LEFT_OUT:
        plain = plan.model_copy(update=values)
        if plain != plan:
            yield " and ".join(values), plain


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in CROSS_SECTION else pytest.mark.exhaustive) for name in RECIPES]
)
def test_every_recipe_is_served(server, control, tmp_path, name):
    """A few steps of each phase, to the gate, which lets it pass or refuses it for its task. Evaluation, `relume
    evaluate`, ONNX Runtime, OpenVINO, PyTorch and Triton then restore a photograph within one level, of a fusion at
    edges 99.9 % of the values, and each option of the plan changes pixels."""
    run_recipe(tmp_path, name, steps=6)
    holds(tmp_path, name)
    concerns_its_task(decide(tmp_path))
    models, folder = tmp_path / "models", tmp_path / "package" / "serving"
    onnx = OnnxRestorer(folder, threads=1)
    plan, levels = onnx.inference, onnx.serving.levels
    photograph = 60 + skimage.data.astronaut()[100:290, 150:360] // 2  # of several tiles of demo scale
    network = load_model(models / "final")
    level = None if levels is None else levels.default
    if levels is not None and plan.estimator:
        level = levels.nearest(level_estimate(load_model(models / "bases" / plan.estimator))(photograph))
    leveled = network if level is None else at_level(network, level)
    expected = tiled(leveled, plan, batch=1)(photograph)
    for option, plain in without_each_option(plan):
        assert (tiled(leveled, plain, batch=1)(photograph) != expected).any(), option

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
