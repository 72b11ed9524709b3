"""DVC on a real S3 server: data pushed from one clone is pulled into another."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relume.files import sha256_folder


@pytest.fixture
def environment(s3):
    """What a user has set, with DVC and git as they come on a fresh machine."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    git = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **s3.environment, **git, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def run(command, folder, environment, *, succeed=True):
    done = subprocess.run(command, cwd=folder, env=environment, shell=True, capture_output=True, text=True)
    assert (done.returncode == 0) == succeed, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_data_is_pushed_and_pulled_and_a_wrong_secret_is_refused(s3, environment, tmp_path):
    """A stage's out travels over S3 into a clone without a cache, byte for byte; a wrong secret gets nothing."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    run("git init -q && dvc init -q", first, environment)
    run(
        f"dvc remote add -d store s3://dvc/cache && dvc remote modify store endpointurl {s3.endpoint}",
        first,
        environment,
    )
    (first / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: mkdir out && seq 100000 > out/numbers && echo a > out/letter\n    outs: [out]\n"
    )
    run("dvc repro -q && git add -A && git commit -qm data && dvc push -q", first, environment)
    stored = s3.client().list_objects_v2(Bucket="dvc", Prefix="cache/")
    assert stored["KeyCount"] == 3  # two files and the folder's list

    run(f"git clone -q {first} {second}", tmp_path, environment)
    assert not (second / "out").exists()
    wrong = {**environment, "AWS_SECRET_ACCESS_KEY": "wrong-and-not-to-be-printed"}
    assert "wrong-and-not-to-be-printed" not in run("dvc pull", second, wrong, succeed=False)
    assert not (second / "out").exists()
    run("dvc pull -q", second, environment)
    assert sha256_folder(second / "out") == sha256_folder(first / "out")
    shutil.rmtree(second / "out")
    assert "up to date" in run("dvc repro --pull", second, environment)
