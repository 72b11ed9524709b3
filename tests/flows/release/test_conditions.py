"""What a candidate is judged on, for every recipe of this repository."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flows.release.conditions import Paired, conditions_of
from relume.curation.quality import image_noise
from relume.evaluation.settings import EvaluateSettings
from relume.inference.plan import Inference
from relume.params import load_params
from relume.recipes.recipe import names, use
from relume.serving.levels import LevelRange
from relume.serving.served_model import Serving

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", names(ROOT / "recipes"))
def test_the_limits_of_this_repository_judge_every_recipe(tmp_path, name):
    """Each recipe with the parameters of this checkout is one that the gate has limits for."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    use(name, "demo", tmp_path, ROOT / "recipes")
    params = load_params(tmp_path)
    conditions = list(conditions_of(params.evaluate, Serving(inference=params.inference)))
    assert conditions
    assert all(np.isfinite(condition.limit(params.release)) for condition in conditions)


def test_a_model_with_a_level_estimator_is_judged_told_and_blind():
    """At each level twice, the second time without being given it; one whose level is of another kind is told alone."""
    evaluate = EvaluateSettings(seed=0, threads=1, levels={"sigma": [15, 50]})
    plan = Inference(tile=48, halo=4, overlap=8, estimator="level")
    for kind, blind in [("sigma", [False, False, True, True]), ("quality", [False, False])]:
        levels = LevelRange(kind=kind, lowest=10, highest=60, default=30)
        found = list(conditions_of(evaluate, Serving(inference=plan, levels=levels)))
        assert [condition.blind for condition in found] == blind
    assert len({str(condition) for condition in found}) == 2
    assert (
        len(list(conditions_of(evaluate, Serving(inference=Inference(tile=48, halo=4, overlap=8), levels=levels)))) == 2
    )


@pytest.mark.parametrize(
    ("kind", "estimator", "told"), [("sigma", None, True), ("quality", None, False), ("sigma", "level", False)]
)
def test_pairs_are_restored_at_the_level_of_the_evaluation(kind, estimator, told):
    """A model that takes a sigma and estimates none is given the noise of the degraded image, as in `reports`."""
    rng = np.random.default_rng(0)
    clean = np.full((96, 96, 3), 128, np.uint8)
    noisy = np.rint(clean + rng.normal(0, 12, clean.shape)).astype(np.uint8)
    asked = []

    class Restorer:
        serving = Serving(
            inference=Inference(tile=48, halo=4, overlap=8, estimator=estimator),
            levels=LevelRange(kind=kind, lowest=5, highest=60, default=30),
        )

        def restore(self, image, level=None):
            asked.append(level)
            return SimpleNamespace(image=image)

    Paired(pairs={"00aa": (noisy, clean)}).psnr(Restorer(), {}, seed=0)
    assert asked == ([pytest.approx(image_noise(noisy), abs=0.005)] if told else [30 if kind == "quality" else None])


def test_noise_that_a_model_was_not_trained_on_must_not_lose(tmp_path):
    """`masked` is asked for what a denoiser gains at the sigma of its training; of all other noise, for no loss."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    limits = {}
    for name in ("masked", "denoise"):
        use(name, "demo", tmp_path, ROOT / "recipes")
        params = load_params(tmp_path)
        (trained,) = params.training.degradation.steps
        conditions = conditions_of(params.evaluate, Serving(inference=params.inference))
        limits[name, trained.sigma] = {(c.protocol, c.level): c.limit(params.release) for c in conditions}
    masked, denoise = limits["masked", (15, 15)], limits["denoise", (0, 55)]
    assert masked.pop(("clipped", 15)) == denoise["clipped", 15] > 0
    assert {level for protocol, level in masked if protocol == "clipped"} == {25, 50}
    assert set(masked.values()) == {0}
