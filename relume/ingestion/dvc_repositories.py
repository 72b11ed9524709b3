"""Photographs that another DVC repository tracks, at one of its commits.

What a person types is `dvc://REPOSITORY[@REVISION][#FOLDER]`, with a repository as git takes it: a path or an address.
The list names the commit that the revision stood for, so that a branch that moves on changes nothing before the next
scan. Nothing is fetched to list what DVC tracks, because its MD5 stands in the repository; what git tracks is read.
"""

import functools
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from relume.errors import RelumeError, SourceError

SCHEME = "dvc://"
_turn = threading.Lock()  # DVC keeps its index in files that one thread at a time may use


def absolute(place: str) -> str:
    """The place with the path of a local repository made absolute."""
    repository, revision, folder = _parts(place)
    if "://" not in repository and ":" not in repository:
        repository = os.path.abspath(os.path.expanduser(repository))
    return _place(repository, revision, folder)


def listing(place: str, *, suffixes: tuple[str, ...]) -> tuple[str, list[dict[str, Any]]]:
    """The images below a place.

    Args:
        place: As `absolute` gives it.
        suffixes: Of images, in small letters.

    Returns:
        The beginning of all addresses, and the entries of a list of sources.

    Raises:
        SourceError: There is no such repository, revision or folder, or it cannot be reached.
    """
    repository, revision, folder = _parts(place)
    with _asking(place), _turn:
        files = _file_system(repository, revision)
        commit = files.repo.get_rev()
        prefix = _place(_quoted(repository), commit, "")
        entries = []
        for path, info in sorted(files.find(f"/{folder}", detail=True).items()):
            name = path.lstrip("/")
            if not name.lower().endswith(suffixes) or any(part.startswith(".") for part in name.split("/")):
                continue
            if md5 := info.get("md5"):
                size, digest = info.get("size") or 0, f"md5:{md5}"
            else:
                data = files.read_bytes(path)
                size, digest = len(data), f"sha256:{hashlib.sha256(data).hexdigest()}"
            entries.append({"address": f"{prefix}#{_quoted(name)}", "bytes": size, "hash": digest})
    return f"{prefix}#{_quoted(folder) + '/' if folder else ''}", entries


def read(address: str) -> bytes:
    """The bytes of a listed file.

    Raises:
        SourceError: As `listing`, or the repository's remote and cache no longer hold it.
    """
    repository, revision, name = _parts(address)
    with _asking(address), _turn:
        path = os.fsdecode(unquote_to_bytes(name))
        return _file_system(os.fsdecode(unquote_to_bytes(repository)), revision).read_bytes(f"/{path}")


def local_repository(place: str) -> str | None:
    """The path of a repository of this machine; None for one elsewhere."""
    repository, _, _ = _parts(place)
    return repository if os.path.isabs(repository) else None


@functools.lru_cache(maxsize=4)
def _file_system(repository: str, revision: str) -> Any:
    try:
        import fsspec

        return fsspec.filesystem("dvc", url=repository, rev=revision or "HEAD", skip_instance_cache=True)
    except ImportError:
        raise SourceError(
            "A DVC repository can only be read where DVC is installed",
            where=repository,
            next_step="pip install --constraint constraints.txt dvc; or run the graph with the runner `subprocess`",
        ) from None


@contextmanager
def _asking(place: str) -> Iterator[None]:
    """Makes of whatever DVC and git raise one error in the user's terms."""
    try:
        yield
    except (RelumeError, ImportError, MemoryError):
        raise
    except Exception as error:  # each of their libraries has exceptions of its own
        raise SourceError(
            "The DVC repository cannot be read",
            where=place,
            why=" ".join(str(error).split())[:300] or type(error).__name__,
            next_step="check its address, the revision after @ and the folder after #",
        ) from None


def _parts(place: str) -> tuple[str, str, str]:
    """Repository, revision and folder; a revision has neither a colon nor a slash, so that user@host:path has none."""
    repository, _, folder = place.removeprefix(SCHEME).partition("#")
    if found := re.fullmatch(r"(.+)@([^@:/]+)", repository):
        return found[1], found[2], folder.strip("/")
    return repository, "", folder.strip("/")


def _place(repository: str, revision: str, folder: str) -> str:
    return f"{SCHEME}{repository}{revision and '@' + revision}{folder and '#' + folder}"


def _quoted(name: str) -> str:
    return quote_from_bytes(os.fsencode(name), safe="/:@")
