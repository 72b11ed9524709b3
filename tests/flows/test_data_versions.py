"""Versions of the curated data in a real repository of git and DVC, with real curated folders."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from flows.data_versions import data_versions, find_version, read_version
from flows.release.ledger import Ledger, Release
from relume.cli import main
from relume.curation.curate import curate
from relume.curation.settings import KeepBest, ValidateSettings
from relume.errors import BrokenFileError, UserError
from relume.files import sha256_file
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
PACKAGE = "ab" * 32


def run(folder, *command):
    """Runs a command in a folder."""
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Three photographs are curated and committed as v1, with a released package; then five, in the working tree."""
    root, home = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("home")
    run(root, "git", "init", "-q", "--initial-branch", "main")
    run(root, "git", "config", "user.email", "a@example.org")
    run(root, "git", "config", "user.name", "a")
    run(root, sys.executable, "-m", "dvc", "init", "-q")
    stage = "stages: {curate: {cmd: cp -r made data/curated, deps: [made], outs: [data/curated]}}\n"
    (root / "dvc.yaml").write_text(stage)
    (root / ".gitignore").write_text("/made\n/data\n")
    limits = settings(patch=96, stride=96, min_test=1, min_validation=1, keep=KeepBest(fraction=1, by=("niqe",)))
    for step, count in enumerate((3, 5)):
        photographs = {name: skimage_photograph(name) for name in NAMES[:count]}
        ingested = ingest_arrays(photographs, tmp_path_factory.mktemp(f"ingested{step}"))
        shutil.rmtree(root / "made", ignore_errors=True)
        (root / "made").mkdir()
        curate(ingested, root / "made", limits, progress=lambda *counted: None)
        (root / "data").mkdir(exist_ok=True)
        run(root, sys.executable, "-m", "dvc", "repro", "-q")
        if step == 0:
            run(root, "git", "add", "-A")
            run(root, "git", "commit", "-qm", "three photographs")
            run(root, "git", "tag", "v1")
            run(root, "git", "update-ref", f"refs/relume/runs/package-{PACKAGE[:16]}", "HEAD")
            release = Release(product="denoise", package=PACKAGE, version="1", model=f"denoise-{PACKAGE[:8]}")
            Ledger(home).append("promoted", release)
    return root, home


@pytest.fixture
def command(checkout, monkeypatch):
    """Runs `relume data ...` in the checkout."""
    monkeypatch.chdir(checkout[0])
    monkeypatch.setenv("RELUME_HOME", str(checkout[1]))
    return lambda *words: CliRunner().invoke(main, ["data", *words], catch_exceptions=False).output


def test_each_version_has_its_commits_and_packages(checkout):
    """That of the working tree comes first; the committed one knows the package that it trained, and the release."""
    here, first = data_versions(*checkout)
    assert (here.here, here.commits) == (True, ())
    assert first.commits == (run(checkout[0], "git", "rev-parse", "v1"),)
    assert first.packages == {PACKAGE[:16]: (f"denoise-{PACKAGE[:8]}",)}
    assert len(read_version(checkout[0], here).sides) == 5


def test_every_name_of_a_model_leads_to_its_data(checkout):
    """By its digits, a tag, a commit, the package or the released model the same version is found."""
    first = data_versions(*checkout)[1]
    for name in (first.name, "v1", "main", first.commits[0][:9], PACKAGE[:8], PACKAGE[:16], f"denoise-{PACKAGE[:8]}"):
        assert find_version(*checkout, name) == first, name
    for name in ("no-such", "ab", "0" * 8):
        with pytest.raises(UserError, match="No version"):
            find_version(*checkout, name)


def test_the_log_shows_all(command):
    """A line of counts for each version, and the commits and packages below."""
    lines = command("log").splitlines()
    assert "working tree" in lines[0]
    assert "1 train, 1 validation, 1 test" in lines[1]
    assert f"package {PACKAGE[:16]} (denoise-{PACKAGE[:8]})" in lines[-1]


def test_what_a_version_holds_is_shown(command):
    """Counts and the distribution of each score, those of the rule among them."""
    shown = command("show", "v1")
    assert "3 photographs" in shown
    assert f"trained package {PACKAGE[:16]}" in shown
    for score in ("sharpness", "niqe", "noise_sigma"):
        assert f"  {score} " in shown
    assert "5 photographs" in command("show")


def test_the_bounds_of_a_version_are_settings(command):
    """What is printed for params.yaml is what `validate` accepts, and the version itself is within."""
    shown = command("show", "v1", "--bounds", "0.2")
    medians = yaml.safe_load(shown)["validate"]["medians"]
    limits = {"min_photographs": 1, "min_train_patches": 1, "max_quarantined": 1, "min_colour": 0, "max_patch_share": 1}
    accepted = ValidateSettings(**limits, medians=medians).medians
    assert {"sharpness", "niqe", "entropy"} <= accepted.keys()
    assert all(low <= high for low, high in accepted.values())


def test_a_difference_names_the_photographs(command):
    """The two that were added are named, and none is called removed; the other way round they are removed."""
    forward, backward = command("diff", "v1"), command("diff", data_name(command), "v1")
    for name in NAMES[3:]:
        assert any(line.startswith("  added") and line.endswith(name) for line in forward.splitlines())
        assert any(line.startswith("  removed") and line.endswith(name) for line in backward.splitlines())
    assert "removed" not in forward
    assert "sharpness" in forward
    assert "no change" in command("diff", "v1", "main")
    assert "1 more; --most 2 lists them" in command("diff", "v1", "--most", "1")


def data_name(command):
    """The version of the working tree."""
    return command("log").split()[0]


def test_a_version_that_the_cache_lost_says_how_to_get_it_back(checkout, tmp_path):
    """The log still names it; reading it is one message with the command that fetches it."""
    copy = tmp_path / "copy"
    shutil.copytree(checkout[0], copy, symlinks=True)
    first = data_versions(copy, checkout[1])[1]
    objects = copy / ".dvc" / "cache" / "files" / "md5"
    listing = objects / first.hash[:2] / f"{first.hash[2:]}.dir"
    table = next(file for file in json.loads(listing.read_text()) if file["relpath"] == "images.csv")["md5"]
    damaged = objects / table[:2] / table[2:]
    assert sha256_file(damaged)
    damaged.unlink()
    with pytest.raises(BrokenFileError, match="A file is missing"):
        read_version(copy, first)
    listing.unlink()
    with pytest.raises(BrokenFileError, match="dvc fetch"):
        read_version(copy, first)
