"""The stage `evaluate` by itself, on tiny models: real pairs beside the held-out photographs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import yaml

from relume.evaluation.card import read_metrics
from relume.evaluation.held_out import noisy_photograph
from relume.evaluation.networks import tiled
from relume.files import sha256_folder
from relume.images import read_image, save_image
from relume.inference.plan import Inference
from relume.metrics import psnr, to_8_bit
from relume.models.artifact import ModelCard, load_model, save_model
from relume.models.registry import build
from relume.reading import read_table

ROOT = Path(__file__).parents[2]
ARGUMENTS = {"widths": [4, 8], "blocks": [1, 1]}


@pytest.fixture
def checkout(tmp_path):
    """A folder with one held-out photograph, tiny models, and two pairs of real size differences."""
    photograph = skimage.data.chelsea()[100:196, 150:250]
    save_image(tmp_path / "data/curated/held_out/test/00ff.png", photograph)
    torch.manual_seed(0)
    for folder in ("bases/tiny", "ensemble", "final"):
        card = ModelCard(
            architecture="resunet", arguments=ARGUMENTS, trained_for={"description": "noise"}, provenance={}
        )
        save_model(tmp_path / "models" / folder, build("resunet", ARGUMENTS), card)
    rng = np.random.default_rng(1)
    for name, crop in {"a": photograph[:80], "b": photograph[:, :64]}.items():
        noisy = np.clip(crop + rng.normal(0, 12, crop.shape), 0, 255).astype(np.uint8)
        save_image(tmp_path / "pairs" / "clean" / f"{name}.png", crop)
        save_image(tmp_path / "pairs" / "noisy" / f"{name}.png", noisy)
    return tmp_path


def evaluate(checkout, pairs):
    """Runs the stage with pairs in its settings, or without."""
    recipe = {"evaluate": {"levels": {"sigma": [25]}}, "inference": {"tile": 96, "halo": 8, "overlap": 4}}
    params = {"evaluate": {"seed": 7, "threads": 1, "pairs": pairs}}
    (checkout / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    return subprocess.run(
        [sys.executable, "-m", "components.evaluate"],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RELUME_HOME": str(checkout / "home")},
        capture_output=True,
        text=True,
    )


def test_real_pairs_are_measured_beside_the_held_out_photographs(checkout):
    """Every pair is measured with the baselines; the input's PSNR is that of its pixels, the level its own estimate."""
    folder = checkout / "pairs"
    ended = evaluate(checkout, {"folder": str(folder), "sha256": sha256_folder(folder)})
    assert ended.returncode == 0, ended.stderr
    metrics = read_metrics(checkout / "reports" / "metrics.json")
    assert set(metrics["pairs"]) == {"noisy", "blur", "nlm", "final"}
    columns = {"system": str, "protocol": str, "image_id": str, "level": float, "psnr": float}
    rows = read_table(checkout / "reports/evaluation/per_image.csv", columns, next_step="none")
    noisy = [row for row in rows if (row["protocol"], row["system"]) == ("pairs", "noisy")]
    assert [row["image_id"] for row in noisy] == ["a", "b"]
    for row in noisy:
        assert row["level"] == pytest.approx(12, abs=2)
        assert row["psnr"] == pytest.approx(20 * np.log10(255 / 12), abs=0.4)
    assert metrics["pairs"]["nlm"]["all"]["psnr"] > metrics["pairs"]["noisy"]["all"]["psnr"] + 1


def test_a_photograph_smaller_than_a_tile_is_measured_in_a_smaller_one(checkout):
    """It is said, and nothing is mirrored: the score is that of the model in tiles of 80 pixels."""
    clean = read_image(checkout / "data/curated/held_out/test/00ff.png").pixels
    save_image(checkout / "data/curated/held_out/test/00aa.png", clean[:85])
    ended = evaluate(checkout, None)
    assert ended.returncode == 0, ended.stderr
    assert (
        "1 of 2 photographs are smaller than the tile of 96 pixels, and are measured in smaller tiles" in ended.stdout
    )
    columns = {"system": str, "protocol": str, "image_id": str, "psnr": float}
    rows = read_table(checkout / "reports/evaluation/per_image.csv", columns, next_step="none")
    (found,) = [
        row["psnr"] for row in rows if (row["system"], row["protocol"], row["image_id"]) == ("final", "clipped", "00aa")
    ]
    noisy = to_8_bit(noisy_photograph(clean[:85], "00aa", 25, "clipped", seed=7))
    plan = Inference(tile=80, halo=8, overlap=4)
    expected = psnr(tiled(load_model(checkout / "models/final"), plan, batch=1)(noisy), clean[:85])
    assert found == pytest.approx(expected, abs=1e-3)


def test_held_out_pairs_are_measured_under_their_own_protocol(checkout):
    """The degraded image beside a held-out one is measured as `paired`, and its clean one under the others as well."""
    held_out, rng = checkout / "data/curated/held_out/test", np.random.default_rng(1)
    clean = read_image(held_out / "00ff.png").pixels
    noisy = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    save_image(held_out / "degraded" / "00ff.png", noisy)
    ended = evaluate(checkout, None)
    assert ended.returncode == 0, ended.stderr
    metrics = read_metrics(checkout / "reports" / "metrics.json")
    assert set(metrics) == {"clipped", "unclipped", "jpeg85", "jpeg95", "paired"}
    assert set(metrics["paired"]) == {"noisy", "blur", "nlm", "final"}
    mse = np.mean((noisy.astype(float) - clean) ** 2)
    assert metrics["paired"]["noisy"]["all"]["psnr"] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-3)


def test_other_pairs_than_those_of_the_settings_are_refused(checkout):
    """The message holds the hash to write; a folder without pairs is named before anything is measured."""
    folder = checkout / "pairs"
    ended = evaluate(checkout, {"folder": str(folder), "sha256": "unknown"})
    assert ended.returncode == 2
    assert sha256_folder(folder) in ended.stderr
    ended = evaluate(checkout, {"folder": str(folder / "clean"), "sha256": "unknown"})
    assert ended.returncode == 2
    assert "holds no pairs" in ended.stderr
    assert not (checkout / "reports").exists()
