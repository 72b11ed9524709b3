"""Photographs of another DVC repository: a real one, at its commits."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from relume.errors import SourceError
from relume.images import encode
from relume.ingestion.ingest import ingest, read_manifest
from relume.ingestion.lists import source_folders
from relume.ingestion.sources import moved_files, open_source, scan, write_sources


def photograph(seed):
    """The bytes of a PNG."""
    return encode(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), np.uint8), ".png")


def run(folder, *command):
    """Runs a command in a folder."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Two commits: the tag v1 with two photographs that DVC tracks and one that git does; then a third by DVC."""
    folder = tmp_path_factory.mktemp("registry")
    dvc = [sys.executable, "-m", "dvc"]
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.email", "a@example.org")
    run(folder, "git", "config", "user.name", "a")
    run(folder, *dvc, "init", "-q")
    (folder / "photos" / "été #1").mkdir(parents=True)
    for name, seed in (("photos/1.png", 1), ("photos/été #1/2.png", 2), ("tracked.png", 4)):
        (folder / name).write_bytes(photograph(seed))
    (folder / "photos" / "notes.txt").write_text("no image")
    for step, tag in ((1, "v1"), (2, "v2")):
        if step == 2:
            (folder / "photos" / "3.png").write_bytes(photograph(3))
        run(folder, *dvc, "add", "-q", "photos")
        run(folder, "git", "add", "-A")
        run(folder, "git", "commit", "-qm", tag)
        run(folder, "git", "tag", tag)
    return folder


def test_a_revision_gives_its_photographs(repository, tmp_path):
    """Files that DVC or git tracks are listed at the commit of the tag, and ingested with the bytes of that time."""
    listing = scan([f"dvc://{repository}@v1"])
    data = [open_source(entry["address"], expect=entry["hash"]) for entry in listing["files"]]
    assert sorted(data) == sorted(map(photograph, (1, 2, 4)))
    assert {entry["hash"].partition(":")[0] for entry in listing["files"]} == {"md5", "sha256"}
    assert scan(listing["sources"]) == listing
    assert moved_files(listing) == []
    ingest(listing, tmp_path, max_megapixels=1, min_side=8, shard_megabytes=1, progress=lambda *_: None)
    assert len(read_manifest(tmp_path)) == 3


def test_a_list_names_the_commit(repository):
    """The newest commit is listed by its hash, which a later commit does not change."""
    listing = scan([f"dvc://{repository}#photos"])
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True)
    assert len(listing["files"]) == 3
    assert all(f"@{head.stdout.strip()}#photos/" in entry["address"] for entry in listing["files"])


def test_a_repository_of_this_machine_is_what_containers_must_see(repository, tmp_path):
    """The list names its folder as one to be mounted."""
    write_sources([f"dvc://{repository}@v1#photos"], tmp_path / "sources.json")
    assert source_folders(tmp_path / "sources.json") == [repository]


@pytest.mark.parametrize("place", ["@no-such", "#no-such", "-no-such"])
def test_what_is_not_there_is_one_message(repository, place):
    """A repository, revision or folder that does not exist is named, with what to check."""
    with pytest.raises(SourceError, match=r"DVC repository cannot be read|contains no image"):
        scan([f"dvc://{repository}{place}"])


def test_a_file_that_the_cache_lost_is_one_message(repository, tmp_path):
    """When neither cache nor remote holds a listed photograph, the message names it."""
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy, symlinks=True)
    entry = next(e for e in scan([f"dvc://{copy}@v1#photos"])["files"] if e["address"].endswith("1.png"))
    md5 = entry["hash"].removeprefix("md5:")
    shutil.rmtree(copy / ".dvc" / "cache" / "files" / "md5" / md5[:2])
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(entry["address"], expect=entry["hash"])
