"""What the check of a recipe finds, and how it tells it."""

import shutil
from pathlib import Path

import pytest

import relume
from relume.params import load_params
from relume.params_file import PARAMS, RECIPE
from relume.recipes.check import check, check_params, render
from relume.recipes.recipe import load
from tests.editing import edit

ROOT = Path(relume.__file__).parents[1]
FOLDER = ROOT / "recipes"
LEVELED = "{steps: [{kind: gaussian_noise, sigma: [0, 50]}], level: sigma}"


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        (
            "nafnet",
            "patch: 48",
            "patch: 50",
            "phases[0].patch: 50 (patch 50 is not a multiple of 4, as the network needs)",
        ),
        (
            "nafnet",
            "patch: 48",
            "patch: 256",
            "phases[0].patch: 256 (curate.patch is 128)",
        ),
        (
            "nafnet",
            "  demo:\n",
            "  demo:\n    training: {processes: 3}\n",
            "phases[0].batch: 8 (there are 3 processes, and each accumulates gradients over 1 parts)",
        ),
        ("nafnet", "width: 8,", "width: 8, depth: 2,", "nafnet cannot be built or run: The arguments do not fit"),
        ("nafnet", "warmup: 20", "warmup: 300", "optimizer.warmup: 300 (it has 300 steps)"),
        ("nafnet", "loss: psnr", "loss: psnrr", "pretrain.bases.nafnet.loss.psnrr is unknown; did you mean psnr?"),
        ("nafnet", "architecture: nafnet", "architecture: nafnett", "The architecture is unknown"),
        (
            "nafnet",
            "  demo:\n",
            "  demo:\n    curate: {seed: 1}\n",
            "curate: recipes may set only the keys of defaults.yaml, which lacks seed",
        ),
        (
            "nafnet",
            "  demo:\n",
            "  demo:\n    inference: {tile: 190}\n",
            "inference: tile 190 is not a multiple of 4, as the network needs",
        ),
        ("nafnet", "  demo:\n", "  demo:\n    inference: {overlap: 160}\n", "nothing is left of a tile of 192"),
        (
            "nafnet",
            "  demo:\n",
            "  demo:\n    inference: {tile: 512}\n",
            "inference: tile 512 is larger than a held-out photograph, whose curate.held_out_side is 400",
        ),
        ("nafnet", "      nafnet:\n", "      a b:\n", "pretrain.bases.a b: the name becomes a folder and a stage"),
        ("srcb", "detail.*", "details.*", "phases[3].train: 'details.*'"),
        (
            "ensemble",
            "patch: 64, batch: 4}",
            "patch: 64, batch: 4, train: ['bases.*']}",
            "ensemble_head: A `train` pattern matches no trainable parameter: phases[0].train: 'bases.*'",
        ),
        (
            "snucv",
            "phases: [{steps: 60, patch: 32, batch: 4}]",
            "phases: [{steps: 60, patch: 32, batch: 4, train: ['members.*']}]",
            "ensemble_head: A `train` pattern matches no trainable parameter: phases[0].train: 'members.*'",
        ),
        ("buptmm", "[0.5, 0.5]", "[0.5, 0.3, 0.2]", "3 weights for 2 bases"),
        ("buptmm", "architecture: weighted_average", "architecture: snucv", "snucv needs one base each of mambairv2"),
        (
            "buptmm",
            "architecture: weighted_average",
            "architecture: average",
            "The architecture is not a fusion of base models",
        ),
        (
            "buptmm",
            "fusion: {architecture",
            "fusion: null\n    method: {kind: plain} # {architecture",
            "Several base models need a fusion: pretrain.bases: hat, restormer",
        ),
        (
            "hypernet_sr",
            ", level: scale",
            "",
            "degradation.level: None (the network is adjustable and must be given a level)",
        ),
        (
            "hypernet_denoise",
            "sigma: [75, 75], clipped: 1.0}], level: sigma",
            "sigma: [75, 75], clipped: 1.0}]",
            "mine_hard: Network and degradation do not agree on a level: degradation.level: None",
        ),
        (
            "buptmm",
            "detail: hat}",
            "detail: hatt}",
            "inference: fusion takes hatt and restormer, which are not the base models",
        ),
        (
            "snucv",
            "inference: {orientations: 8}",
            "inference: {orientations: 8, fusion: {smooth: xformer, detail: restormer}}",
            "inference: fusion is set, but the final model is no weighted average",
        ),
        (
            "snucv",
            "inference: {orientations: 8}",
            "inference: {passes: 4, scale: 2}",
            "inference: passes is set, but the network has no masks outside of training",
        ),
        (
            "snucv",
            "inference: {orientations: 8}",
            "inference: {passes: 4, scale: 2}",
            "inference: scale is 2, but that of the network is 1",
        ),
        (
            "tcler",
            "halo: 0, overlap: 12}, promptir: null}}",
            "halo: 0, overlap: 12}, prompt: null}}",
            "inference: members takes mambairv2 and prompt, which are not the base models",
        ),
        (
            "hypernet_denoise",
            "  inference: {estimator: level}\n",
            "",
            "inference: estimator is None, but the base models that estimate a level are: level",
        ),
        (
            "nafnet",
            "common:\n",
            "common:\n  inference: {estimator: nafnet}\n",
            "inference: estimator is set, but the network takes no level",
        ),
        (
            "nafnet",
            "common:\n",
            "common:\n  mine_hard: {degradation: {level: sigma}}\n",
            "degradation.level: sigma (the network takes no level)",
        ),
        (
            "hypernet_sr",
            "level: scale}\n  pretrain:",
            "level: scale}\n    augmentation: {mixup: 0.5}\n  pretrain:",
            "phases[0], mixup: 0.5, level: scale (augmentation.mixup mixes two degradations",
        ),
        (
            "hypernet_sr",
            "patch: 48, batch: 4}",
            "patch: 48, batch: 4, augmentation: {mixup: 0.5}}",
            "phases[0], mixup: 0.5, level: scale (augmentation.mixup mixes two degradations",
        ),
        (
            "nafnet",
            "steps: 300, patch: 48, batch: 8}]\n",
            f"steps: 300, patch: 48, batch: 8, degradation: {LEVELED}}}]\n"
            "    training: {augmentation: {mixup: 0.5}}\n",
            "level: sigma (augmentation.mixup mixes two degradations, but degradation.level is a number of only one)",
        ),
        (
            "hypernet_sr",
            "architecture: hyperres",
            "architecture: adafm",
            "every_level needs a network that runs several levels at once",
        ),
        ("dynet", "architecture: dynet", "architecture: hyperres", "cannot be built or run: The arguments do not fit"),
        (
            "alwaysu",
            "architecture: restormer",
            "architecture: dncnn",
            "cannot be built or run: The arguments do not fit",
        ),
        (
            "pixel_purifiers",
            "periods: [100, 100]",
            "periods: [250, 100]",
            "periods: [250, 100] (it has 220 steps)",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, name, old, new, problem):
    """Each mistake in a recipe is a line that says where and what."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / f"{name}.yaml", old, new)
    assert [found for found in check(name, "demo", tmp_path).problems if problem in found]


def test_a_sheet_tells_what_is_open():
    """Source, ambiguities with default and alternatives, and the steps of each scale."""
    text = render(load("dynet", FOLDER), [check("dynet", "demo", FOLDER)])
    assert "arXiv 2404.02154" in text
    assert "open: choice of the network in each step\n      here: even\n      or:   pretrain.bases.dynet.method" in text
    assert "demo  pretrain@dynet" in text
    plan = "tiles of 192 pixels, halo 16, overlap 8 (linear)"
    assert f"demo  restores in {plan}; 43 runs a megapixel" in text


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "phases: [{steps: 120, patch: 96, batch: 3}]",
            "phases: [{steps: 120, patch: 100, batch: 3}]",
            "finetune_hard: The crops of a phase do not fit the network: phases[0].patch: 100",
        ),
        (
            "phases: [{steps: 120, patch: 96, batch: 3}]",
            "phases: [{steps: 120, patch: 96, batch: 3, train: ['biases.*']}]",
            "finetune_hard: A `train` pattern matches no trainable parameter: phases[0].train: 'biases.*'",
        ),
        ("warmup: 10,", "warmup: 120,", "finetune_hard: A schedule is longer than its training: optimizer.warmup: 120"),
        (
            "fusion: {architecture: ensemble, arguments: {head: {width: 16, blocks: 2}}}",
            "fusion: null",
            "ensemble_head: ",
        ),
        ("tile: 192", "tile: 188", "inference: tile 188 is not a multiple of 8, as the network needs"),
    ],
)
def test_what_was_edited_by_hand_is_checked_as_a_recipe_is(tmp_path, old, new, problem):
    """The recipe in use, with mistakes that would end a stage after those before it had trained for hours."""
    for name in (PARAMS, RECIPE):
        shutil.copy(ROOT / name, tmp_path)
    assert check_params(load_params(tmp_path)).problems == []
    edit(tmp_path / RECIPE, old, new)
    *_, found = check_params(load_params(tmp_path)).problems
    assert found.startswith(problem)
