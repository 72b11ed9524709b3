"""How recipes are found, read, resolved, and written as recipe.yaml."""

import shutil
from pathlib import Path

import pytest
import yaml

import relume
from relume.errors import ConfigError
from relume.params import UsedRecipe, load_params
from relume.params_file import PARAMS, RECIPE
from relume.recipes.recipe import SCALES, find, load, merged, names, resolve, use
from tests.editing import edit

ROOT = Path(relume.__file__).parents[1]
FOLDER = ROOT / "recipes"
NAMES = names(FOLDER)


@pytest.fixture
def root(tmp_path):
    """A folder with the user's parameters of this checkout."""
    shutil.copy(ROOT / PARAMS, tmp_path)
    return tmp_path


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


def test_a_recipe_like_another_one_is_that_one_with_its_file_merged_over_it(tmp_path):
    """What it does not say is the other's, at every scale; of what it says nothing of the other is left."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    other = "like: nafnet\ntitle: Other\ncommon: {}\nscales: {gpu: {training: {precision: 16-mixed}}}\n"
    (tmp_path / "other.yaml").write_text(other)
    for scale in SCALES:
        expected = resolve("nafnet", scale, tmp_path)
        if scale == "gpu":
            expected["training"]["precision"] = "16-mixed"
        assert resolve("other", scale, tmp_path) == expected
    assert (load("other", tmp_path).title, load("other", tmp_path).name) == ("Other", "other")


@pytest.mark.parametrize("like", ["dynet_small", "other", "nafnets"])
def test_a_recipe_is_like_one_that_says_everything_itself(tmp_path, like):
    """Not like itself, nor like one that is like another one, nor like one that there is not."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "other.yaml").write_text(f"like: {like}\ncommon: {{}}\nscales: {{}}\n")
    with pytest.raises(ConfigError, match=r"The recipe that .*other\.yaml is like is unknown"):
        load("other", tmp_path)


def test_a_layer_goes_over_the_one_before(tmp_path):
    """What all recipes share, that at the scale, the recipe, the recipe at the scale: the last to speak wins."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    assert resolve("nafnet", "gpu", tmp_path)["training"]["precision"] == "bf16-mixed"  # defaults, gpu
    edit(tmp_path / "nafnet.yaml", "    augmentation:", "    precision: 16-mixed\n    augmentation:")
    assert resolve("nafnet", "gpu", tmp_path)["training"]["precision"] == "16-mixed"
    edit(tmp_path / "nafnet.yaml", "  gpu:\n", "  gpu:\n    training: {precision: 32-true}\n")
    assert resolve("nafnet", "gpu", tmp_path)["training"]["precision"] == "32-true"
    assert resolve("nafnet", "full", tmp_path)["training"]["precision"] == "16-mixed"


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
        (
            "training: {seed: 8}\n",
            r"training\.seed\n  why:  it is in params\.yaml, line \d+ and in recipe\.yaml, line \d+",
        ),
        ("releases: {}\n", "releases is unknown; did you mean release"),
        ("release: {}\n", "the key release is there twice"),
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
        (lambda: load("snuvc", FOLDER), r"The recipe is unknown: snuvc(.|\n)*did you mean snucv(.|\n)*pixel_purifiers"),
        (lambda: find(["hypernett"], FOLDER), r"did you mean hypernet"),
        (
            lambda: resolve("nafnet", "gpus", FOLDER),
            r"The scale is unknown: gpus(.|\n)*did you mean gpu\?(.|\n)*demo, cpu, gpu, full",
        ),
        (lambda: names(Path("nowhere")), r"folder of recipes does not exist: nowhere(.|\n)*change to the top"),
    ],
)
def test_an_unknown_name_is_told_with_near_ones(call, said):
    """The message names what was meant, and what there is."""
    with pytest.raises(ConfigError, match=said):
        call()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  full:", "  fully:", "scales"),
        ("task: real-noise", "task: noise", "task"),
        ("common:", "commons:", "common"),
        ("  pretrain:\n", "  pretraining:\n", "pretraining"),
        ("- topic: noise", "- topic: noise: x", "not valid YAML"),
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
        match=rf"is not (a recipe|valid YAML): .*{name}\.yaml(, line 1)?\n"
        r"  why:  it has no keys\n  next: (correct|write)",
    ):
        resolve("nafnet", "demo", tmp_path)


@pytest.mark.parametrize(
    ("file", "sections", "said"),
    [
        ("nafnet", {"training": {}}, "pretrain"),
        ("nafnet", {"training": {}, "pretrain": {}}, r"pretrain\.bases"),
        ("nafnet", {"training": {}, "pretrain": {"bases": None}}, r"pretrain\.bases"),
        ("defaults", {"curate": {}, "evaluate": {}}, "ensemble_head, mine_hard, finetune_hard"),
    ],
)
def test_a_recipe_that_lacks_a_section_is_refused(tmp_path, file, sections, said):
    """The message names the file, the scale and what nobody gives."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    value = yaml.safe_load((tmp_path / f"{file}.yaml").read_text())
    value |= {"common": sections, "scales": {scale: {} for scale in SCALES}}
    (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(ConfigError, match=rf"nafnet\.yaml at gpu\n  why: .* gives {said}\n  next: add it to"):
        resolve("nafnet", "gpu", tmp_path)
