"""The tasks: what each recipe is measured on and called, and that each task can be measured at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data

import relume
from relume.evaluation.held_out import degraded_photograph, evaluate_held_out, protocol_of
from relume.evaluation.settings import EvaluateSettings
from relume.evaluation.tasks import INPUTS, TASKS, degradation_of
from relume.inference.plan import Inference
from relume.metrics import to_8_bit
from relume.recipes.recipe import names, resolve

RECIPES = Path(relume.__file__).parents[1] / "recipes"
NOISE, AT_50, PEERS = {"sigma": (15, 25, 50)}, {"sigma": (50,)}, {"sigma": (15, 35, 55, 75)}
EXPECTED = {
    "adafm_denoise": ("denoise_adjustable", PEERS),
    "all_in_one": ("all_in_one", NOISE | {"streaks": (4,), "haze": (1,), "quality": (10, 20, 30, 40), "length": (12,)}),
    "alwaysu": ("denoise_50", AT_50),
    "base": ("base", NOISE),
    "buptmm": ("denoise_50", AT_50),
    "cfsnet_denoise": ("denoise_adjustable", PEERS),
    "cresmd_blur_noise": ("denoise_deblur", NOISE),
    "cresmd_denoise": ("denoise_adjustable", NOISE),
    "dejpeg": ("dejpeg", {"quality": (10, 20, 30, 40)}),
    "denoise": ("denoise", NOISE),
    "denoise_adjustable": ("denoise_adjustable", NOISE),
    "dni_denoise": ("denoise_adjustable", PEERS),
    "dynet": ("noise_rain_haze", NOISE | {"streaks": (4,), "haze": (1,)}),
    "dynet_dehaze": ("dehaze_dynet", {"haze": (1,)}),
    "dynet_denoise": ("denoise_dynet", NOISE),
    "dynet_derain": ("derain_dynet", {"streaks": (4,)}),
    "dynet_five": (
        "all_in_one",
        NOISE | {"streaks": (4,), "haze": (1,), "quality": (10, 20, 30, 40), "length": (12,)},
    ),
    "dynet_noise_rain": ("noise_rain", NOISE | {"streaks": (4,)}),
    "dynet_small": ("noise_rain_haze", NOISE | {"streaks": (4,), "haze": (1,)}),
    "ensemble": ("denoise", NOISE),
    "hmidenoise": ("denoise_50", AT_50),
    "hypernet_dejpeg": ("dejpeg_adjustable", {"quality": (10, 30, 50, 80)}),
    "hypernet_denoise": ("denoise_adjustable", {"sigma": (15, 35, 55, 75)}),
    "hypernet_sr": ("sr", {"scale": (2, 3, 4, 5)}),
    "masked": ("denoise_15", NOISE | {"strength": (2,), "variance": (0.024,), "density": (0.002,), "rays": (64,)}),
    "nafnet": ("camera_noise", {"electrons": (500, 2000)}),
    "nafnet_baseline": ("camera_noise_baseline", {"electrons": (500, 2000)}),
    "nafnet_gopro": ("deblur", {"length": (12,)}),
    "photo": ("photo", {"sigma": (5, 10, 20), "electrons": (500, 2000)}),
    "pixel_purifiers": ("denoise_50", AT_50),
    "restormer_data": ("denoise_50", AT_50),
    "snucv": ("denoise_50", AT_50),
    "sr2": ("sr2", {"scale": (2,)}),
    "srcb": ("denoise_50", AT_50),
    "tcler": ("denoise_50", AT_50),
}
CLEAN = skimage.data.chelsea()[100:180, 150:250]


@pytest.mark.parametrize("name", names(RECIPES))
def test_a_recipe_is_measured_on_its_task_and_has_its_product(name):
    """The section `evaluate` that it gives says what is measured, the section `package` what the product is called."""
    sections = resolve(name, "demo", RECIPES)
    measured = EvaluateSettings(seed=1, threads=1, **sections["evaluate"]).measured()
    product, levels = EXPECTED[name]
    assert sections["package"] == {"product": product}
    assert {degradation.parameter.replace("beta", "haze"): chosen for degradation, chosen in measured} == levels


def test_unseen_noise_is_measured_under_each_of_its_protocols():
    """The graph's evaluation of a masked denoiser has every noise of the paper."""
    measured = EvaluateSettings(seed=1, threads=1, **resolve("masked", "demo", RECIPES)["evaluate"]).measured()
    firsts = [degradation.protocols[0] for degradation, _ in measured]
    assert firsts == ["clipped", "poisson", "speckle", "salt-and-pepper", "rendering", "correlated", "mixture"]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_can_be_measured(name):
    """Its protocols vary its parameters; the product's inputs are 8-bit files, worse than the photograph, and the worse
    the stronger; the first system is the input."""
    task = TASKS[name]
    for degradation in task.degradations:
        assert {protocol_of(protocol).parameter for protocol in degradation.protocols} == {degradation.parameter}
        protocol, errors = degradation.protocols[0], {}
        assert replace(degradation_of(protocol), trained=degradation.trained) == degradation or name == "all-in-one"
        for level in degradation.levels:
            degraded, clean = degraded_photograph(CLEAN, "00ff", level, protocol, 3)
            assert np.abs(degraded * 255 - to_8_bit(degraded)).max() < 1e-3
            errors[level] = np.square(degraded - clean / np.float32(255)).mean()
        assert min(errors.values()) > 0
        assert max(errors, key=errors.__getitem__) == degradation.strongest(errors)
    settings = EvaluateSettings(seed=3, threads=1, task=name)
    runs = list(evaluate_held_out({"00ff": CLEAN}, {}, settings, Inference(tile=64, halo=8, overlap=4)))
    assert {row[0].protocol for row, _ in runs} == {p for each in task.degradations for p in each.protocols}
    assert {row[0].system for row, _ in runs} == {task.input} <= set(INPUTS)
    assert {score.system for row, _ in runs for score in row} == {task.input} | (
        {"blur", "nlm"} if task.baseline == "nlm" else set()
    )


def test_the_literature_measures_enlargement_and_rain_on_luma():
    """Without a border of the scale, and without one; all else on RGB."""
    on_luma = {name for name in ("clipped", "jpeg", "sr", "rain", "haze", "motion-blur") if protocol_of(name).luma}
    assert on_luma == {"sr", "rain"}
    assert [protocol_of("sr").border_at(scale) for scale in (2, 4)] == [2, 4]
    assert protocol_of("rain").border_at(4) == 0


def test_a_model_that_takes_another_kind_of_level_restores_at_its_default():
    """Given a quality where it is measured on JPEG, its default where it is measured on noise."""
    import torch

    from relume.serving.levels import LevelRange

    class Answers(torch.nn.Module):
        def forward(self, image, level):
            return torch.ones_like(image) * (level / 255).view(-1, 1, 1, 1)

    levels = LevelRange(kind="quality", lowest=10, highest=80, default=40)
    plan = Inference(tile=64, halo=8, overlap=4)
    for task, chosen, answer in (("dejpeg", {"quality": (20,)}, 20), ("denoise", {"sigma": (25,)}, 40)):
        settings = EvaluateSettings(seed=3, threads=1, task=task, levels=chosen)
        runs = evaluate_held_out({"00ff": CLEAN}, {"final": Answers()}, settings, plan, levels=levels)
        assert all(np.unique(images["final"]).tolist() == [answer] for _, images in runs)


def test_the_table_of_the_documentation_is_this_one():
    """A row for each task with its product, its protocols and its levels."""
    text = (RECIPES.parent / "docs" / "evaluation.md").read_text()
    rows = {row.split("`")[1]: row for row in text.splitlines() if row.startswith("| `") and row.count("|") == 6}
    assert list(rows) == list(TASKS)
    for name, task in TASKS.items():
        assert rows[name].split("`")[3] == task.product
        assert ("non-local means" in rows[name]) == (task.baseline == "nlm")
        for degradation in task.degradations:
            assert all(f"`{protocol}`" in rows[name] for protocol in degradation.protocols)
            levels = ", ".join(f"{level:g}" for level in degradation.levels)
            assert name == "all-in-one" or f"{degradation.parameter} {levels}" in rows[name]
