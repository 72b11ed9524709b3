"""The verbs of `relume recipes`."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import relume
from flows.graph import read_graph
from flows.lint import check
from relume.cli import main
from relume.recipes.recipe import names, resolve

ROOT = Path(relume.__file__).parents[1]
NAMES = names(ROOT / "recipes")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The files of this checkout that git would keep, in a repository of their own."""
    folder = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, found):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


@pytest.fixture
def relume_in(clone, monkeypatch):
    """Runs a command of `relume` in the clone."""
    monkeypatch.chdir(clone)
    return lambda *words: CliRunner().invoke(main, ["recipes", *words])


@pytest.mark.parametrize("name", NAMES)
def test_a_used_recipe_leaves_a_sound_graph(relume_in, clone, name):
    """`use` writes what the recipe resolves to and the code that its stages run: the linter finds nothing."""
    result = relume_in("use", name, "--scale", "demo")
    assert result.exit_code == 0, result.output
    assert result.output.endswith("next    relume pipeline run\n")
    assert len(result.output.splitlines()) <= 40
    params = yaml.safe_load((clone / "recipe.yaml").read_text())
    resolved = resolve(name, "demo", clone / "recipes")
    assert params["recipe"] == {"name": name, "scale": "demo"}
    assert params["pretrain"] == resolved["pretrain"]
    graph = read_graph(clone)
    assert [str(problem) for problem in check(graph)] == []
    assert {stage for stage in graph.stages if stage.startswith("pretrain@")} == {
        f"pretrain@{base}" for base in resolved["pretrain"]["bases"]
    }


def test_a_gpu_recipe_without_a_gpu_is_warned_of(relume_in, monkeypatch):
    """What it takes on this CPU is said in hours or days before anything starts."""
    monkeypatch.setattr("relume.recipes.estimate.has_gpu", lambda: False)
    result = relume_in("use", "ensemble", "--scale", "gpu")
    assert "note: gpu is meant for a GPU and there is none here" in result.stderr
    assert re.search(r"trainings, if none is done yet: about [\d.]+ (h|days), one after the other", result.stdout)
    assert "note: " not in relume_in("use", "ensemble", "--scale", "demo").stderr


def test_a_recipe_used_again_changes_nothing(relume_in, clone):
    """The second time, recipe.yaml and dvc.yaml are as they were, and it says so."""
    relume_in("use", "masked", "--scale", "cpu")
    before = [(clone / name).read_bytes() for name in ("recipe.yaml", "dvc.yaml")]
    result = relume_in("use", "masked", "--scale", "cpu")
    assert "recipe.yaml: masked at cpu, 0 changes\ndvc.yaml: code deps are unchanged" in result.output
    assert [(clone / name).read_bytes() for name in ("recipe.yaml", "dvc.yaml")] == before


def test_base_models_of_another_recipe_are_removed(relume_in, clone):
    """The stages after them would fuse all that lie there; those of the recipe stay, and each removal is said."""
    for name in ("promptir", "stranger"):
        (clone / "models" / "bases" / name).mkdir(parents=True)
    result = relume_in("use", "tcler", "--scale", "demo")
    assert "models/bases/stranger: removed, because it belongs to another recipe" in result.output
    assert [path.name for path in (clone / "models" / "bases").iterdir()] == ["promptir"]


def test_a_recipe_with_problems_is_not_used(relume_in, clone):
    """Nothing is written, and the problem is named."""
    recipe, before = clone / "recipes" / "nafnet.yaml", (clone / "recipe.yaml").read_bytes()
    text = recipe.read_text()
    recipe.write_text(text.replace("patch: 48", "patch: 50"))
    result = relume_in("use", "nafnet", "--scale", "demo")
    checked = relume_in("check", "nafnet")
    recipe.write_text(text)
    assert (result.exit_code, checked.exit_code) == (2, 2)
    assert "patch 50 is not a multiple of 4" in result.output
    assert "    pretrain@nafnet: The crops of a phase do not fit the network: phases[0].patch: 50" in checked.output
    assert (clone / "recipe.yaml").read_bytes() == before


def test_a_recipe_that_was_edited_wrongly_is_refused_before_anything_runs(relume_in, clone):
    """`relume pipeline lint` and `run` name the stage that could not work, with what to do, and start nothing."""
    relume_in("use", "ensemble", "--scale", "demo")
    path = clone / "recipe.yaml"
    path.write_text(path.read_text().replace("patch: 96, batch: 3}]\n", "patch: 98, batch: 3}]\n"))
    for verb in ("lint", "run"):
        result = CliRunner().invoke(main, ["pipeline", verb])
        assert result.exit_code == 2
        assert "patch 98 is not a multiple of 8, as the network needs) (correct it in recipe.yaml)" in result.output
    assert not (clone / ".relume" / "runs").exists()


def test_without_a_recipe_the_next_command_is_named_and_works(relume_in, clone):
    """One clear message of `lint`, and `use` needs no recipe.yaml."""
    (clone / "recipe.yaml").unlink()
    result = CliRunner().invoke(main, ["pipeline", "lint"])
    assert result.exit_code == 2
    assert result.output.startswith("error: No recipe is in use")
    assert relume_in("use", "ensemble", "--scale", "demo").exit_code == 0
    assert CliRunner().invoke(main, ["pipeline", "lint"]).exit_code == 0


def test_a_recipe_that_the_gate_cannot_judge_is_not_used(relume_in, clone):
    """A degradation of its task that has no limit is named at once, and nothing is written."""
    before = (clone / "recipe.yaml").read_bytes()
    params, text = clone / "params.yaml", (clone / "params.yaml").read_text()
    params.write_text(text.replace("    jpeg: {10: 0.3, 40: 0.1}\n", ""))
    result = relume_in("use", "dejpeg", "--scale", "demo")
    params.write_text(text)
    assert result.exit_code == 2
    assert "release: min_gain_over_input_db has no limit for jpeg, which the task dejpeg is judged on" in result.output
    assert (clone / "recipe.yaml").read_bytes() == before


def test_the_list_names_every_recipe(relume_in):
    """A line each, with its task."""
    lines = relume_in("list").output.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("hypernet_sr")] == [
        ["hypernet_sr", "super-resolution"]
    ]
    assert [line.split()[0] for line in lines] == NAMES


def test_a_family_is_checked_together(relume_in):
    """`check hypernet` goes through all scales of the three."""
    result = relume_in("check", "hypernet")
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()] == ["ok"] * 12


def test_show_gives_the_sheet_or_the_resolved_sections(relume_in):
    """Without a scale what is open and how much is trained, with one what would stand in recipe.yaml."""
    assert "open: start of the biases" in relume_in("show", "alwaysu").output
    shown = yaml.safe_load(relume_in("show", "alwaysu", "--scale", "full").output)
    assert shown == resolve("alwaysu", "full", ROOT / "recipes")


def test_an_unknown_name_ends_with_two(relume_in):
    """A user's mistake, with the near names."""
    result = relume_in("use", "dinet", "--scale", "demo")
    assert result.exit_code == 2
    assert "did you mean dynet" in result.output
