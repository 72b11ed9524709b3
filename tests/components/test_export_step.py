"""The export step as a process, on an adjustable network with random weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
import yaml

from relume.images import save_image
from relume.models.artifact import ModelCard, save_model
from relume.models.registry import build, variants
from relume.reading import read_json
from relume.serving.levels import LevelRange
from relume.serving.served_model import read_serving

ROOT = Path(__file__).parents[2]
PARAMS = {
    "export": {"threads": 1, "min_psnr": 50.0, "max_difference": 1, "sizes": [[48, 48], [60, 75]]},
    "inference": {"tile": 48, "halo": 4, "overlap": 2},
}


def export(folder: Path, **trained_for) -> subprocess.CompletedProcess:
    """Runs the step on AdaFM in a folder of its own."""
    save_image(folder / "data/curated/held_out/test/00ff.png", skimage.data.astronaut()[:100, :100])
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    variant = variants()["adafm-demo"]
    torch.manual_seed(0)
    network = build(variant.architecture, variant.arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    card = ModelCard(
        architecture=variant.architecture, arguments=variant.arguments, trained_for=trained_for, provenance={}
    )
    save_model(folder / "models" / "final", network, card)
    return subprocess.run(
        [sys.executable, "-m", "components.export"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RELUME_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_an_adjustable_network(tmp_path):
    """Its levels and their meaning are the card's; parity holds at both ends, the default and for three in a batch."""
    result = export(tmp_path, levels=[10, 70], default_level=25, degradation={"level": "quality"})
    assert result.returncode == 0, result.stdout + result.stderr
    exported = tmp_path / "models" / "exported"
    assert read_serving(exported).levels == LevelRange(kind="quality", lowest=10, highest=70, default=25)
    *rows, mixed = [row["picture"] for row in read_json(exported / "parity.json")["pictures"]]
    assert len(rows) == 3 * 4
    assert {row.rpartition(" level ")[2] for row in rows} == {"10", "25", "70"}
    assert mixed == "three levels in a batch"


@pytest.mark.slow
def test_impossible_levels(tmp_path):
    """A card whose default lies outside of its range is refused with both, and nothing is written."""
    result = export(tmp_path, levels=[10, 70], default_level=80)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "10 to 70, by default 80" in result.stderr + result.stdout
    assert not (tmp_path / "models" / "exported").exists()
