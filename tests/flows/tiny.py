"""The real graph in a repository of its own, as it is or at a scale of seconds a stage."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

import flows
from tests.flows.toy import Toy

# Sizes only: every stage does what it does at demo scale.
OVERLAY: dict[str, Any] = {
    "validate": {"min_train_patches": 10},
    "evaluate": {"threads": 1},
    "export": {"threads": 1, "sizes": [[192, 192]]},
}
RECIPE_OVERLAY: dict[str, Any] = {
    "curate": {"stride": 192},
    "training": {"validations": 1},
    "pretrain": {
        "bases": {
            "nafnet": {
                "arguments": {"width": 4, "encoder_blocks": [1, 1], "middle_blocks": 1, "decoder_blocks": [1, 1]},
                "optimizer": {"warmup": 1},
                "phases": [{"steps": 4, "patch": 32, "batch": 2}],
            },
            "restormer": {
                "arguments": {"width": 4, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 1, 1, 1]},
                "optimizer": {"warmup": 1},
                "phases": [{"steps": 4, "patch": 32, "batch": 2}],
            },
        }
    },
    "ensemble_head": {
        "fusion": {"arguments": {"head": {"width": 4, "blocks": 1}}},
        "optimizer": {"warmup": 1},
        "phases": [{"steps": 3, "patch": 32, "batch": 2}],
    },
    "mine_hard": {"draws": 1},
    "finetune_hard": {"optimizer": {"warmup": 1}, "phases": [{"steps": 3, "patch": 32, "batch": 2}]},
    "evaluate": {"levels": {"sigma": [50]}},
}


def overlaid(value: Any, overlay: Any) -> Any:
    """`value` with the entries of `overlay` put over it; mappings are merged, all else replaced."""
    if isinstance(value, dict) and isinstance(overlay, dict):
        return value | {key: overlaid(value.get(key), entry) for key, entry in overlay.items()}
    return overlay


def make_tiny(root: Path, home: Path) -> Toy:
    """A repository with the tiny params."""
    return make_real(root, home, {"params.yaml": OVERLAY, "recipe.yaml": RECIPE_OVERLAY})


def make_real(root: Path, home: Path, overlays: dict[str, Any]) -> Toy:
    """Copies the files of this checkout that git would keep, with entries put over those of named ones, and commits."""
    source = Path(flows.__file__).parents[1]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=source, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (source / name).is_file() and not name.startswith("tests/") and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, root / name)
    for name, overlay in overlays.items():
        params = yaml.safe_load((root / name).read_text())
        (root / name).write_text(yaml.safe_dump(overlaid(params, overlay), sort_keys=False))
    home.mkdir(parents=True)
    tiny = Toy(root, home)
    tiny.shell("git", "init", "--quiet", "--initial-branch", "main")
    tiny.commit()
    return tiny
