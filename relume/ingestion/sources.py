"""Where photographs come from: folders, archives, S3 prefixes, DVC repositories and the photographs inside packages.

A *source* is what a person types, `[SET=][LAYOUT:]PLACE`: a place, the layout of its pairs (`relume.ingestion.layouts`)
where it holds pairs, and the name of the set where there are several. An *address* names one file and is what
`sources.json` lists:

| place | addresses |
|---|---|
| a folder | `file:///absolute/path/to/file.jpg`, percent-encoded |
| a tar or zip, `ARCHIVE` or `ARCHIVE#PREFIX` | `archive:///absolute/path/to/set.zip#name/in/it.png`, percent-encoded |
| `s3://bucket/prefix` | `s3://bucket/key` |
| `dvc://REPOSITORY[@REVISION][#FOLDER]` | `dvc://REPOSITORY@COMMIT#path/to/file.jpg`, percent-encoded |
| `package://` | `package://skimage/data/astronaut.png` |

A pair is one entry: that of the clean file, which holds the degraded one's.
"""

import hashlib
import importlib.util
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from relume.errors import SourceError
from relume.files import NotRegularError, open_regular, write_json
from relume.ingestion import archives, dvc_repositories
from relume.ingestion.layouts import NAMES, OWN, TABLE, Pair, Unpaired, find_pairs, read_pairs
from relume.reading import read_json

PACKAGES = "package://"
ARCHIVE = "archive://"

# Photographs inside installed packages; drawings, diagrams and text pages beside them are left out.
# Terms: scikit-image states them in the docstrings of skimage.data (CC0 or public domain, mostly),
# scikit-learn in datasets/images/README.txt (CC BY 2.0); matplotlib's is a work of the US Navy (public domain).
BUILT_IN = (
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/chelsea.png",
    "skimage/data/clock_motion.png",
    "skimage/data/coffee.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/motorcycle_right.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
_DISTRIBUTION = {"skimage": "scikit-image", "sklearn": "scikit-learn"}

# Files with these suffixes are listed. Those that cannot be decoded are listed too, so that each
# appears in the quarantine with its reason instead of vanishing.
_DECODED = ("png", "jpg", "jpeg", "jpe", "jfif", "webp", "tif", "tiff", "bmp", "gif")
_NOT_DECODED = ("heic", "heif", "avif", "jp2", "jxl", "psd")
_RAW = ("dng", "nef", "cr2", "cr3", "arw", "orf", "raf", "rw2", "pef", "srw")
IMAGE_SUFFIXES = tuple(f".{suffix}" for suffix in _DECODED + _NOT_DECODED + _RAW)
VIDEO_SUFFIXES = tuple(f".{suffix}" for suffix in ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mts", "m2ts"))
_LISTED = IMAGE_SUFFIXES + VIDEO_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class SourcesChange:
    """What a scan found compared with the list before it.

    Attributes:
        path: The list that names them now.
        files: Number of files listed now.
        added: Addresses that are new.
        removed: Addresses that are gone.
        modified: Addresses whose bytes changed.
        replaced: Sources that the list before it named and this one does not.
        problems: Addresses of what is no regular file, each with what it is; they will be quarantined.
    """

    path: Path
    files: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    modified: tuple[str, ...]
    replaced: tuple[str, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.modified)


@dataclass(frozen=True)
class Source:
    """What a person types.

    Attributes:
        place: A folder, an archive, an `s3://bucket/prefix`, a `dvc://REPOSITORY` or `package://`; of pairs in a table,
            the table.
        layout: Of its pairs, a name of `relume.ingestion.layouts` or two patterns such as `dark/*|light/*`; empty for
            single photographs.
        set: The set that its photographs belong to; empty where it has no name.
    """

    place: str
    layout: str = ""
    set: str = ""

    @classmethod
    def of(cls, text: str) -> "Source":
        """Reads `[SET=][LAYOUT:]PLACE`."""
        found = re.fullmatch(rf"(?:([A-Za-z0-9][\w-]*)=)?(?:({'|'.join(NAMES)}|{OWN}):)?(.*)", text, re.DOTALL)
        assert found is not None
        return cls(found[3], found[2] or "", found[1] or "")

    def __str__(self) -> str:
        return f"{self.set and self.set + '='}{self.layout and self.layout + ':'}{self.place}"


@dataclass(frozen=True)
class _DegradedFile:
    address: str
    bytes: int
    hash: str
    kind: str = ""


@dataclass(frozen=True)
class _ListedFile:
    address: str
    bytes: int
    hash: str
    problem: str = ""
    reason: str = "not_a_file"
    set: str = ""
    degraded: _DegradedFile | None = None


@dataclass(frozen=True)
class _Listing:
    """What sources.json holds."""

    sources: list[str]
    files: list[_ListedFile]


def scan(sources: Sequence[str | Path] = (PACKAGES,)) -> dict[str, Any]:
    """Lists every image file and video in some sources, with its size and hash.

    Args:
        sources: `[SET=][LAYOUT:]PLACE`, see above.

    Returns:
        The content of sources.json: `sources`, with folders made absolute, and `files`, sorted by
        address, each with `address`, `bytes` and `hash` (`sha256:...`, on S3 `etag:...`); where the set has a name with
        `set`; and of a pair with `degraded`, the other file's address, bytes, hash and the `kind` of degradation. What
        is not a regular file is not opened: its `hash` is `none` and `problem` says what it is. A file that may not be
        read, and one of a set of pairs that is not one of two, is listed with its `problem` and the `reason` of the
        quarantine. Files without the suffix of an image, hidden ones, and those that are neither side of the layout
        are not listed. What is in several sources is listed once, as the last of them.

    Raises:
        SourceError: A source is missing, empty, unreachable or refuses the credentials, or holds no pair, or all files
            of a set are in later sources of other sets.
    """
    names: list[str] = []
    files: dict[tuple[str, str], dict[str, Any]] = {}
    given = [Source.of(str(text)) for text in sources]
    for source in given:
        place, entries = _scan_pairs(source) if source.layout else _scan_place(source.place)[::2]
        names.append(str(replace(source, place=place)))
        of_set = {"set": source.set} if source.set else {}
        files.update(
            ((entry["address"], entry.get("degraded", {}).get("address", "")), entry | of_set) for entry in entries
        )
    kept = {entry.get("set", "") for entry in files.values()}
    if lost := next((source for source in given if source.set not in kept), None):
        raise SourceError(
            "A set has no photograph of its own",
            where=str(lost),
            why="all of its files are in a later source, whose set they belong to",
            next_step="name the place once, or a folder before the folders in it",
        )
    return {"sources": names, "files": [files[addresses] for addresses in sorted(files)]}


def _scan_place(place: str) -> tuple[str, str, list[dict[str, Any]]]:
    """The place as it is recorded, the beginning of the addresses of its files, and its files."""
    if place == PACKAGES:
        return place, place, _scan_packages()
    if place.startswith("s3://"):
        return place, place.rstrip("/") + "/", _scan_s3(place)
    if place.startswith(dvc_repositories.SCHEME):
        place = dvc_repositories.absolute(place)
        prefix, entries = dvc_repositories.listing(place, suffixes=_LISTED)
        return place, prefix, entries or _refuse_empty(place)
    archive, _, below = place.partition("#")
    if place.startswith(ARCHIVE) or archives.is_archive(Path(archive).expanduser()):
        path = _path("file://" + archive.removeprefix(ARCHIVE)) if place.startswith(ARCHIVE) else _local(archive)
        place = f"{ARCHIVE}{_quoted(str(path))}"
        recorded = place + (f"#{below}" if below else "")
        entries = [_member_entry(place, member) for member in archives.members(path, below=below, suffixes=_LISTED)]
        return (
            recorded,
            f"{place}#{_quoted(below.rstrip('/') + '/') if below else ''}",
            entries or _refuse_empty(recorded),
        )
    folder = _local(place)
    return _address(folder), _address(folder).rstrip("/") + "/", _scan_folder(folder)


def _member_entry(archive: str, member: archives.Member) -> dict[str, Any]:
    entry: dict[str, Any] = {"address": f"{archive}#{_quoted(member.name)}", "bytes": member.bytes, "hash": member.hash}
    return entry | ({"problem": member.problem, "reason": member.reason} if member.problem else {})


def _local(place: str) -> Path:
    """The path of a folder or file of this machine."""
    if "://" in place and not place.startswith("file://"):
        raise SourceError(
            "This kind of source is not supported",
            where=place,
            next_step=f"give a folder, an archive, s3://bucket/prefix, dvc://REPOSITORY or {PACKAGES}",
        )
    path = _path(place) if place.startswith("file://") else Path(place).expanduser()
    return Path(os.path.abspath(path))  # `a/../b` becomes `b`, links stay as they are


def _scan_pairs(source: Source) -> tuple[str, list[dict[str, Any]]]:
    """As `_scan_place`, of a set of pairs."""
    in_table = source.layout == TABLE
    if in_table and not source.place.startswith("s3://"):
        source = replace(source, place=_address(_local(source.place)))
    base, prefix, entries = _scan_place(source.place.rpartition("/")[0] if in_table else source.place)
    found = {entry["address"].removeprefix(prefix): entry for entry in entries}
    alone: list[Unpaired] = []
    if in_table:
        quoted = str if base.startswith("s3://") else _quoted
        pairs = read_pairs(open_source(source.place), source.place)
        pairs = [replace(pair, degraded=quoted(pair.degraded), clean=quoted(pair.clean)) for pair in pairs]
    else:
        names = {name if base.startswith("s3://") else _unquoted(name): name for name in found}
        pairs, alone = find_pairs(source.layout, names)
        pairs = [replace(pair, degraded=names[pair.degraded], clean=names[pair.clean]) for pair in pairs]
        alone = [replace(file, name=names[file.name]) for file in alone]
    if not pairs:
        raise SourceError(
            "The source contains no pair",
            where=str(source),
            why=f"of its {len(found)} images none is a degraded one with a clean one, as the layout {source.layout} has"
            " them",
            next_step="check the layout (docs/data.md lists them; patterns leave out the suffix), or the file names",
        )
    listed = [_paired(pair, prefix, found) for pair in pairs]
    return source.place if in_table else base, listed + [
        found[file.name] | _not_taken(file.reason, file.problem) for file in alone
    ]


def _paired(pair: Pair, prefix: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry of a pair, or of what keeps two files from being one."""
    missing = [name for name in (pair.degraded, pair.clean) if name not in found]
    if missing:
        other = pair.clean if missing[0] == pair.degraded else pair.degraded
        return {"address": prefix + other, **_not_taken("missing_partner", f"there is no image {missing[0]}")}
    degraded, clean = found[pair.degraded], found[pair.clean]
    if broken := [entry for entry in (clean, degraded) if "problem" in entry]:
        return broken[0]
    if degraded["hash"] == clean["hash"]:
        why = f"its degraded image {degraded['address']} is the same file"
        return clean | _not_taken("identical_pair", why)
    return clean | {"degraded": degraded | ({"kind": pair.kind} if pair.kind else {})}


def _not_taken(reason: str, problem: str) -> dict[str, Any]:
    return {"bytes": 0, "hash": "none", "reason": reason, "problem": problem}


def _quoted(name: str) -> str:
    return quote_from_bytes(os.fsencode(name))


def _unquoted(name: str) -> str:
    return os.fsdecode(unquote_to_bytes(name))


def write_sources(
    sources: Sequence[str | Path] | None = None,
    path: str | Path = "sources.json",
    *,
    instead_of: str | Path | None = None,
) -> SourcesChange:
    """Scans sources and updates a list; an unchanged list is not touched.

    Args:
        sources: As for `scan`; None scans again what the list before it names, or `package://` without one.
        path: The list.
        instead_of: The list before it, where that is another file.

    Returns:
        What changed.
    """
    path, old_path = Path(path), Path(instead_of or path)
    before: dict[str, Any] = {"sources": [PACKAGES], "files": []}
    if os.path.lexists(old_path):
        before = read_sources(old_path)
    try:
        now = scan(before["sources"] if sources is None else sources)
    except SourceError as error:
        if sources is not None or not os.path.lexists(old_path):
            raise
        where = f"{error.where}, named in {old_path}"
        raise SourceError(error.what, where=where, why=error.why, next_step=error.next_step) from None
    if path != old_path or now != before or not path.exists():
        write_json(path, now)
    old, new = ({entry["address"]: entry["hash"] for entry in single_files(listing)} for listing in (before, now))
    return SourcesChange(
        path=path,
        files=len(new),
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        modified=tuple(sorted(address for address in old.keys() & new.keys() if old[address] != new[address])),
        replaced=tuple(source for source in before["sources"] if old and source not in now["sources"]),
        problems=tuple((entry["address"], entry["problem"]) for entry in now["files"] if "problem" in entry),
    )


def read_sources(path: str | Path = "sources.json") -> dict[str, Any]:
    """Reads the tracked list of sources.

    Raises:
        SourceError: There is no such list.
        BrokenFileError: It is not one.
    """
    if not os.path.lexists(path):
        raise SourceError("The list of sources does not exist", where=path, next_step="run `relume data scan`")
    again = "remove it, then run `relume data scan FOLDER` with your folders"
    return read_json(path, like=_Listing, next_step=again)


def open_source(address: str, *, expect: str | None = None) -> bytes:
    """Reads the bytes of one file.

    Args:
        address: As listed by `scan`.
        expect: The listed hash; other bytes than those listed are refused, because whatever is made
            of them would be recorded as made of the listed ones.

    Raises:
        SourceError: The file is gone, unreachable, or not the one that was listed.
    """
    if address.startswith("s3://"):
        from relume import s3

        data, etag = s3.read(address)
        found = f"etag:{etag}"
    elif address.startswith(dvc_repositories.SCHEME):
        data = dvc_repositories.read(address)
        kind = (expect or "sha256:").partition(":")[0]
        found = f"{kind}:{hashlib.new(kind, data, usedforsecurity=False).hexdigest()}"
    elif address.startswith(ARCHIVE):
        data = archives.read_member(*_in_archive(address))
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    else:
        path = _package_path(address) if address.startswith(PACKAGES) else _path(address)
        try:
            with open_regular(path) as file:
                data = file.read()
        except OSError as error:
            raise _gone(address, error) from None
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if expect is not None:
        _check(address, found, expect)
    return data


def _gone(address: str, error: OSError) -> SourceError:
    return SourceError(
        "A listed photograph cannot be read", where=address, why=error.strerror, next_step="run `relume data scan`"
    )


def _check(address: str, found: str, expect: str) -> None:
    if found != expect:
        raise SourceError(
            "A photograph changed after it was listed",
            where=address,
            why=f"sources.json lists it with {expect}, now it has {found}",
            next_step="run `relume data scan` to list it again",
        )


def _in_archive(address: str) -> tuple[Path, str]:
    """The archive of an address, and the name in it."""
    archive, _, name = address.removeprefix(ARCHIVE).partition("#")
    return _path(archive), _unquoted(name)


def single_files(listing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of a list, the degraded files of its pairs among them."""
    files = listing["files"]
    return [*files, *(entry["degraded"] for entry in files if "degraded" in entry)]


def moved_files(listing: dict[str, Any]) -> list[str]:
    """Addresses of listed files of this machine that are gone or have another size; their bytes are not read."""
    return [
        entry["address"]
        for entry in single_files(listing)
        if "problem" not in entry and _size(entry["address"]) not in (None, entry["bytes"])
    ]


def _size(address: str) -> int | None:
    """Bytes of a file, -1 when it is gone; None where that cannot be said without a network or reading an archive."""
    if address.startswith(("s3://", dvc_repositories.SCHEME)):
        return None
    if address.startswith(ARCHIVE):
        return None if _in_archive(address)[0].is_file() else -1
    try:
        return (_package_path(address) if address.startswith(PACKAGES) else _path(address)).stat().st_size
    except (OSError, SourceError):
        return -1


@contextmanager
def opened_source(address: str, *, expect: str) -> Iterator[BinaryIO]:
    """Opens one file for reading; a large one on this machine is not taken into memory.

    Args:
        address: As listed by `scan`.
        expect: The listed hash.

    Raises:
        SourceError: As `open_source`.
    """
    if "://" in address and not address.startswith("file://"):
        yield io.BytesIO(open_source(address, expect=expect))
        return
    try:
        file = open_regular(_path(address))
    except OSError as error:
        raise _gone(address, error) from None
    with file:
        _check(address, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", expect)
        file.seek(0)
        yield file


def image_files(folder: str | Path, *, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The image files below a folder, sorted; hidden files and folders are left out.

    Args:
        folder: The folder.
        suffixes: Of the files, with other kinds among them.

    Raises:
        SourceError: The folder is missing, holds none or cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SourceError(
            "The folder of photographs is a file" if folder.exists() else "The folder of photographs does not exist",
            where=folder,
            next_step="check the path",
        )
    paths = []
    try:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths += [Path(parent, name) for name in names if _is_image(name, suffixes)]
    except OSError as error:
        raise _unreadable(folder, error) from None
    if not paths:
        raise _no_images(folder)
    return sorted(paths)


def _address(path: Path) -> str:
    return "file://" + _quoted(str(path))


def _path(address: str) -> Path:
    return Path(_unquoted(address.removeprefix("file://")))


def _entry(path: Path, address: str) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"address": address, "bytes": file.tell(), "hash": f"sha256:{digest}"}
    except NotRegularError as error:
        return {"address": address, "bytes": 0, "hash": "none", "problem": error.strerror}
    except PermissionError as error:
        return {"address": address, **_not_taken("unreadable", f"you may not read it: {error.strerror}")}


def _scan_packages() -> list[dict[str, Any]]:
    return [_entry(_package_path(PACKAGES + name), PACKAGES + name) for name in BUILT_IN]


def _package_path(address: str) -> Path:
    """The file of an address; finds the package without importing it, which takes seconds for some."""
    package, _, name = address.removeprefix(PACKAGES).partition("/")
    # A dotted name would import its parent; a name that leaves the package would read any file.
    if not package.isidentifier() or name.startswith("/") or ".." in name.split("/"):
        raise SourceError(
            "The address does not name a file inside a package",
            where=address,
            next_step=f"write {PACKAGES}PACKAGE/FILE, or give the folder itself",
        )
    spec = importlib.util.find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder, name)).is_file():
            return path
    raise SourceError(
        "A built-in photograph is missing",
        where=address,
        why=f"package {package} is not installed or has no {name}",
        next_step=f"run pip install -c constraints.txt {_DISTRIBUTION.get(package, package)}",
    )


def _scan_folder(folder: Path) -> list[dict[str, Any]]:
    paths = image_files(folder, suffixes=_LISTED)
    try:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda path: _entry(path, _address(path)), paths))
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        "Part of the folder cannot be read",
        where=error.filename or folder,
        why=error.strerror,
        next_step="make it readable or move it out of the folder",
    )


def _scan_s3(source: str) -> list[dict[str, Any]]:
    from relume import s3

    entries = [
        {"address": address, "bytes": size, "hash": f"etag:{etag}"}
        for address, size, etag in s3.listing(source)
        if _is_image(address.rsplit("/", 1)[-1], _LISTED)
    ]
    return entries or _refuse_empty(source)


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and not name.startswith(".")


def _refuse_empty(where: object) -> list[dict[str, Any]]:
    raise _no_images(where)


def _no_images(where: object) -> SourceError:
    return SourceError(
        "The source contains no image",
        where=where,
        why="no file has a suffix such as " + ", ".join(IMAGE_SUFFIXES[:7]),
        next_step="put photographs there, or scan another source",
    )
