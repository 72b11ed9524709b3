"""The recipes in the steps themselves: from patches to an exported model and a release decision, as processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import yaml

from flows.release.gate import GateReport, measure
from flows.release.package import open_package
from flows.release.trial import Latency
from relume.files import write_json
from relume.images import save_image
from relume.models.artifact import load_card
from relume.params import load_params
from relume.reading import read_json
from relume.recipes.recipe import names, resolve

ROOT = Path(__file__).parents[2]
RECIPES = names(ROOT / "recipes")
# Together: a level that is a scale, an image that is enlarged, a choice of degradations. Masks are in the cross-section
# of tests/real/triton/test_recipes.py, which has every recipe in the exhaustive run; several bases, a fusion and mined
# patches are what the demo trains.
CROSS_SECTION = ["hypernet_sr", "photo", "sr2"]


def run_recipe(folder: Path, name: str, *, steps: int | None) -> None:
    """Runs a recipe's `demo` scale from prepared patches to the export.

    Args:
        folder: Empty; becomes a checkout with what the steps read.
        name: Of the recipe.
        steps: Longest phase; None leaves the recipe's own.
    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe = resolve(name, "demo", ROOT / "recipes")
    stages = [*recipe["pretrain"]["bases"].values(), recipe["ensemble_head"], recipe["finetune_hard"]]
    for stage in stages if steps else ():
        for phase in stage["phases"]:
            phase["steps"] = min(phase["steps"], steps)
        schedule = stage["optimizer"]
        schedule["warmup"] = min(schedule.get("warmup", 0), steps // 2)
        for key in ("periods", "milestones"):  # within the shorter training
            if key in schedule:
                schedule[key] = (
                    list(range(1, len(schedule[key]) + 1)) if key == "milestones" else [1] * len(schedule[key])
                )
    params["export"]["sizes"] = [[131, 97]]
    if steps and recipe["inference"]["orientations"] > 1:  # the network runs eight times on each tile
        own_tiles = {"further_windows", "members"} & recipe["inference"].keys()
        recipe["inference"] |= {"orientations": 2} if own_tiles else {"tile": 96}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    photograph, curated = skimage.data.astronaut(), folder / "data" / "curated"
    side = recipe["curate"]["patch"]
    corners = [(y, x) for y in range(0, 512 - side + 1, 128) for x in range(0, 512 - side + 1, 128)]
    curated.mkdir(parents=True)
    np.save(curated / "train-00000.npy", np.stack([photograph[y : y + side, x : x + side] for y, x in corners]))
    for part in ("validation", "test"):
        save_image(curated / "held_out" / part / "00ff.png", photograph[300:396, 200:300])
    # What writers that were killed leave behind, which must be taken for nothing.
    (curated / "held_out" / "validation" / ".00fe.tmp.png").write_bytes(b"")
    write_json(folder / "models" / "bases" / ".base.tmp" / "model.json", {})
    commands = [["pretrain", "--base", base] for base in recipe["pretrain"]["bases"]]
    run_steps(folder, *commands, ["ensemble_head"], ["mine_hard"], ["finetune_hard"], ["export"])


def run_steps(folder: Path, *commands: list[str]) -> None:
    """Runs components in a checkout, each to its end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RELUME_HOME": str(folder / "home")}
    for component, *arguments in commands:
        done = subprocess.run(
            [sys.executable, "-m", f"components.{component}", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{component} {arguments}\n{done.stdout}"


def decide(folder: Path) -> GateReport:
    """What the gate says of a first release of what was exported, the time that the network takes left out."""
    shutil.copy(ROOT / "sources.json", folder)
    run_steps(folder, ["evaluate"], ["package"])
    params, package = load_params(folder), open_package(folder / "package")
    assert package.product == params.package.product
    given = params.release, params.evaluate, folder / "data" / "curated" / "held_out" / "test"
    times = dict.fromkeys(params.inference.graphs, 1.0)
    return measure(package, None, *given, Latency(where="served", candidate=times, champion=None))


def concerns_its_task(report: GateReport) -> None:
    """It passes, or is refused for what it does not gain on its task."""
    print(report.table())
    assert [check.name for check in report.failed if not check.name.startswith("gain over ")] == []


def holds(folder: Path, name: str) -> None:
    """The final model is of the recipe's making, and what is served restores as PyTorch does."""
    bases = resolve(name, "demo", ROOT / "recipes")["pretrain"]["bases"]
    assert {path.name for path in (folder / "models" / "bases").glob("[!.]*")} == set(bases)
    card = load_card(folder / "models" / "final")
    assert card.provenance["stage"] == "finetune_hard"
    parity = read_json(folder / "models" / "exported" / "parity.json")
    assert parity["passed"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CROSS_SECTION)
def test_a_recipe_runs(tmp_path, name):
    """A few steps of each phase, to the exported model and a release decision."""
    run_recipe(tmp_path, name, steps=6)
    holds(tmp_path, name)
    concerns_its_task(decide(tmp_path))


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_at_demo_scale(tmp_path, name):
    """With all of its steps, to the exported model and a release decision."""
    run_recipe(tmp_path, name, steps=None)
    holds(tmp_path, name)
    concerns_its_task(decide(tmp_path))
