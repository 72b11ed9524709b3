"""Real pairs in the steps themselves: from the folder to a release decision and an image restored by a real Triton."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from flows.release.gate import measure
from flows.release.package import open_package
from flows.release.trial import Latency
from relume.evaluation.card import read_metrics
from relume.images import read_image, save_image
from relume.ingestion.sources import write_sources
from relume.models.artifact import load_card
from relume.params import load_params
from relume.reading import read_table
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.triton_client import TritonRestorer
from tests.components.test_recipe_runs import ROOT, run_steps
from tests.relume.curation.photographs import skimage_photograph

SHARED = ROOT.parent / "shared" / "data" / "test"
TINY = {
    "architecture": "nafnet",
    "arguments": {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]},
    "loss": "psnr",
    "optimizer": {"lr": 2e-3, "min_lr": 1e-5, "warmup": 5},
}


def prepared(folder: Path, sources: list[str], task: str, levels: dict, phases: list[dict]) -> None:
    """A checkout with a list and settings of a tiny training."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe = yaml.safe_load((ROOT / "recipe.yaml").read_text())
    params["curate"] |= {"min_sharpness": 0, "min_test": 1}
    params["validate"] |= {"min_photographs": 4, "min_train_patches": 20}
    params["export"]["sizes"] = [[131, 97]]
    recipe["curate"] |= {
        "patches_per_cluster": None,
        "patch": 64,
        "stride": 64,
        "flush": False,
        "max_flat_fraction": 1.0,
        "held_out_side": 192,
    }
    recipe["evaluate"] = {"task": task, "levels": levels}
    recipe["inference"] |= {"tile": 96, "halo": 8}
    recipe["training"] |= {"validations": 2}
    recipe["pretrain"]["bases"] = {"nafnet": TINY | {"phases": phases}}
    recipe["ensemble_head"] |= {"fusion": None, "phases": []}
    recipe["finetune_hard"] |= {"phases": [{"steps": 5, "patch": 32, "batch": 2}], "optimizer": TINY["optimizer"]}
    recipe["finetune_hard"]["optimizer"] = TINY["optimizer"] | {"warmup": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_sources(sources, folder / "sources.json")


def run_to_the_decision(folder: Path):
    """All steps and the gate; returns its report and the folder of what is served."""
    data, models = (["ingest"], ["curate"], ["validate"]), (["ensemble_head"], ["mine_hard"], ["finetune_hard"])
    run_steps(folder, *data, ["pretrain", "--base", "nafnet"], *models, ["export"], ["evaluate"], ["package"])
    params, package = load_params(folder), open_package(folder / "package")
    held_out = folder / "data" / "curated" / "held_out" / "test"
    times = dict.fromkeys(params.inference.graphs, 1.0)
    latency = Latency(where="served", candidate=times, champion=None)
    return measure(package, None, params.release, params.evaluate, held_out, latency), package.folder / "serving"


def holds(folder: Path, report, serving: Path, name: str, server, control) -> None:
    """Held-out pairs were measured and judged, and Triton restores a degraded image of theirs as in process."""
    print(report.table())
    (check,) = [check for check in report.checks if check.name == f"gain over the {name}, held-out pairs"]
    metrics = read_metrics(folder / "reports" / "metrics.json")["paired"]
    (given,) = {"noisy", "input"} & metrics.keys()
    assert check.value == pytest.approx(metrics["final"]["all"]["psnr"] - metrics[given]["all"]["psnr"], abs=0.05)
    path = next((folder / "data/curated/held_out/test/degraded").iterdir())
    degraded = read_image(path).pixels
    restored = OnnxRestorer(serving).restore(degraded).image
    assert restored.shape == degraded.shape
    assert np.abs(restored.astype(float) - degraded).mean() < 30
    params = load_params(folder)
    product = params.package.product
    release = f"{product}-of-pairs-{params.evaluate.task}".replace("_", "-")
    publish_release(serving, server.repository, release)
    control.load_release(release)
    control.switch_product(server.repository, product, Route(champion=release))
    with TritonRestorer(server.grpc, product, key=server.key) as client:
        restoration = client.restore(degraded)
    assert restoration.release == release
    assert np.abs(restoration.image.astype(int) - restored).max() <= 1


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_camera_noise_and_photographs_train_together(server, control, tmp_path):
    """PolyU as a set of pairs beside five photographs: phases mix both, and every step works on them."""
    if not (SHARED / "polyu_dev").is_dir():
        pytest.skip("the shared data is not here")
    for name in ("astronaut", "chelsea", "coffee", "ihc", "brick"):
        save_image(tmp_path / "own" / f"{name}.png", skimage_photograph(f"{name}.png")[:256, :256])
    shutil.copytree(SHARED / "polyu_dev", tmp_path / "polyu")
    (tmp_path / "polyu" / "clean" / "Sony_4_200_3200_door_10.jpg").unlink()
    phases = [
        {"steps": 30, "patch": 32, "batch": 4, "data": {"own": 1, "polyu": 3}},
        {"steps": 10, "patch": 64, "batch": 2, "data": {"polyu": {"select": 40}}},
    ]
    sources = [f"own={tmp_path / 'own'}", f"polyu=polyu:{tmp_path / 'polyu'}"]
    prepared(tmp_path, sources, "denoise", {"sigma": [15]}, phases)
    report, serving = run_to_the_decision(tmp_path)
    holds(tmp_path, report, serving, "noisy input", server, control)
    columns = {"address": str, "reason": str}
    (left_out,) = read_table(tmp_path / "data/ingested/quarantine.csv", columns, next_step="none")
    assert (left_out["reason"], "door_10" in left_out["address"]) == ("missing_partner", True)
    assert load_card(tmp_path / "models/bases/nafnet").trained_for["data"].keys() == {"polyu"}


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_motion_blur_trains_from_pairs_alone(server, control, tmp_path):
    """Quarters of the two images of GoPro: a list without any photograph, and phases that name no set."""
    if not (SHARED / "gopro_dev").is_dir():
        pytest.skip("the shared data is not here")
    for path in (SHARED / "gopro_dev").glob("*/*.webp"):
        image = read_image(path).pixels
        for number, (y, x) in enumerate([(0, 0), (0, 240), (240, 0), (240, 240)]):
            part = image[y : y + 240, x : x + 240]
            save_image(tmp_path / "gopro" / path.parent.name / f"{path.stem}_{number}.png", part)
    phases = [{"steps": 30, "patch": 32, "batch": 4}]
    prepared(tmp_path, [f"gopro:{tmp_path / 'gopro'}"], "deblur", {"length": [12]}, phases)
    report, serving = run_to_the_decision(tmp_path)
    holds(tmp_path, report, serving, "degraded input", server, control)
    assert not list((tmp_path / "data/curated").glob("train-*.npy"))
