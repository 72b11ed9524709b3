"""What the Makefile does to a checkout, and that the hooks before a commit do the same as `make check`."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def test_clean_deletes_what_is_ignored_and_no_tracked_file(tmp_path):
    """In a clone, `make clean` removes local state, outs and private clones below them; git misses no file."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    shutil.copy(ROOT / "Makefile", clone)
    for name in (".relume/ledger.jsonl", "data/curated/manifest.csv", "models/final/model.json", "package/card.json"):
        (clone / name).parent.mkdir(parents=True)
        (clone / name).touch(mode=0o444)
    subprocess.run(["git", "init", "-q", clone / ".relume" / "runs" / "clone"], check=True)
    (clone / "reports").mkdir()
    (clone / "reports" / "tracked.md").touch()
    subprocess.run(["git", "-C", clone, "add", "--force", "reports/tracked.md"], check=True)

    subprocess.run(["make", "--directory", clone, "clean"], check=True, capture_output=True)

    deleted = subprocess.run(["git", "-C", clone, "ls-files", "--deleted"], check=True, capture_output=True, text=True)
    assert deleted.stdout == ""
    assert not [name for name in (".relume", "data", "models", "package") if (clone / name).exists()]


@pytest.mark.parametrize("fault", ["none", "moved", "broken", "another Python"])
def test_an_environment_that_does_not_belong_here_is_made_anew(tmp_path, fault):
    """`make setup` takes an environment for ready only where it was made, with the Python that it was made with."""
    root = tmp_path / "a checkout"
    (root / "infra").mkdir(parents=True)
    for name in ("infra/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    (root / ".venv" / "bin" / "pip").write_text(f"#!{root}/.venv/bin/python\n")
    key = "cat pyproject.toml constraints.txt infra/setup.sh | sha256sum | cut -c1-16"
    stamp = subprocess.run(["sh", "-c", key], cwd=root, check=True, capture_output=True, text=True).stdout
    (root / ".venv" / "relume-stamp").write_text(stamp)
    python = tmp_path / "python"  # which installs nothing
    version = "Python 3.12.99" if fault == "another Python" else f"Python {platform.python_version()}"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && echo {version} && exit\n'
        f'[ "$2" = venv ] && set -- "$@" --without-pip\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    if fault == "moved":
        root = root.rename(tmp_path / "b")
    elif fault == "broken":
        (root / ".venv" / "bin" / "python").unlink()
    environment = {"PYTHON": str(python), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", root / "infra" / "setup.sh"], env=environment, capture_output=True, text=True)
    assert ("Removing .venv" in done.stdout) == (fault != "none"), done.stdout + done.stderr
    assert (done.returncode == 0) == (root / ".venv" / "relume-stamp").is_file() == (fault == "none")


def test_the_hooks_before_a_commit_are_those_of_make_check():
    """.pre-commit-config.yaml runs the commands of `make check`, on the changed files where the tool takes files."""
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]

    def command(line: str) -> list[str]:
        return [word for word in line.split() if word not in {"--check", "--force-exclude", "."}]

    assert [command(hook["entry"]) for hook in hooks] == [command(line) for line in recipe.splitlines()]


def test_an_installed_package_has_its_data():
    """What lies beside the code and is no code is in setuptools' package data; requirements.txt is for containers."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    tracked = subprocess.run(
        ["git", "ls-files", "relume", "components", "flows"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for path in map(Path, tracked):
        if path.suffix != ".py" and path.name != "requirements.txt":
            room = path.parts[0]
            packed = {file for pattern in data.get(room, ()) for file in (ROOT / room).glob(pattern)}
            assert ROOT / path in packed, path
