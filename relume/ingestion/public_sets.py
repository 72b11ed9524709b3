"""Public sets of photographs by name: where they are, on which terms, and fetching them.

`public_sets.yaml` is the catalogue. A file is downloaded once, resumed where it broke off, and checked against its
publisher's checksum or, where there is none, against the one that the first fetch recorded in `checksums.json`.
Where the network does not reach, a file that is put into the folder by hand is taken, checked and recorded alike.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from relume.errors import SourceError
from relume.files import sha256_file, storing, write_json
from relume.ingestion.archives import SUFFIXES
from relume.ingestion.layouts import NAMES
from relume.ingestion.sources import IMAGE_SUFFIXES
from relume.nearest import did_you_mean
from relume.reading import read_json
from relume.settings import Settings, validated

RECORD = "checksums.json"
_CHUNK = 1 << 14  # of a connection that breaks, so much at most is lost
_ATTEMPTS = 4  # of a download that breaks off, each from where it did
_SECONDS = (10, 60)  # to connect, and without a byte


class SetFile(Settings):
    """A file of a set, or a row of numbered ones.

    Attributes:
        name: In the folder; of numbered ones with `{number}`.
        address: At which the publisher offers it.
        sha256: As the catalogue knows it; null where it does not.
        numbers: How many there are; null for a single file.
        first: The first number.
    """

    name: str = Field(pattern=r"^[\w{}:.-]+$")
    address: str = Field(pattern="^https?://")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    numbers: int | None = Field(default=None, ge=1)
    first: int = 1

    def each(self) -> "Iterator[SetFile]":
        """The single files that it stands for."""
        if self.numbers is None:
            yield self
        for number in range(self.first, self.first + (self.numbers or 0)):
            yield SetFile(name=self.name.format(number=number), address=self.address.format(number=number))


class PublicSet(Settings):
    """A set in the catalogue.

    Attributes:
        title: Its name and what it holds.
        page: Of its publisher.
        licence: In words.
        commercial: Whether commercial use is allowed.
        use: What it is for by custom.
        layout: Of its pairs, a name of `relume.ingestion.layouts`; empty for single photographs.
        files: What is downloaded; none where the publisher offers it behind a form or on a drive.
        by_hand: What to get from the page where there are no files.
        sources: What to scan, below the folder; empty for the folder itself.
        note: What else to know.
    """

    title: str
    page: str
    licence: str
    commercial: Literal["yes", "no", "unclear"]
    use: Literal["training", "test"]
    layout: str = Field(default="", pattern=rf"^({'|'.join(NAMES)})?$")
    files: tuple[SetFile, ...] = ()
    by_hand: str = ""
    sources: tuple[str, ...] = ()
    note: str = ""

    @property
    def terms(self) -> str:
        """The licence, and what it means for a product."""
        meaning = {
            "yes": "commercial use is allowed",
            "no": "NO COMMERCIAL USE, also not of models that are trained on it",
            "unclear": "whether it may be used commercially is unclear: do not, until you know",
        }
        return f"{self.licence}; {meaning[self.commercial]}"


@dataclass(frozen=True)
class FetchedSet:
    """A complete set in a folder.

    Attributes:
        files: Its files; of a set that is fetched by hand what was found.
        sources: What to give to `relume data scan`.
    """

    files: tuple[Path, ...]
    sources: tuple[str, ...]


@functools.cache
def catalogue() -> Mapping[str, PublicSet]:
    """The public sets by name."""
    text = (files("relume.ingestion") / "public_sets.yaml").read_text(encoding="utf-8")
    return {name: validated(PublicSet, value) for name, value in yaml.safe_load(text).items()}


def named(name: str) -> PublicSet:
    """A set of the catalogue.

    Raises:
        SourceError: It has none of this name.
    """
    if name not in catalogue():
        raise SourceError(
            "The catalogue has no such set",
            where=name,
            why=did_you_mean(name, catalogue()) or f"it has {', '.join(catalogue())}",
            next_step="run `relume data fetch` to see them all",
        )
    return catalogue()[name]


def fetch_set(
    name: str,
    of: PublicSet,
    folder: Path,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> FetchedSet:
    """Completes a folder with the files of a set.

    Args:
        name: Of the set, for what to scan.
        of: The set.
        folder: Where its files are, or go.
        progress: Given the file, and how many of its bytes are there, and of how many.

    Raises:
        SourceError: A file is missing and cannot be downloaded, or is another one than was recorded or published. What
            is there stays there.
        StorageError: The disk refuses a file.
    """
    folder = folder.absolute()
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = [single for file in of.files for single in file.each()]
    missing: list[tuple[SetFile, str]] = []
    record = _Record(folder)
    for file in wanted:
        try:
            if not (folder / file.name).is_file():
                _download(file, folder, functools.partial(progress, file.name))
            record.check(file)
        except _UnreachableError as error:
            missing.append((file, str(error)))
    if missing:
        (file, why), more = missing[0], len(missing) - 1
        raise SourceError(
            "Files of the set are missing and could not be downloaded",
            where=folder,
            why=f"{file.name}: {why}" + (f"; and {more} more" if more else ""),
            next_step=f"put {file.name} from {file.address}"
            + (f" and the {more} others from {of.page}" if more else "")
            + f" into {folder}, then run the same command again; it checks and records them",
        )
    found = tuple(folder / file.name for file in wanted) or _put_by_hand(folder)
    if not found:
        raise SourceError(
            "This set cannot be downloaded by a program",
            where=name,
            why="its publisher offers it behind a form or on a drive",
            next_step=f"put {of.by_hand} from {of.page} into {folder}, then run the same command again",
        )
    if not wanted:
        for path in found:
            record.check(SetFile.model_construct(name=path.relative_to(folder).as_posix(), sha256=None))
    layout = f"{of.layout}:" if of.layout else ""
    archives = tuple(path.name for path in found if path.parent == folder and path.name.lower().endswith(SUFFIXES))
    places = of.sources or archives or ("",)
    return FetchedSet(found, tuple(f"{name}={layout}{folder / place if place else folder}" for place in places))


class _UnreachableError(Exception):
    """A file cannot be had from its address; says why."""


class _Record:
    """The checksums of a folder's files, as they were when each was first seen."""

    def __init__(self, folder: Path):
        self._path = folder / RECORD
        next_step = "remove it, to record the files as they are now"
        self._known: dict[str, str] = (
            read_json(self._path, like=dict[str, str], next_step=next_step) if self._path.is_file() else {}
        )

    def check(self, file: SetFile) -> None:
        """Compares a file with what is known of it, and records it when nothing is."""
        path = self._path.parent / file.name
        found = sha256_file(path)
        for expected, whose in ((file.sha256, "public_sets.yaml"), (self._known.get(file.name), RECORD)):
            if expected not in (None, found):
                raise SourceError(
                    "A file of the set is not the one that it should be",
                    where=path,
                    why=f"its SHA-256 is {found}, {whose} has {expected}",
                    next_step=f"remove it and fetch again; if the publisher changed it, also that of {whose}",
                )
        if file.name not in self._known:
            self._known[file.name] = found
            write_json(self._path, self._known)


def _put_by_hand(folder: Path) -> tuple[Path, ...]:
    suffixes = (*SUFFIXES, *IMAGE_SUFFIXES)
    return tuple(
        sorted(path for path in folder.rglob("[!.]*") if path.is_file() and path.name.lower().endswith(suffixes))
    )


def _download(file: SetFile, folder: Path, progress: Callable[[int, int], None]) -> None:
    """Downloads a file; what broke off stays beside it as `.NAME.part` and is resumed."""
    import requests

    part = folder / f".{file.name}.part"
    for attempt in range(_ATTEMPTS):
        try:
            _resume(file.address, part, progress)
            break
        except requests.HTTPError as error:
            raise _UnreachableError(str(error).partition(" for url")[0]) from None
        except requests.RequestException as error:
            if attempt == _ATTEMPTS - 1 or not part.exists():
                raise _UnreachableError(f"no connection ({type(error).__name__})") from None
    with storing(folder):
        part.rename(folder / file.name)


def _resume(address: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """One request for the bytes that a partial file lacks."""
    import requests

    done = part.stat().st_size if part.exists() else 0
    # Only bytes as they are can be resumed, so none are to be compressed on their way.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(address, stream=True, timeout=_SECONDS, headers=headers) as answer:
        stated = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status_code == 416 and stated and int(stated[2]) == done:
            return  # it was complete
        if answer.status_code == 416:
            part.unlink()
            raise requests.ConnectionError("the partial file is longer than the whole one")
        answer.raise_for_status()
        resumed = answer.status_code == 206 and stated is not None and stated[1] == str(done)
        total = int(stated[2]) if resumed and stated else int(answer.headers.get("Content-Length", 0))
        with storing(part), open(part, "ab") as out:
            if not resumed:
                out.truncate(0)
            for chunk in answer.iter_content(_CHUNK):
                out.write(chunk)
                progress(out.tell(), total)
            if total and out.tell() != total:
                raise requests.ConnectionError("the answer ended too early")
