"""The recipes of this repository, and how they are resolved into params.yaml."""

import functools
import itertools
import shutil
from pathlib import Path

import pytest
import yaml

import relume
from relume.errors import ConfigError
from relume.params import UsedRecipe, load_params
from relume.params_file import PARAMS, RECIPE
from relume.recipes.check import check, render
from relume.recipes.recipe import SCALES, find, load, merged, names, resolve, use

ROOT = Path(relume.__file__).parents[1]
FOLDER = ROOT / "recipes"
NAMES = names(FOLDER)
checked = functools.cache(lambda name, scale: check(name, scale, FOLDER))


def published(name):
    """The sections at full scale, the only base's settings, and its phases as columns."""
    sections = resolve(name, "full", FOLDER)
    (base,) = sections["pretrain"]["bases"].values()
    return sections, base, columns(base["phases"])


def columns(phases):
    """Steps, patches and batches of phases."""
    return tuple([phase[key] for phase in phases] for key in ("steps", "patch", "batch"))


def sizes(name):
    """Parameters by stage at full scale, and those that the stage trains."""
    return {size.stage: (size.parameters, size.trained) for size in checked(name, "full").sizes}


def test_there_is_one_for_each_published_system():
    """The challenge's seven, masked training, DyNet, hypernetworks, NAFNet, one for all tasks, ours, and references."""
    challenge = {"srcb", "snucv", "buptmm", "hmidenoise", "pixel_purifiers", "alwaysu", "tcler"}
    hypernet = {"hypernet_denoise", "hypernet_dejpeg", "hypernet_sr"}
    reference = {"photo", "denoise", "denoise_adjustable", "dejpeg"}
    assert set(NAMES) == challenge | hypernet | reference | {"nafnet", "masked", "dynet", "all_in_one", "ensemble"}
    assert {recipe.name for recipe in find(["hypernet"], FOLDER)} == hypernet
    assert {recipe.name for recipe in find(["reference"], FOLDER)} == reference


@pytest.mark.parametrize("name", NAMES)
def test_every_scale_checks(name):
    """Settings are valid, networks can be built and fed, crops fit them, and the stages fit together."""
    for scale in SCALES:
        report = checked(name, scale)
        assert report.problems == []
        assert report.sizes


@pytest.mark.parametrize("name", NAMES)
def test_full_is_the_largest_and_demo_the_smallest(name):
    """Every base sees more crops at each larger scale."""
    seen = []
    for scale in SCALES:
        bases = resolve(name, scale, FOLDER)["pretrain"]["bases"]
        seen.append([sum(p["steps"] * p["batch"] for p in base["phases"]) for base in bases.values()])
    for smaller, larger in itertools.pairwise(seen):
        assert all(few < many for few, many in zip(smaller, larger, strict=True)), seen


def test_nafnet_is_as_published():
    """Width 64: 400,000 steps of 64 crops of 256, AdamW 1e-3 with betas 0.9 to 1e-7, PSNR loss, no flips on SIDD."""
    sections, base, phases = published("nafnet")
    assert phases == ([400_000], [256], [64])
    blocks = {"encoder_blocks": [2, 2, 4, 8], "middle_blocks": 12, "decoder_blocks": [2, 2, 2, 2]}
    assert base["arguments"] == {"width": 64} | blocks
    wanted = {"kind": "adamw", "lr": 1e-3, "min_lr": 1e-7, "betas": [0.9, 0.9], "weight_decay": 0.0, "clip": 0.01}
    assert base["optimizer"].items() >= wanted.items()
    assert base["loss"] == "psnr"
    assert sections["training"]["augmentation"] == {"flips": False}
    assert sizes("nafnet") == {"pretrain@nafnet": (115_982_915, 115_982_915)}


RESTORMER = ([92_000, 64_000, 48_000, 36_000, 36_000, 24_000], [128, 160, 192, 256, 320, 384])


def restormer_rates(base):
    """Constant at 3e-4 in the first phase, then a cosine to 1e-6 over the others."""
    first, *others = base["phases"]
    assert first["schedule"] == {"lr": 3e-4, "shape": "constant"}
    assert not any("schedule" in phase for phase in others)
    assert base["optimizer"].items() >= {"lr": 3e-4, "min_lr": 1e-6, "weight_decay": 1e-4, "clip": 0.01}.items()
    assert base["optimizer"].get("shape", "cosine") == "cosine"


def test_snucv_is_as_published():
    """Restormer's list of patches and batches, MambaIRv2's own, and a sum of three losses for the ensemble."""
    sections = resolve("snucv", "full", FOLDER)
    bases, head = sections["pretrain"]["bases"], sections["ensemble_head"]
    for part in (bases["xformer"], bases["restormer"], head):
        assert columns(part["phases"]) == (*RESTORMER, [8, 5, 4, 2, 1, 1])
        restormer_rates(part)
    assert columns(bases["mambairv2"]["phases"])[1:] == ([128, 160], [2, 1])
    assert sum(phase["steps"] for phase in bases["mambairv2"]["phases"]) == 300_000
    assert {base["loss"] for base in bases.values()} == {"l1"}
    assert set(head["loss"]) == {"l1", "mse", "high_frequency"}
    assert head["fusion"]["architecture"] == "snucv"


def test_snucv_has_the_published_networks():
    """Parameter counts of the papers' networks; the ensemble trains its head alone."""
    found = sizes("snucv")
    members = {"mambairv2": 22_657_971, "xformer": 25_228_078, "restormer": 26_111_668}
    assert {name: found[f"pretrain@{name}"][0] for name in members} == members
    everything, head = found["ensemble_head"]
    assert everything - head == sum(members.values())


def test_srcb_is_as_published():
    """Sides of 256, 448 and 768; all at 1e-4, the detail network at 1e-5, all at 1e-6, in 360, 240 and 120 hours."""
    sections, base, (steps, patches, _) = published("srcb")
    assert patches == [256, 448, 768, 768]
    *first, second = base["phases"]
    assert base["optimizer"]["lr"] == 1e-4
    assert [phase.get("train") for phase in first] == [None, None, None]
    assert (second["train"], second["schedule"]["lr"]) == (["detail.*"], 1e-5)
    third = sections["finetune_hard"]
    assert third["optimizer"]["lr"] == 1e-6
    assert sum(steps[:3]) / 360 == steps[3] / 240 == third["phases"][0]["steps"] / 120
    assert set(base["loss"]) == {"l1", "mse", "wavelet"}


def test_buptmm_is_as_published():
    """Restormer from 128 to 384 by its own schedule, HAT from 64 to 224, and their mean."""
    sections = resolve("buptmm", "full", FOLDER)
    bases = sections["pretrain"]["bases"]
    assert columns(bases["restormer"]["phases"]) == (*RESTORMER, [64, 40, 32, 16, 8, 8])
    restormer_rates(bases["restormer"])
    assert bases["restormer"]["architecture"] == "restormer_local"
    assert columns(bases["hat"]["phases"])[1] == [64, 128, 224]
    assert sections["ensemble_head"]["fusion"] == {
        "architecture": "weighted_average",
        "arguments": {"weights": [0.5, 0.5]},
    }
    assert {stage: counts[0] for stage, counts in sizes("buptmm").items()} == {
        "pretrain@restormer": 26_111_668,
        "pretrain@hat": 20_477_083,
    }


def test_hmidenoise_is_as_published():
    """64 with 16 crops, 128, 224 with one; 4e-4 and L2, then 5e-5 with SSIM."""
    _, base, (_, patches, batches) = published("hmidenoise")
    assert (patches, batches[0], batches[2]) == ([64, 128, 224, 224], 16, 1)
    assert (base["optimizer"]["lr"], base["loss"]) == (4e-4, "mse")
    assert base["phases"][-1]["schedule"]["lr"] == 5e-5
    assert set(base["phases"][-1]["loss"]) == {"mse", "ssim"}


def test_pixel_purifiers_is_as_published():
    """Restormer at 256, L1, restarts from 1e-4; hard patches at a hundredth of it; tiles of 256 that overlap by 50."""
    sections, base, (_, patches, _) = published("pixel_purifiers")
    assert (patches, base["loss"]) == ([256], "l1")
    assert (base["optimizer"]["lr"], base["optimizer"]["shape"]) == (1e-4, "restarts")
    assert sections["finetune_hard"]["optimizer"]["lr"] == pytest.approx(1e-4 / 100)
    assert sections["mine_hard"]["fraction"] < 1
    assert (sections["evaluate"]["tile"], 2 * sections["evaluate"]["halo"]) == (256, 50)
    assert sections["training"]["processes"] == 8
    assert sizes("pixel_purifiers")["pretrain@restormer"][0] == 26_111_668


def test_alwaysu_is_as_published():
    """Biases alone, 139,779 of them, from 3e-4 to 1e-6 in 200,000 steps of two crops of 256, on clipped noise."""
    sections, base, phases = published("alwaysu")
    assert phases == (*RESTORMER, [64, 40, 32, 16, 8, 8])
    restormer_rates(base)
    for phase in base["phases"]:
        assert phase["degradation"]["steps"][0]["clipped"] == 0.0
    tuning = sections["finetune_hard"]
    assert columns(tuning["phases"]) == ([200_000], [256], [2])
    assert (tuning["adapt"], tuning["loss"]) == ("biases", "psnr")
    assert (tuning["optimizer"]["lr"], tuning["optimizer"]["min_lr"], tuning["optimizer"]["weight_decay"]) == (
        3e-4,
        1e-6,
        0,
    )
    assert sections["training"]["degradation"] == {
        "steps": [{"kind": "gaussian_noise", "sigma": [50, 50], "clipped": 1.0}]
    }
    assert (sections["evaluate"]["tile"], 2 * sections["evaluate"]["halo"]) == (256, 16)
    assert sizes("alwaysu")["finetune_hard"] == (26_251_447, 139_779)


def test_tcler_is_as_published():
    """Sides of 64 and 112, Adam with restarts from 1e-4, 0.8 Charbonnier, 0.2 gradient-weighted L1, half and half."""
    sections = resolve("tcler", "full", FOLDER)
    for base in sections["pretrain"]["bases"].values():
        assert columns(base["phases"])[1] == [64, 112]
        assert base["loss"] == {"charbonnier": 0.8, "gradient_l1": 0.2}
        assert base["optimizer"].items() >= {"kind": "adam", "lr": 1e-4, "shape": "restarts"}.items()
        assert base["arguments"] == {}
    assert set(sections["pretrain"]["bases"]) == {"promptir", "mambairv2"}
    assert sections["ensemble_head"]["fusion"]["arguments"]["weights"] == [0.5, 0.5]
    assert sections["training"]["augmentation"]["usm"] > 0
    assert (sections["evaluate"]["tile"], 2 * sections["evaluate"]["halo"]) == (192, 32)


def test_masked_is_as_published():
    """Crops of 64, 64 a step, Adam 1e-4, EMA 0.999, the five milestones, L1, clipped noise of sigma 15."""
    sections, base, (_, patches, batches) = published("masked")
    assert (patches, batches, base["loss"]) == ([64], [64], "l1")
    assert base["optimizer"].items() >= {"kind": "adam", "lr": 1e-4, "ema": 0.999}.items()
    assert base["optimizer"]["milestones"] == [150_000, 200_000, 300_000, 350_000, 400_000]
    assert sections["training"]["degradation"]["steps"] == [
        {"kind": "gaussian_noise", "sigma": [15, 15], "clipped": 1.0}
    ]
    assert sizes("masked") == {"pretrain@masked": (824_118, 824_118)}


def test_dynet_is_as_published():
    """A million steps of 32 crops of 128, half degraded and 30 % masked, either network; then 120 epochs at 2e-4."""
    sections, base, phases = published("dynet")
    assert phases == ([1_000_000], [128], [32])
    assert base["method"] == {"kind": "alternate_reuse", "reuse": [[4, 6, 6, 8], [2, 3, 3, 4]]}
    (areas,) = base["phases"][0]["degradation"]["steps"]
    assert (areas["kind"], areas["degraded"], areas["masked"]) == ("degraded_areas", 0.5, 0.3)
    assert (base["optimizer"]["kind"], base["optimizer"]["lr"]) == ("adam", 1e-4)
    curate = sections["curate"]
    assert (curate["patch"], curate["stride"], curate["max_flat_fraction"]) == (512, 512, 0.5)
    tuning = sections["finetune_hard"]
    assert (tuning["optimizer"]["kind"], tuning["optimizer"]["lr"]) == ("adamw", 2e-4)
    samples = 3 * 3 * 5144 + 200 * 120 + 72_135  # noise, rain, haze
    assert tuning["phases"][0]["steps"] == 120 * round(samples / 32)
    assert sum(sections["training"]["degradation"]["steps"][0]["weights"]) == samples
    assert sizes("dynet")["finetune_hard"][0] == 16_726_031


def test_all_in_one_is_promptirs_schedule():
    """120 epochs of 32 crops of 128 on four GPUs, 15 epochs of warm-up to 2e-4, five tasks."""
    sections, base, (steps, patches, batches) = published("all_in_one")
    assert (patches, batches, sections["training"]["processes"]) == ([128], [32], 4)
    assert steps[0] / base["optimizer"]["warmup"] == 120 / 15
    assert (base["optimizer"]["lr"], base["loss"]) == (2e-4, "l1")
    kinds = [[step["kind"] for step in steps] for steps in sections["training"]["degradation"]["steps"][0]["of"]]
    assert kinds == [["gaussian_noise"], ["rain"], ["haze"], ["jpeg"], ["one_of"]]
    assert sizes("all_in_one")["pretrain@promptir"][0] == 35_592_263


@pytest.mark.parametrize(
    ("name", "levels", "level", "parameters"),
    [
        ("hypernet_denoise", [15, 35, 55, 75], "sigma", 815_939),
        ("hypernet_dejpeg", [10, 30, 50, 80], "quality", 372_803),
        ("hypernet_sr", [2, 3, 4, 5], "scale", 520_515),
    ],
)
def test_the_hypernetwork_is_as_published(name, levels, level, parameters):
    """Four levels in every step, a million steps of 16 crops of 96, Adam 1e-4, a tenth of it from half on."""
    sections, base, phases = published(name)
    assert phases == ([1_000_000], [96], [16])
    assert base["method"] == {"kind": "every_level", "levels": levels, "reduction": "sum"}
    assert base["optimizer"].items() >= {"kind": "adam", "lr": 1e-4, "milestones": [500_000], "gamma": 0.1}.items()
    assert sections["training"]["degradation"]["level"] == level
    assert sizes(name) == {"pretrain@hyperres": (parameters, parameters)}


def test_the_tracked_recipe_is_the_one_that_it_names(root):
    """recipe.yaml is what `relume recipes use` writes, byte for byte: at first ours, at demo scale."""
    used = load_params(ROOT).recipe
    use(used.name, used.scale, root, FOLDER)
    assert (root / RECIPE).read_bytes() == (ROOT / RECIPE).read_bytes()


def test_an_editor_finds_the_schema_of_both_files(root):
    """Their first line names it, relative to the file, as editors' YAML servers read it."""
    use("ensemble", "demo", root, FOLDER)
    first = [(root / name).read_text().splitlines()[0] for name in (PARAMS, RECIPE)]
    assert first == ["# yaml-language-server: $schema=docs/params.schema.json"] * 2
    assert (ROOT / first[0].partition("=")[2]).is_file()


def test_merging_replaces_all_but_mappings():
    """Mappings are merged at any depth; lists, numbers and null are replaced."""
    under = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}, "f": 2}
    over = {"a": {"c": [3]}, "d": None, "f": {"g": 1}}
    assert merged(under, over) == {"a": {"b": 1, "c": [3]}, "d": None, "f": {"g": 1}}


def test_a_layer_goes_over_the_one_before(tmp_path):
    """What all recipes share, that at the scale, the recipe, the recipe at the scale: the last to speak wins."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    assert resolve("nafnet", "gpu", tmp_path)["training"]["precision"] == "bf16-mixed"  # defaults, gpu
    edit(tmp_path / "nafnet.yaml", "    augmentation:", "    precision: 16-mixed\n    augmentation:")
    assert resolve("nafnet", "gpu", tmp_path)["training"]["precision"] == "16-mixed"
    edit(tmp_path / "nafnet.yaml", "  gpu:\n", "  gpu:\n    training: {precision: 32-true}\n")
    assert resolve("nafnet", "gpu", tmp_path)["training"]["precision"] == "32-true"
    assert resolve("nafnet", "full", tmp_path)["training"]["precision"] == "16-mixed"


@pytest.fixture
def root(tmp_path):
    """A folder with the user's parameters of this checkout."""
    shutil.copy(ROOT / PARAMS, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_use_writes_what_a_recipe_gives_and_nothing_of_another(root, name):
    """recipe.yaml is the same whatever was used before, params.yaml keeps its bytes, and both together are sound."""
    before = (root / PARAMS).read_bytes()
    use("snucv", "full", root, FOLDER)
    for scale in SCALES:
        use(name, scale, root, FOLDER)
        written = yaml.safe_load((root / RECIPE).read_text())
        assert written == {"recipe": {"name": name, "scale": scale}} | resolve(name, scale, FOLDER)
        assert load_params(root).recipe == UsedRecipe(name=name, scale=scale)
    assert (root / PARAMS).read_bytes() == before


def test_use_tells_what_changed(root):
    """A line for each value, and none when the same recipe is used again."""
    use("ensemble", "demo", root, FOLDER)
    changes = use("srcb", "full", root, FOLDER)
    assert "curate.patch  128 -> 768" in changes
    assert use("srcb", "full", root, FOLDER) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {seed: 8}\n", r"training\.seed\n  why:  params\.yaml, line \d+ and recipe\.yaml, line \d+"),
        ("releases: {}\n", "releases is unknown; did you mean release"),
        ("release: {}\n", "the key release stands twice"),
    ],
)
def test_a_recipe_that_the_parameters_refuse_is_not_used(root, text, said):
    """A key of the recipe in params.yaml, or a mistake there: recipe.yaml stays as it was."""
    use("ensemble", "demo", root, FOLDER)
    before = (root / RECIPE).read_bytes()
    with open(root / PARAMS, "a") as file:
        file.write(text)
    with pytest.raises(ConfigError, match=said):
        use("srcb", "full", root, FOLDER)
    assert (root / RECIPE).read_bytes() == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: load("snuvc", FOLDER), r"Unknown recipe: snuvc(.|\n)*did you mean snucv(.|\n)*pixel_purifiers"),
        (lambda: find(["hypernett"], FOLDER), r"did you mean hypernet"),
        (
            lambda: resolve("nafnet", "gpus", FOLDER),
            r"Unknown scale: gpus(.|\n)*did you mean gpu\?(.|\n)*demo, cpu, gpu, full",
        ),
        (lambda: names(Path("nowhere")), r"No recipes: nowhere(.|\n)*go to the top"),
    ],
)
def test_an_unknown_name_is_told_with_near_ones(call, said):
    """The message names what was meant, and what there is."""
    with pytest.raises(ConfigError, match=said):
        call()


LEVELED = "{steps: [{kind: gaussian_noise, sigma: [0, 50]}], level: sigma}"


def edit(path, old, new):
    """Replaces text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("nafnet", "patch: 48", "patch: 50", "phases[0].patch: 50 (patch 50 is no multiple of the network's 4)"),
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
            "phases[0].batch: 8 (3 processes, each in 1 parts)",
        ),
        ("nafnet", "width: 8,", "width: 8, depth: 2,", "nafnet cannot be built or run: Wrong arguments"),
        ("nafnet", "warmup: 20", "warmup: 300", "optimizer.warmup: 300 (it has 300 steps)"),
        ("nafnet", "loss: psnr", "loss: psnrr", "pretrain.bases.nafnet.loss.psnrr is unknown; did you mean psnr?"),
        ("nafnet", "architecture: nafnet", "architecture: nafnett", "Unknown architecture"),
        ("nafnet", "  demo:\n", "  demo:\n    curate: {seed: 1}\n", "curate: defaults.yaml does not give seed"),
        (
            "nafnet",
            "  demo:\n",
            "  demo:\n    export: {tile: 190}\n",
            "export: tile 190 is no multiple of the network's 4",
        ),
        ("nafnet", "  demo:\n", "  demo:\n    evaluate: {halo: 96}\n", "nothing is left of a tile of 192"),
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
            "Not a fusion of base models",
        ),
        (
            "buptmm",
            "fusion: {architecture",
            "fusion: null\n    method: {kind: plain} # {architecture",
            "Several base models and no fusion: pretrain.bases: hat, restormer",
        ),
        ("hypernet_sr", ", level: scale", "", "degradation.level: None (an adjustable network must be given a level)"),
        (
            "hypernet_denoise",
            "sigma: [75, 75], clipped: 1.0}], level: sigma",
            "sigma: [75, 75], clipped: 1.0}]",
            "mine_hard: Network and degradation do not agree on a level: degradation.level: None",
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
            "level: sigma (augmentation.mixup mixes two degradations, and degradation.level names a number of one)",
        ),
        (
            "hypernet_sr",
            "architecture: hyperres",
            "architecture: adafm",
            "every_level needs a network that runs several levels at once",
        ),
        ("dynet", "architecture: dynet", "architecture: hyperres", "cannot be built or run: Wrong arguments"),
        ("alwaysu", "architecture: restormer", "architecture: dncnn", "cannot be built or run: Wrong arguments"),
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


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  full:", "  fully:", "scales"),
        ("task: denoise", "task: denoising", "task"),
        ("common:", "commons:", "common"),
        ("  pretrain:\n", "  pretraining:\n", "pretraining"),
        ("- topic: noise", "- topic: noise: x", "Not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, old, new, said):
    """A missing scale, an unknown key, section or task is an error that names the file and the key."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    edit(tmp_path / "nafnet.yaml", old, new)
    with pytest.raises(ConfigError, match=r"nafnet\.yaml") as error:
        load("nafnet", tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["nafnet", "defaults"])
@pytest.mark.parametrize("text", ["", "# nothing yet\n", "- a list\n", "a text\n"])
def test_a_file_without_keys_is_refused(tmp_path, name, text):
    """An empty file, a list or a text is no recipe, nor are they what recipes share."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(
        ConfigError,
        match=rf"Not (a recipe|valid YAML): .*{name}\.yaml(, line 1)?\n  why:  it has no keys\n  next: (correct|write)",
    ):
        check("nafnet", "demo", tmp_path)


@pytest.mark.parametrize(
    ("file", "sections", "said"),
    [
        ("nafnet", {"training": {}}, "pretrain"),
        ("nafnet", {"training": {}, "pretrain": {}}, r"pretrain\.bases"),
        ("nafnet", {"training": {}, "pretrain": {"bases": None}}, r"pretrain\.bases"),
        ("defaults", {"curate": {}, "evaluate": {}}, "export, ensemble_head, mine_hard, finetune_hard"),
    ],
)
def test_a_recipe_that_lacks_a_section_is_refused(tmp_path, file, sections, said):
    """The message names the file, the scale and what nobody gives."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    value = yaml.safe_load((tmp_path / f"{file}.yaml").read_text())
    value |= {"common": sections, "scales": {scale: {} for scale in SCALES}}
    (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(ConfigError, match=rf"nafnet\.yaml at gpu\n  why: .* gives {said}\n  next: add it to"):
        check("nafnet", "gpu", tmp_path)


def test_a_sheet_tells_what_is_open():
    """Source, ambiguities with default and alternatives, and the steps of each scale."""
    text = render(load("dynet", FOLDER), [checked("dynet", "demo")])
    assert "arXiv 2404.02154" in text
    assert "open: choice of the network in each step\n      here: even\n      or:   pretrain.bases.dynet.method" in text
    assert "demo  pretrain@dynet" in text
