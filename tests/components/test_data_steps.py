"""The steps ingest, curate and validate, run as DVC runs them, in a folder with params.yaml and sources.json."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from relume.files import sha256_folder
from relume.ingestion.sources import write_sources

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path):
    """A folder with the checkout's params and the built-in photographs as sources."""
    for name in ("params.yaml", "recipe.yaml", "sources.json"):
        shutil.copy(CHECKOUT / name, tmp_path)
    return tmp_path


def step(name, workspace):
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "RELUME_HOME": str(workspace / "home")}
    for variable in ("DVC_STAGE", "RELUME_DRIVER_PID"):
        environment.pop(variable, None)
    return subprocess.run(
        [sys.executable, "-m", f"components.{name}"], cwd=workspace, env=environment, capture_output=True, text=True
    )


def edit_params(workspace, section, **values):
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params[section] |= values
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.mark.slow
def test_the_three_steps_prepare_the_built_in_photographs(workspace):
    """With the committed settings the steps pass on the built-in photographs, hold out three or more, and repeat."""
    for name in ("ingest", "curate", "validate"):
        done = step(name, workspace)
        assert done.returncode == 0, done.stderr
    assert len(list((workspace / "data/curated/held_out/test").iterdir())) >= 3
    outcomes = json.loads((workspace / "data/validation/validation.json").read_text())
    assert len(outcomes) > 30
    assert all(outcome["success"] for outcome in outcomes)
    assert (workspace / "home/validation/data_docs/index.html").is_file()
    before = sha256_folder(workspace / "data")
    for name in ("ingest", "curate"):
        assert step(name, workspace).returncode == 0
    assert sha256_folder(workspace / "data") == before


def test_ingest_prints_what_was_quarantined(workspace):
    """A broken file in a folder is counted by reason in the output, and the step goes on."""
    (workspace / "photos").mkdir()
    for name in ("coffee.png", "chelsea.png"):
        shutil.copy(Path(_skimage(), "data", name), workspace / "photos")
    (workspace / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    write_sources([workspace / "photos"], workspace / "sources.json")
    done = step("ingest", workspace)
    assert done.returncode == 0, done.stderr
    assert "2 photographs" in done.stdout
    assert "1 quarantined as truncated" in done.stdout


def test_a_users_mistake_ends_with_two_and_leaves_nothing(workspace):
    """A bad parameter, a missing list and a list without images end with exit code 2, one message and no output."""
    edit_params(workspace, "ingest", max_megapixels=-1)
    done = step("ingest", workspace)
    assert done.returncode == 2
    assert "ingest.max_megapixels = -1" in done.stderr

    edit_params(workspace, "ingest", max_megapixels=200)
    (workspace / "sources.json").write_text('{"sources": ["file:///photos"], "files": []}')
    done = step("ingest", workspace)
    assert done.returncode == 2
    assert "None of the listed files is an image" in done.stderr

    (workspace / "sources.json").unlink()
    done = step("ingest", workspace)
    assert done.returncode == 2
    assert "relume data scan" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(workspace.glob("data/*"))


@pytest.mark.slow
def test_a_critical_failure_stops_the_run_with_its_figures(workspace):
    """With too few photographs `validate` ends with 1, says what was found and what to do, and keeps the outcomes."""
    for name in ("ingest", "curate"):
        assert step(name, workspace).returncode == 0
    edit_params(workspace, "validate", min_photographs=1000)
    done = step("validate", workspace)
    assert done.returncode == 1
    assert "min_value=1000" in done.stderr
    assert "relume data scan FOLDER" in done.stderr
    assert "Traceback" not in done.stderr
    outcomes = json.loads((workspace / "data/validation/validation.json").read_text())
    assert [outcome["observed"] for outcome in outcomes if not outcome["success"]] == ["17"]


def test_curate_says_what_it_set_aside(workspace):
    """Each reason has its number and examples, and where more than a fifth goes a warning names the limits."""
    step("ingest", workspace)
    params = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(params.replace("min_sharpness: 30.0", "min_sharpness: 600.0"))
    done = step("curate", workspace)
    assert re.search(r"\n  blurred +\d+  such as \S+\.(png|jpg)", done.stdout), done.stdout + done.stderr
    assert re.search(r"warning: \d+ of 17 photographs were set aside; .* params\.yaml", done.stdout)


def test_curate_without_ingested_data_says_what_to_run(workspace):
    """`curate` in a fresh checkout names the step that must come first."""
    done = step("curate", workspace)
    assert done.returncode == 2
    assert "dvc repro" in done.stderr


def _skimage():
    import importlib.util

    return importlib.util.find_spec("skimage").submodule_search_locations[0]
