"""All parameters are one schema, which is checked as a whole."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import relume
from relume.errors import ConfigError
from relume.evaluation.settings import EvaluateSettings
from relume.params import Params, load_params
from relume.params_file import PARAMS, RECIPE, load_section, read_values
from relume.serving.settings import ExportSettings
from relume.settings import fields, mentioned
from tests.editing import edit

ROOT = Path(relume.__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    """A folder with the parameters of this checkout."""
    for name in (PARAMS, RECIPE):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_parameters_of_this_checkout_are_sound():
    """And nothing of them is lost between the files and the schema."""
    params = load_params(ROOT)
    assert params.package.product == "denoise"
    assert set(read_values(ROOT).value) <= set(fields(Params))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "max_regression_db: 0.05",
            "max_regresion_db: 0.05",
            "release.max_regresion_db is unknown; did you mean max",
        ),
        ("\nexport:\n", "\nexprot:\n", "exprot is unknown; did you mean export?"),
        ("min_psnr: 60.0", "min_psnr: none", "export.min_psnr = 'none': Input should be a valid number"),
        ("crop: 384", "crop: 3", "release.crop = 3: Input should be greater than or equal to 32"),
        (
            "min_photographs: 10",
            "min_photograps: 10",
            "validate.min_photograps is unknown; did you mean min_",
        ),
        ("max_noise_sigma: 12.0", "max_noise_sigma: 1e1", "a text in YAML 1.1, write 1.0e+1"),
        ("{15: 1.0, 25: 3.0, 50: 6.0}", "{}", "min_gain_over_input_db.clipped: Dictionary should have at least 1 item"),
        ("{15: 1.0, 25: 3.0, 50: 6.0}", "{-15: 1.0}", "Input should be greater than 0"),
    ],
)
def test_a_wrong_value_in_any_section_is_refused(checkout, old, new, said):
    """Before a stage runs, with its file and line."""
    edit(checkout / PARAMS, old, new)
    with pytest.raises(ConfigError) as error:
        load_params(checkout)
    assert said in str(error.value)
    text = (checkout / PARAMS).read_text()
    line = text[: text.index(new.strip())].count("\n") + 1
    assert f"params.yaml, line {line}: " in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tile: 192, halo: 16", "tile: 192, halo: 92", "nothing is left of a tile of 192"),
        ("overlap: 8", "overlap: 160", "nothing is left of a tile of 192 within a halo of 16 and an overlap of 160"),
        ("weight: linear", "weight: hann", "Input should be 'linear', 'cosine' or 'uniform'"),
        ("task: denoise", "task: denoising", "evaluate.task = 'denoising': Input should be 'denoise', 'unseen-noise'"),
        ("levels: {}", "levels: {quality: [10]}", "levels names quality; the parameters of denoise are sigma"),
        ("levels: {}", "levels: {sigma: []}", "evaluate: levels leaves nothing to measure"),
        ("betas: [0.9, 0.9]", "betas: [1.9, 0.9]", "optimizer.betas.0 = 1.9: Input should be less than 1"),
    ],
)
def test_a_wrong_value_of_the_recipe_is_refused(checkout, old, new, said):
    """Before a stage runs, not by the tiler or the optimiser after hours."""
    edit(checkout / RECIPE, old, new)
    with pytest.raises(ConfigError) as error:
        load_params(checkout)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["12", "1st", "../x", "a b", "''", ".hidden", "a/b", "-a", "grün", "a" * 65])
def test_a_base_model_is_named_as_a_folder_and_a_stage_can_be(checkout, name):
    """The message names the key with its file and line, and says what a name is made of."""
    edit(checkout / RECIPE, "    nafnet:\n", f"    {name}:\n")
    with pytest.raises(ConfigError) as error:
        load_params(checkout)
    key = f"pretrain.bases.{name.strip(chr(39))}"
    assert f"{key}: the name becomes a folder and a stage; write letters, digits" in str(error.value)
    assert "recipe.yaml, line " in str(error.value)


@pytest.mark.parametrize("name", ["NAFNet_2", "a-b", "a" * 64])
def test_letters_digits_and_strokes_name_a_base_model(checkout, name):
    """Also capital ones."""
    edit(checkout / RECIPE, "    nafnet:\n", f"    {name}:\n")
    assert name in load_params(checkout).pretrain.bases


def test_without_a_recipe_the_next_command_is_named(checkout):
    """One message for the whole, and not one for each missing section."""
    (checkout / RECIPE).unlink()
    with pytest.raises(ConfigError) as error:
        load_params(checkout)
    assert error.value.what == "No recipe is in use"
    assert str(error.value.next_step).startswith("run `relume recipes use ensemble --scale demo`")


def test_an_emptied_recipe_is_named(checkout):
    """The sections that are missing then stand in neither file, so the message names both."""
    (checkout / RECIPE).write_text("")
    with pytest.raises(ConfigError, match=r"next: .*params\.yaml or in recipe\.yaml"):
        load_params(checkout)


def test_a_key_in_both_files_is_refused(checkout):
    """Neither wins: the message names both places."""
    (checkout / RECIPE).write_text("\nevaluate: {seed: 3}\n")
    with pytest.raises(
        ConfigError, match=r"evaluate\.seed\n  why:  it is in params\.yaml, line \d+ and in recipe\.yaml, line 2"
    ):
        read_values(checkout)


def test_a_section_may_be_shared_by_both_files(tmp_path):
    """Each key stands in one of them, and knows which."""
    (tmp_path / PARAMS).write_text("evaluate:\n  seed: 1\n  threads: 1\n")
    (tmp_path / RECIPE).write_text("evaluate: {levels: {sigma: [-1]}}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml, line 1: evaluate\.levels\.sigma\.0 = -1"):
        load_section("evaluate", EvaluateSettings, tmp_path)
    (tmp_path / RECIPE).write_text("evaluate: {levels: {sigma: [15]}}\n")
    assert load_section("evaluate", EvaluateSettings, tmp_path).levels == {"sigma": (15,)}


def test_a_section_is_checked_alone(tmp_path):
    """A stage does not mind what the others' sections say; one that is not there is named."""
    section = {"threads": 1, "min_psnr": 60.0, "max_difference": 1, "sizes": []}
    (tmp_path / PARAMS).write_text(yaml.safe_dump({"export": section, "release": {"nonsense": 1}}))
    assert load_section("export", ExportSettings, tmp_path).min_psnr == 60
    with pytest.raises(ConfigError, match=r"section of the parameters is missing: pretrain\.bases\.nafnet"):
        load_section("pretrain.bases.nafnet", ExportSettings, tmp_path)


def read_sections():
    """Each section that a component reads, and the name of the settings that it reads it with."""
    for path in (ROOT / "components").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_section":
                yield ast.unparse(node.args[0]).removeprefix("f").strip("'\""), ast.unparse(node.args[1])


def test_components_read_what_the_schema_has():
    """Each by the settings that the schema has at that name; every section but those of the flows is read."""
    found = dict(read_sections())
    base = found.pop("pretrain.bases.{base}")
    (pretrain,) = mentioned(fields(Params)["pretrain"])
    assert [base] == [model.__name__ for model in mentioned(fields(pretrain)["bases"])]
    for section, name in found.items():
        assert [model.__name__ for model in mentioned(fields(Params)[section])] == [name]
    assert set(found) | {"garbage", "licences", "monitor", "pretrain", "recipe", "release", "runner", "watch"} == set(
        fields(Params)
    )


def test_the_schema_loads_without_anything_heavy():
    """The command line checks it before it starts anything."""
    code = "import sys, relume.params; print(*[n for n in ('torch', 'onnx', 'cv2', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def files_named(root):
    """Each key that a text of the code says is in a file, with the text's place and that file."""
    sections = "|".join(field.alias or name for name, field in Params.model_fields.items())
    for path in [path for folder in ("relume", "components", "flows") for path in (root / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for before, file in re.findall(r"(.*?) (?:in|from) (params\.yaml|recipe\.yaml)", node.value):
                for key in re.findall(rf"\b(?:{sections})(?:\.\w+)+", before):
                    yield f"{path.relative_to(root)}:{node.lineno}", key, file


def test_messages_name_the_file_that_a_key_is_in():
    """Who follows a message into the other file would end at a key that is set twice."""
    values, named = read_values(ROOT), list(files_named(ROOT))
    assert len(named) > 5
    wrong = [found for found in named if not values.place(found[1].split(".")).startswith(found[2])]
    assert not wrong
