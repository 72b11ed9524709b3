"""The command line as a user types it: real processes, their output and their exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from flows.release.ledger import Ledger, Release
from relume.images import read_image, save_image
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

RELUME = Path(sys.executable).with_name("relume")
VERBS = ["data scan", "demo", "doctor", "down", "pipeline lint", "pipeline run", "release", "report", "restore"]
VERBS += ["env", "retrain", "rollback", "serve", "status", "up", "models list", "models show", "models import"]


class Shell:
    """Runs `relume` in a folder of its own with a home of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RELUME", "MLFLOW"))}
        return subprocess.run(
            [RELUME, *map(str, arguments)],
            cwd=self.folder,
            env=environment | {"RELUME_HOME": str(self.folder / "home")},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def relume(tmp_path):
    """A user's shell in an empty folder that holds one noisy photograph."""
    save_image(tmp_path / "noisy.jpg", skimage.data.chelsea()[:90, :130])
    return Shell(tmp_path)


@pytest.fixture
def exported(relume):
    """The folder holds an exported model: a blur."""
    write_tiny_model(relume.folder / "models" / "exported", tile=64, halo=8)
    return relume


def refused(result: subprocess.CompletedProcess, code: int, *words: str) -> None:
    """A refusal is one message with a next step on standard error, and no traceback."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("error: ")
    assert "next: " in result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(relume, verb):
    """`--help` of a verb says what it does."""
    result = relume(*verb.split(), "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: relume {verb}")


def test_help_shows_examples_and_every_verb(relume):
    """`relume --help` lists the verbs and begins with something to type."""
    text = relume("--help").stdout
    assert "relume restore noisy.jpg -o clean.png" in text
    assert {verb.split()[0] for verb in VERBS} <= set(text.split())


def test_an_image_is_restored_in_process(exported):
    """The output is what the model computes, written in the format of its suffix."""
    result = exported("restore", "noisy.jpg", "-o", "out/clean.png", "--model", "models/exported")
    assert result.returncode == 0, result.stderr
    assert "130x90" in result.stdout
    noisy, clean = (read_image(exported.folder / name).pixels for name in ("noisy.jpg", "out/clean.png"))
    assert np.abs(clean.astype(int) - convolve(noisy, BLUR)).max() <= 1


def test_the_shipped_model_restores_before_anything_was_trained(relume):
    """Without a release and outside a checkout `photo` restores, and the line says so; an unknown product does not."""
    result = relume("restore", "noisy.jpg", "-o", "clean.png")
    assert result.returncode == 0, result.stderr
    assert "by photo (shipped" in result.stdout
    assert read_image(relume.folder / "clean.png").pixels.shape == (90, 130, 3)
    refused(relume("restore", "noisy.jpg", "-o", "other.png", "--product", "foto"), 2, "did you mean photo")
    assert not (relume.folder / "other.png").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"not an image at all", "is not an image"), (None, "The image does not exist")],
)
def test_a_bad_image_is_refused(exported, content, words):
    """An empty file, something else, or nothing there: exit code 2, and an earlier output survives."""
    if content is not None:
        (exported.folder / "bad.jpg").write_bytes(content)
    (exported.folder / "clean.png").write_bytes(b"an earlier result")
    refused(exported("restore", "bad.jpg", "-o", "clean.png"), 2, "bad.jpg")
    assert (exported.folder / "clean.png").read_bytes() == b"an earlier result"
    assert sorted(path.name for path in exported.folder.glob(".*")) == []


def test_a_truncated_image_is_refused(exported):
    """Half a JPEG is not restored as if it were an image."""
    data = (exported.folder / "noisy.jpg").read_bytes()
    (exported.folder / "half.jpg").write_bytes(data[: len(data) // 2])
    refused(exported("restore", "half.jpg", "-o", "clean.png"), 2, "half.jpg")


def test_an_unknown_output_format_is_refused_before_the_work(exported):
    """The suffix is checked first."""
    refused(exported("restore", "noisy.jpg", "-o", "clean.xyz"), 2, "clean.xyz")


def test_a_server_that_is_not_there(exported):
    """An address that nothing listens at is a failure, not a user's mistake: exit code 1."""
    refused(
        exported("restore", "noisy.jpg", "-o", "clean.png", "--server", "127.0.0.1:1", "--product", "denoise"),
        1,
        "127.0.0.1:1",
    )


def test_a_source_that_is_not_there_is_refused(relume):
    """`data scan` of a missing or empty folder changes nothing."""
    refused(relume("data", "scan", "nowhere"), 2, "nowhere")
    (relume.folder / "empty").mkdir()
    refused(relume("data", "scan", "empty"), 2, "empty")
    assert not (relume.folder / "sources.json").exists()


def test_scanning_a_folder_lists_its_photographs(relume):
    """The list holds the image, and a second scan finds nothing new."""
    assert "1 photograph, 1 new" in relume("data", "scan", ".").stdout
    assert "1 photograph, 0 new" in relume("data", "scan").stdout


def test_nothing_to_release_report_or_roll_back(relume):
    """Before the pipeline ran, each says which command to run first."""
    for name in ("params.yaml", "recipe.yaml"):
        (relume.folder / name).write_text((Path(__file__).parents[2] / name).read_text())
    refused(relume("release"), 2, "relume pipeline run")
    refused(relume("report"), 2, "relume pipeline run")
    refused(relume("rollback"), 2, "relume release")


def test_status_works_with_nothing_running(relume):
    """It shows every service as stopped or not installed, and what to do first."""
    result = relume("status")
    assert result.returncode == 0
    for service in ("mlflow", "prefect", "worker", "triton"):
        assert service in result.stdout
    assert "Nothing was released yet" in result.stdout


def test_a_terminal_of_few_characters(relume):
    """Where a sign cannot be printed, as in a Latin-1 locale, status shows a substitute and ends well."""
    release = Release(product="denoise", package="9" * 64, version="1", model="denoise-99999999")
    Ledger(relume.folder / "home").append("registered", release)
    Ledger(relume.folder / "home").append("refused", release, failed=["gain: 0.00 dB, must be ≥ 6.00 dB"])
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [RELUME, "status"], env=environment | {"RELUME_HOME": str(relume.folder / "home")}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"must be ? 6.00 dB" in done.stdout


def test_env_is_for_a_shell(relume):
    """What `env` prints is evaluated by a shell, whatever the folder's name; a retraining needs the platform."""
    home = relume.folder / "it's & a home"
    code = 'eval "$(relume env)"; echo "$MLFLOW_TRACKING_URI|$PREFECT_API_URL"'
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PREFECT"))}
    environment |= {"RELUME_HOME": str(home), "PATH": f"{RELUME.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("sqlite:///")
    assert done.stdout.endswith("|\n"), done.stderr
    refused(relume("retrain"), 1, "relume up")


@pytest.mark.exhaustive
def test_an_official_checkpoint_becomes_an_artifact(relume):
    """A .pth file with its weights under `params` is imported by the name of its network; a wrong name is refused."""
    import torch

    from relume.files import sha256_folder
    from relume.models.artifact import load_card
    from relume.models.registry import build, variants

    variant = variants()["nafnet-demo"]
    state = build(variant.architecture, variant.arguments).state_dict()
    torch.save({"params": state}, relume.folder / "official.pth")
    result = relume("models", "import", "official.pth", "--architecture", "nafnet-demo", "-o", "imported")
    assert result.returncode == 0, result.stderr
    assert load_card(relume.folder / "imported").provenance["state_dict"] == "params"
    assert f"initial: {{artifact: imported, sha256: {sha256_folder(relume.folder / 'imported')}}}" in result.stdout
    refused(relume("models", "import", "official.pth", "--architecture", "restormer-demo", "-o", "x"), 2, "nafnet-demo")
    assert not (relume.folder / "x").exists()
