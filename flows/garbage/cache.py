"""DVC's cache: what no dvc.lock names, in any commit that git keeps.

`dvc gc` knows branches and tags. The locks of releases and runs stand in refs of their own, and a result in the run
cache can still be used; what these name stays here too.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from flows.run_commit import git
from relume.reading import read_as

_HASH = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?\b")
_LOCKS = (":(glob)**/dvc.lock", ":(glob)**/*.dvc")
_NO_BLOB = re.compile("0+")
_AGAIN = "remove it, then run `dvc fetch` or `relume pipeline run`"


@dataclasses.dataclass(frozen=True)
class _Member:
    """A file of a folder in the cache."""

    md5: str


def unused_files(root: Path, cache: Path, *, without: Iterable[str], before: float) -> list[Path]:
    """The files of DVC's cache that can go, in the order in which they are to be removed.

    A kill between two of them leaves a cache that DVC reads: what refers to others goes first.

    Args:
        root: The checkout.
        cache: DVC's cache.
        without: Refs whose commits do not count.
        before: Seconds since 1970. What is younger stays: who wrote it may still be running.

    Raises:
        BrokenFileError: A list of a folder's files in the cache is damaged.
        RepositoryError: git refuses.
    """
    objects, entries = cache / "files" / "md5", sorted((cache / "runs").glob("*/*/*"))
    old = {path for path in entries if path.stat().st_mtime < before}
    # A young result of the run cache is good for the next run, with all that it names.
    used = _with_members(_named(root, without) | _hashes(_text(path) for path in entries if path not in old), objects)
    unused = [
        path
        for path in sorted(objects.glob("??/*"))
        if path.parent.name + path.name not in used and path.stat().st_mtime < before
    ]
    gone = {path.parent.name + path.name for path in unused}
    results = [path for path in sorted(old) if _hashes([_text(path)]) & gone]
    return results + sorted(unused, key=lambda path: path.suffix != ".dir")


def _named(root: Path, without: Iterable[str]) -> set[str]:
    """Every hash in a dvc.lock or a .dvc file, in the working tree, its index or a commit."""
    log = ["log", *(f"--exclude={ref}" for ref in without), "--all", "--reflog", "--full-history", "-m", "--no-renames"]
    changes = git(root, *log, "--raw", "--no-abbrev", "--format=", "--", *_LOCKS)
    staged = git(root, "ls-files", "--stage", "--", *_LOCKS)
    blobs = {line.split()[3] for line in changes.splitlines()} | {line.split()[1] for line in staged.splitlines()}
    names = git(root, "ls-files", "--cached", "--others", "-z", "--", *_LOCKS).split("\0")
    here = (_text(root / name) for name in names if name and (root / name).is_file())
    return _hashes(here) | _hashes(
        git(root, "cat-file", "blob", blob) for blob in blobs if not _NO_BLOB.fullmatch(blob)
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _hashes(texts: Iterable[str]) -> set[str]:
    return {found for text in texts for found in _HASH.findall(text)}


def _with_members(hashes: set[str], objects: Path) -> set[str]:
    """With the files of each folder, whose hash is that of a list of them."""
    members: set[str] = set()
    for name in hashes:
        if name.endswith(".dir") and (listing := objects / name[:2] / name[2:]).is_file():
            members |= {member.md5 for member in read_as(list[_Member], listing, next_step=_AGAIN)}
    return hashes | members
