"""The recipes of this repository: each checks at every scale, and has the numbers of its publication."""

import functools
import itertools
from pathlib import Path

import pytest

import relume
from relume.inference.plan import Inference
from relume.inference.tiling import cover_axis
from relume.recipes.check import check
from relume.recipes.recipe import SCALES, find, names, resolve

FOLDER = Path(relume.__file__).parents[1] / "recipes"
NAMES = names(FOLDER)
DYNETS_TASKS = ("dynet_denoise", "dynet_derain", "dynet_dehaze", "dynet_noise_rain", "dynet_five")
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
    """The challenge's seven, masked training, DyNet, NAFNet, hypernetworks and their peers, one for all tasks, ours."""
    challenge = {"srcb", "snucv", "buptmm", "hmidenoise", "pixel_purifiers", "alwaysu", "tcler"}
    hypernet = {"hypernet_denoise", "hypernet_dejpeg", "hypernet_sr"}
    reference = {"photo", "denoise", "denoise_adjustable", "dejpeg", "base"}
    peers = {"adafm_denoise", "cfsnet_denoise", "dni_denoise", "cresmd_denoise", "cresmd_blur_noise"}
    dynet = {"dynet", "dynet_small", *DYNETS_TASKS}
    others = {"nafnet", "nafnet_baseline", "nafnet_gopro", "masked", "all_in_one", "ensemble", "restormer_data", "sr2"}
    assert set(NAMES) == challenge | hypernet | reference | peers | dynet | others
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
    assert base["phases"][0]["data"] == {"sidd": 1}
    assert sizes("nafnet") == {"pretrain@nafnet": (115_982_915, 115_982_915)}


def test_nafnet_for_gopro_is_as_published():
    """Width 64: 400,000 steps of 64 crops of 256 from GoPro's pairs, weight decay 1e-3, flips, local statistics."""
    sections, base, phases = published("nafnet_gopro")
    assert phases == ([400_000], [256], [64])
    assert base["phases"][0]["data"] == {"gopro": 1}
    blocks = {"encoder_blocks": [1, 1, 1, 28], "middle_blocks": 1, "decoder_blocks": [1, 1, 1, 1]}
    assert base["arguments"] == {"width": 64, "train_size": 256} | blocks
    wanted = {"kind": "adamw", "lr": 1e-3, "min_lr": 1e-7, "betas": [0.9, 0.9], "weight_decay": 1e-3, "clip": 0.01}
    assert base["optimizer"].items() >= wanted.items()
    assert (base["loss"], sections["training"]["augmentation"]) == ("psnr", {"flips": True})
    assert sections["inference"]["tile"] > 1.5 * 256  # else local statistics would be those of the whole tile
    assert sizes("nafnet_gopro") == {"pretrain@nafnet": (67_888_835, 67_888_835)}


@pytest.mark.parametrize(("name", "parameters"), [("adafm", 1_461_699), ("cfsnet", 1_733_248), ("dni", 2 * 668_227)])
def test_peers_of_the_hypernetwork_train_in_two_stages(name, parameters):
    """16 crops of 96 at sigma 15, then at 75 what modulates: AdaFM's layers of 5x5, CFSNet's tuning branch, DNI's
    second network, which starts from the first."""
    _, base, (_, patches, batches) = published(f"{name}_denoise")
    first, second = base["phases"]
    assert (patches, batches, base["loss"]) == ([96, 96], [16, 16], "l1")
    assert "degradation" not in first
    assert second["degradation"]["steps"][0]["sigma"] == [75, 75]
    assert (
        second["train"]
        == {
            "adafm": ["*transformer*"],
            "cfsnet": ["tuning_blocks.*"],
            "dni": ["change.*"],
        }[name]
    )
    assert base["optimizer"].items() >= {"kind": "adam", "lr": 1e-4}.items()
    assert sizes(f"{name}_denoise")[f"pretrain@{name}"][0] == parameters


def test_cresmd_is_as_published():
    """A rate of 5e-4 and levels up to 50 by a beta distribution with shapes 0.5 and 1."""
    sections, base, _ = published("cresmd_denoise")
    (noise,) = sections["training"]["degradation"]["steps"]
    assert (noise["sigma"], noise["beta"], base["arguments"]["norms"]) == ([0, 50], [0.5, 1.0], [40, 50])
    assert base["optimizer"].items() >= {"kind": "adam", "lr": 5e-4}.items()
    assert sizes("cresmd_denoise")["pretrain@cresmd"][0] == 2_557_708


def test_cresmd_with_two_conditions_is_as_published():
    """Blur up to 4 pixels, on the network's scale of ten times that, and noise up to 50 are conditions of one each."""
    sections, base, _ = published("cresmd_blur_noise")
    degradation = sections["training"]["degradation"]
    blur, noise = degradation["steps"]
    assert (degradation["conditions"], base["arguments"]["norms"]) == (["blur", "sigma"], [40, 50])
    assert (10 * blur["sigma_x"][1], noise["sigma"][1]) == (40, 50)
    assert sizes("cresmd_blur_noise")["pretrain@cresmd"][0] == 2_557_708


def test_nafnets_baseline_is_as_published():
    """As NAFNet's for SIDD, with the network of 194 million parameters."""
    sections, base, phases = published("nafnet_baseline")
    assert phases == ([400_000], [256], [64])
    assert base["optimizer"] == published("nafnet")[1]["optimizer"]
    assert sections["training"]["augmentation"] == {"flips": False}
    assert sizes("nafnet_baseline") == {"pretrain@nafnet": (194_419_779, 194_419_779)}


def test_restormer_of_2026_trains_in_two_stages_on_several_sets():
    """Five public sets, then two, by Restormer's own schedule; eight orientations."""
    sections, base, phases = published("restormer_data")
    assert phases[:2] == RESTORMER
    restormer_rates(base)
    assert all(set(phase["data"]) == {"bsd400", "div2k", "flickr2k", "lsdir", "wed"} for phase in base["phases"])
    assert [set(phase["data"]) for phase in sections["finetune_hard"]["phases"]] == [{"div2k", "lsdir"}]
    assert sections["inference"]["orientations"] == 8
    assert sizes("restormer_data")["pretrain@restormer"][0] == 26_111_668


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
    assert [set(phase["data"]) for phase in first] == [{"own"}] * 3
    assert second["data"] == {"div2k": 1, "lsdir": 1}
    thousand = {"select": 1000}
    assert third["phases"][0]["data"] == {"div2k": 1, "lsdir": thousand, "own": thousand}
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


def tiles(sections):
    """Side, distance of neighbours, whose first pixels are measured where two tiles lie, and weight of the blend."""
    inference = Inference(**sections["inference"])
    first, second, *_ = cover_axis(2 * inference.tile, inference).starts
    return inference.tile, second - first, inference.weight


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("recipe", ["pixel_purifiers", "alwaysu", "snucv", "tcler"])
def test_teams_that_averaged_eight_orientations_do_so_at_every_scale(recipe, scale):
    """It is how they restore, and no matter of size."""
    assert resolve(recipe, scale, FOLDER)["inference"]["orientations"] == 8


@pytest.mark.parametrize("scale", ["gpu", "full"])
@pytest.mark.parametrize("recipe", ["nafnet", "hmidenoise", "all_in_one", "dynet"])
def test_networks_that_see_the_whole_tile_are_served_at_the_size_of_their_last_crops(recipe, scale):
    """Their global statistics are those of a training crop."""
    sections = resolve(recipe, scale, FOLDER)
    (base,) = sections["pretrain"]["bases"].values()
    last = (sections["finetune_hard"]["phases"] or base["phases"])[-1]
    assert tiles(sections)[0] == last["patch"]


@pytest.mark.parametrize("scale", ["gpu", "full"])
@pytest.mark.parametrize("recipe", ["buptmm"])
def test_local_statistics_act_where_they_are_measured(recipe, scale):
    """A tile is larger than their window, 1.5 times the side they were trained for, and so is a held-out photograph."""
    sections = resolve(recipe, scale, FOLDER)
    window = 1.5 * sections["pretrain"]["bases"]["restormer"]["arguments"]["train_size"]
    assert window < sections["inference"]["tile"] <= sections["curate"]["held_out_side"]


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
    assert tiles(sections) == (256, 256 - 50, "uniform")
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
    assert tiles(sections) == (256, 256 - 16, "linear")
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
    assert tiles(sections)[:2] == (192, 192 - 32)


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
    assert (curate["patch"], curate["stride"], curate["flush"], curate["max_flat_fraction"]) == (512, 512, False, 0.5)
    assert curate["patches_per_cluster"] is None
    tuning = sections["finetune_hard"]
    assert (tuning["optimizer"]["kind"], tuning["optimizer"]["lr"]) == ("adamw", 2e-4)
    samples = 3 * 3 * 5144 + 200 * 120 + 72_135  # noise, rain, haze
    assert tuning["phases"][0]["steps"] == 120 * round(samples / 32)
    assert sum(sections["training"]["degradation"]["steps"][0]["weights"]) == samples
    assert "prompts" not in base["arguments"]  # on every skip


def test_networks_and_tasks_of_dynet_share_one_pretraining():
    """At every scale the pre-training of each is DVC's one, so it is run once; the small one is chosen after it."""
    for scale in SCALES:
        sections = [resolve(name, scale, FOLDER) for name in ("dynet", "dynet_small", *DYNETS_TASKS)]
        large, *_ = sections
        for each in sections:
            assert {key: each[key] for key in ("curate", "pretrain", "ensemble_head", "mine_hard")} == {
                key: large[key] for key in ("curate", "pretrain", "ensemble_head", "mine_hard")
            }
        reuse = large["pretrain"]["bases"]["dynet"]["method"]["reuse"]
        assert "adapt" not in large["finetune_hard"]
        assert sections[1]["finetune_hard"]["adapt"] == {"reuse": reuse[1]}
    assert sections[1]["finetune_hard"] == large["finetune_hard"] | {"adapt": {"reuse": [2, 3, 3, 4]}}
    (together,), _, (noise,), (rain,), (haze,), (noise_and_rain,), (five,) = (
        each["training"]["degradation"]["steps"] for each in sections
    )
    assert noise["of"] == together["of"][:3]
    assert [rain] == together["of"][3]
    assert [haze] == together["of"][4]
    assert (noise_and_rain["of"], noise_and_rain["weights"]) == (together["of"][:4], together["weights"][:4])
    assert len(five["of"]) == 5


def test_all_in_one_is_promptirs_schedule():
    """120 epochs of 32 crops of 128 on four GPUs, 15 epochs of warm-up to 2e-4, five tasks."""
    sections, base, (steps, patches, batches) = published("all_in_one")
    assert (patches, batches, sections["training"]["processes"]) == ([128], [32], 4)
    assert steps[0] / base["optimizer"]["warmup"] == 120 / 15
    assert (base["optimizer"]["lr"], base["loss"]) == (2e-4, "l1")
    kinds = [[step["kind"] for step in steps] for steps in sections["training"]["degradation"]["steps"][0]["of"]]
    assert kinds == [["gaussian_noise"], ["rain"], ["haze"], ["jpeg"], ["one_of"]]
    (phase,) = base["phases"]
    shares = {name: weight / sum(phase["data"].values()) for name, weight in phase["data"].items()}
    assert [shares[name] for name in ("rain100l", "ots", "gopro")] == pytest.approx([0.2] * 3, abs=1e-3)
    assert phase["data"]["wed"] / phase["data"]["bsd400"] == pytest.approx(4744 / 400, rel=2e-3)
    assert [[step["kind"] for step in steps] for steps in phase["degradation"]["steps"][0]["of"]] == [
        kinds[0],
        kinds[3],
    ]
    assert sections["curate"]["patch"] <= 321  # of Rain100L's and BSD400's images
    assert sizes("all_in_one")["pretrain@promptir"][0] == 35_592_263


def test_sr2_is_hats_own_training():
    """500,000 steps of 32 crops of 64 pixels, which become 128, Adam 2e-4, halved five times; 20.6 M parameters."""
    sections, base, (steps, patches, batches) = published("sr2")
    assert (steps, patches, batches) == ([500_000], [2 * 64], [32])
    optimizer = {"kind": "adam", "lr": 2e-4, "betas": [0.9, 0.99], "gamma": 0.5, "ema": 0.999}
    assert base["optimizer"].items() >= optimizer.items()
    assert base["optimizer"]["milestones"] == [250_000, 400_000, 450_000, 475_000, 490_000]
    assert (base["loss"], sections["inference"]["scale"]) == ("l1", 2)
    assert sizes("sr2")["pretrain@hat"] == (20_624_795, 20_624_795)


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
    sections = resolve(name, "full", FOLDER)
    base = sections["pretrain"]["bases"]["hyperres"]
    assert columns(base["phases"]) == ([1_000_000], [96], [16])
    assert base["method"] == {"kind": "every_level", "levels": levels, "reduction": "sum"}
    assert base["optimizer"].items() >= {"kind": "adam", "lr": 1e-4, "milestones": [500_000], "gamma": 0.1}.items()
    assert sections["training"]["degradation"]["level"] == level
    assert sizes(name)["pretrain@hyperres"] == (parameters, parameters)
    assert sizes("hypernet_denoise")["pretrain@level"] == (330_561, 330_561)
