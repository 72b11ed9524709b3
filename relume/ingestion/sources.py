"""Where photographs come from: folders, S3 prefixes and the photographs inside installed packages.

A *source* is what a person types; an *address* names one file and is what `sources.json` lists:

| source | addresses |
|---|---|
| a folder | `file:///absolute/path/to/file.jpg`, percent-encoded |
| `s3://bucket/prefix` | `s3://bucket/key` |
| `package://` | `package://skimage/data/astronaut.png` |
"""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from relume.errors import SourceError
from relume.files import NotRegularError, open_regular, write_json
from relume.reading import read_json

PACKAGES = "package://"

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
_NOT_DECODED = ("heic", "heif", "avif", "jp2", "jxl", "psd", "dng", "nef", "cr2", "cr3", "arw", "orf", "raf", "rw2")
IMAGE_SUFFIXES = tuple(f".{suffix}" for suffix in _DECODED + _NOT_DECODED)


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
class _ListedFile:
    address: str
    bytes: int
    hash: str
    problem: str = ""


@dataclass(frozen=True)
class _Listing:
    """What sources.json holds."""

    sources: list[str]
    files: list[_ListedFile]


def scan(sources: Sequence[str | Path] = (PACKAGES,)) -> dict[str, Any]:
    """Lists every image file in some sources, with its size and hash.

    Args:
        sources: Folders, `s3://bucket/prefix` addresses or `package://`.

    Returns:
        The content of sources.json: `sources`, with folders made absolute, and `files`, sorted by
        address, each with `address`, `bytes` and `hash` (`sha256:...`, on S3 `etag:...`). What is not a
        regular file is not opened: its `hash` is `none` and `problem` says what it is. Files
        without the suffix of an image, and hidden ones, are not listed.

    Raises:
        SourceError: A source is missing, empty, unreachable or refuses the credentials.
    """
    names: list[str] = []
    files: dict[str, dict[str, Any]] = {}
    for source in map(str, sources):
        if source == PACKAGES:
            name, entries = source, _scan_packages()
        elif source.startswith("s3://"):
            name, entries = source, _scan_s3(source)
        elif "://" in source and not source.startswith("file://"):
            raise SourceError(
                "This kind of source is not supported",
                where=source,
                next_step=f"give a folder, s3://bucket/prefix or {PACKAGES}",
            )
        else:
            folder = _path(source) if source.startswith("file://") else Path(source).expanduser()
            folder = Path(os.path.abspath(folder))  # `a/../b` becomes `b`, links stay as they are
            name, entries = _address(folder), _scan_folder(folder)
        names.append(name)
        files.update((entry["address"], entry) for entry in entries)
    return {"sources": names, "files": [files[address] for address in sorted(files)]}


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
    old = {entry["address"]: entry["hash"] for entry in before["files"]}
    new = {entry["address"]: entry["hash"] for entry in now["files"]}
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
    else:
        path = _package_path(address) if address.startswith(PACKAGES) else _path(address)
        try:
            with open_regular(path) as file:
                data = file.read()
        except OSError as error:
            raise SourceError(
                "A listed photograph cannot be read",
                where=address,
                why=error.strerror,
                next_step="run `relume data scan`",
            ) from None
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if expect is not None and found != expect:
        raise SourceError(
            "A photograph changed after it was listed",
            where=address,
            why=f"sources.json lists it with {expect}, now it has {found}",
            next_step="run `relume data scan` to list it again",
        )
    return data


def moved_files(listing: dict[str, Any]) -> list[str]:
    """Addresses of listed files of this machine that are gone or have another size; their bytes are not read."""
    return [
        entry["address"]
        for entry in listing["files"]
        if "problem" not in entry and _size(entry["address"]) not in (None, entry["bytes"])
    ]


def _size(address: str) -> int | None:
    """Bytes of a file, -1 when it is gone; None for one that is not a file of this machine."""
    if address.startswith("s3://"):
        return None
    try:
        return (_package_path(address) if address.startswith(PACKAGES) else _path(address)).stat().st_size
    except (OSError, SourceError):
        return -1


def image_files(folder: str | Path) -> list[Path]:
    """The image files below a folder, sorted; hidden files and folders are left out.

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
            paths += [Path(parent, name) for name in names if _is_image(name)]
    except OSError as error:
        raise _unreadable(folder, error) from None
    if not paths:
        raise _no_images(folder)
    return sorted(paths)


def _address(path: Path) -> str:
    return "file://" + quote_from_bytes(os.fsencode(path))


def _path(address: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(address.removeprefix("file://"))))


def _entry(path: Path, address: str) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"address": address, "bytes": file.tell(), "hash": f"sha256:{digest}"}
    except NotRegularError as error:
        return {"address": address, "bytes": 0, "hash": "none", "problem": error.strerror}


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
    paths = image_files(folder)
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
        if _is_image(address.rsplit("/", 1)[-1])
    ]
    if not entries:
        raise _no_images(source)
    return entries


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _no_images(where: object) -> SourceError:
    return SourceError(
        "The source contains no image",
        where=where,
        why="no file has a suffix such as " + ", ".join(IMAGE_SUFFIXES[:7]),
        next_step="put photographs there, or scan another source",
    )
