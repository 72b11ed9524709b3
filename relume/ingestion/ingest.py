"""Photographs brought in: every listed file decoded once into shards of lossless PNG, or quarantined.

Camera raw is developed to 16 bits. Of a video some frames become photographs, each with an address that names the video
and the time stamp, such as `file:///clip.mp4#t=12.500` (W3C Media Fragments).

An ingested folder holds

- `images-00000.tar`, ...: members `<image_id>.png`, RGB with 8 or 16 bits, in the order of the addresses; of a pair
  this is the clean image, and the degraded one, `<image_id>.degraded.png`, is beside it;
- `manifest.csv`: one `Photograph` a row, in the same order;
- `quarantine.csv`: address, reason and detail of every listed file that did not become a photograph.

It depends on nothing but the listed bytes and the settings.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
import struct
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from relume.code_version import code_version
from relume.errors import BrokenFileError, ImageError, SourceError
from relume.images import decode, encode, read_header
from relume.ingestion.layouts import UNPAIRED
from relume.ingestion.pair_check import check_pair
from relume.ingestion.settings import VideoSettings
from relume.ingestion.sources import VIDEO_SUFFIXES, open_source, opened_source
from relume.ingestion.video import frames, video_format
from relume.kept import Kept, Part
from relume.parallel import Budget, map_in_order
from relume.reading import reading, table_rows

# Images are decoded side by side while that takes this much together; one that takes more is decoded alone.
BYTES_AT_ONCE = 1.3e9

UNNAMED = "photographs"
_AT = "#t="  # before the time stamp in the address of a frame; `#` in a name is written %23

_IN_MEMORY = 1 << 24  # bytes of prepared images that wait without a file
_PACKAGES = ("relume.images", "relume.ingestion", "relume.curation")
_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "tifffile", "rawpy", "av")

_AGAIN = "run `dvc repro --force ingest`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """A row of the manifest.

    Attributes:
        image_id: First 16 hexadecimal digits of `sha256`; of a pair, of the hash of both hashes.
        set: The set that it belongs to; `UNNAMED` where that has no name.
        address: Where the file came from.
        degraded: Where the degraded file of a pair came from; empty for a single photograph.
        width: Pixels across, as seen.
        height: Pixels down, as seen.
        channels: Channels in the file; the ingested image always has three.
        bit_depth: Bits a channel in the file; the ingested image has 16 where this is 16, else 8.
        mode: Pixels as stored in the file, such as RGB, L or CMYK.
        bytes: Size of the file, also of a video.
        sha256: Hash of the file; of a frame of a video, of its ingested pixels.
        shard: The tar file that contains the image.
    """

    image_id: str
    set: str
    address: str
    degraded: str
    width: int
    height: int
    channels: int
    bit_depth: int
    mode: str
    bytes: int
    sha256: str
    shard: str


_Prepared = tuple[Photograph, dict[str, bytes]]  # with its members of the shard


def video_of(address: str) -> str | None:
    """The address of the video that a frame's address names; None for that of a file."""
    video, at, _ = address.rpartition(_AT)
    return video if at and video.lower().endswith(VIDEO_SUFFIXES) else None


def ingest(
    listing: Mapping[str, Any],
    folder: Path,
    *,
    max_megapixels: float,
    min_side: int,
    shard_megabytes: float,
    max_pair_shift: float | None = None,
    video: VideoSettings | None = None,
    progress: Callable[[str, int, int], None],
    cache: Path | None = None,
) -> tuple[int, dict[str, int]]:
    """Decodes every listed file into an ingested folder.

    Args:
        listing: The content of sources.json.
        folder: An empty folder to fill.
        max_megapixels: Larger images are quarantined as `decompression_bomb`.
        min_side: Images with a shorter side are quarantined as `too_small`, in pixels.
        shard_megabytes: A shard is closed when it holds this much.
        max_pair_shift: Pairs that are shifted by more are quarantined as `shifted_pair`, in pixels; None for none.
        video: Which frames of a video become photographs; None for the default.
        progress: Given what is counted, how many are done, and of how many.
        cache: A folder that keeps the shards by links, so that the next run copies from them what it has decoded
            before; such files are not opened again, nor those of the closed shards of a run that was killed. The result
            is the same without.

    Returns:
        The number of photographs, a pair counting as one, and the number of quarantined files by reason.

    Raises:
        SourceError: A file cannot be read or is not the one that was listed, or no file is an image.
    """
    budget, video = Budget(BYTES_AT_ONCE), video or VideoSettings()
    limits = {"max_megapixels": max_megapixels, "min_side": min_side}
    rule = json.dumps([limits, max_pair_shift, video.model_dump()])
    kept = Kept(cache, hashlib.sha256((rule + code_version(_PACKAGES, _LIBRARIES)).encode()).hexdigest()[:24])

    def prepare(entry: Mapping[str, Any]) -> Iterable[_Prepared] | ImageError:
        try:
            if "problem" in entry:
                reason = entry.get("reason", "not_a_file")
                what = "It is no pair" if reason in UNPAIRED else "It cannot be read as a file"
                return ImageError(what, reason=reason, why=entry["problem"])
            if (known := _known(entry, kept)) is not None:
                return known
            if entry["address"].lower().endswith(VIDEO_SUFFIXES):
                with opened_source(entry["address"], expect=entry["hash"]) as file:
                    if video_format(file):
                        return _video_frames(entry, file, video, budget, limits)
            return [_photograph(entry, max_pair_shift, budget, limits)]
        except ImageError as error:
            return error

    entries = listing["files"]
    photographs: dict[str, Photograph] = {}
    quarantine: list[tuple[str, str, str]] = []
    closed = 0  # shards that were handed to `kept`
    with kept, _ShardWriter(folder, int(shard_megabytes * 1e6)) as shards:
        for done, (entry, result) in enumerate(zip(entries, map_in_order(prepare, entries), strict=True), start=1):
            progress("files", done, len(entries))
            if isinstance(result, ImageError):
                detail = result.what if result.why is None else f"{result.what}: {result.why}"
                if result.reason == "missing_package":
                    detail += f"; {result.next_step}"
                quarantine.append((entry["address"], result.reason, " ".join(detail.split())))
                continue
            facts: list[dict[str, Any]] = []
            parts: list[Part] = []
            whole = True  # duplicates are not in the shards
            for photograph, members in result:
                if (twin := photographs.get(photograph.image_id)) is not None:
                    quarantine.append((photograph.address, "duplicate_file", f"same bytes as {twin.address}"))
                    whole = False
                    continue
                written = shards.add(members)
                photographs[photograph.image_id] = replace(photograph, shard=written[0].file)
                if cache is not None:
                    facts.append(asdict(photograph) | {"time": photograph.address.removeprefix(entry["address"])})
                    parts += [
                        part._replace(crc=zlib.crc32(members[name]))
                        for name, part in zip(members, written, strict=True)
                    ]
            if whole and facts:
                kept.note(_key(entry), facts, parts)
            if shards.closed > closed:
                kept.keep_so_far(folder, shards.files[closed : shards.closed])
                closed = shards.closed
        shards.close()
        kept.keep(folder, shards.files)

    _write_csv(folder / "manifest.csv", _COLUMNS, [asdict(photograph).values() for photograph in photographs.values()])
    _write_csv(folder / "quarantine.csv", ["address", "reason", "detail"], quarantine)
    if not photographs:
        raise SourceError(
            "None of the listed files is an image that can be read",
            where=", ".join(listing["sources"]),
            why="; ".join(f"{address}: {reason}" for address, reason, _ in quarantine[:3]) or "the list is empty",
            next_step="list other photographs with `relume data scan FOLDER`",
        )
    reasons: dict[str, int] = {}
    for _, reason, _ in quarantine:
        reasons[reason] = reasons.get(reason, 0) + 1
    return len(photographs), reasons


def _photograph(
    entry: Mapping[str, Any], max_pair_shift: float | None, budget: Budget, limits: Mapping[str, Any]
) -> _Prepared:
    """The photograph of an image file, or of two, with its members of the shard."""
    pair = entry.get("degraded")
    files = [open_source(file["address"], expect=file["hash"]) for file in (entry, pair) if file]
    headers = [read_header(data, develop=True) for data in files]
    with budget.take(sum(header.decoding_bytes for header in headers)):
        images = [decode(data, develop=True, **limits).pixels for data in files]
        if pair:
            check_pair(images[1], images[0], kind=pair.get("kind", ""), max_shift=max_pair_shift)
        members = [encode(pixels, ".png") for pixels in images]
    header, hashes = headers[0], [hashlib.sha256(data).hexdigest() for data in files]
    image_id = (hashlib.sha256("".join(hashes).encode()).hexdigest() if pair else hashes[0])[:16]
    return Photograph(
        image_id=image_id,
        set=entry.get("set", UNNAMED),
        address=entry["address"],
        degraded=pair["address"] if pair else "",
        width=header.width,
        height=header.height,
        channels=header.channels,
        bit_depth=header.bit_depth,
        mode=header.mode,
        bytes=len(files[0]),
        sha256=hashes[0],
        shard="",  # known when it is written
    ), dict(zip([f"{image_id}.png", f"{image_id}.degraded.png"], members, strict=False))


def _video_frames(
    entry: Mapping[str, Any], file: BinaryIO, rule: VideoSettings, budget: Budget, limits: Mapping[str, Any]
) -> Iterable[_Prepared]:
    """The frames of a video, which wait in a file until the last one has shown that the video is whole."""
    if "degraded" in entry:
        raise ImageError("Pairs of videos are not read", reason="unsupported_format")
    with contextlib.ExitStack() as undo:
        spool = _Spool()
        undo.callback(spool.close)
        for frame in frames(file, rule, **limits):
            height, width, _ = frame.pixels.shape
            with budget.take(frame.pixels.size * 4):
                data, sha256 = encode(frame.pixels, ".png"), hashlib.sha256(frame.pixels.tobytes()).hexdigest()
            photograph = Photograph(
                image_id=sha256[:16],
                set=entry.get("set", UNNAMED),
                address=f"{entry['address']}{_AT}{frame.seconds:.3f}",
                degraded="",
                width=width,
                height=height,
                channels=3,
                bit_depth=8,
                mode=frame.mode,
                bytes=entry["bytes"],
                sha256=sha256,
                shard="",
            )
            spool.add(photograph, data)
        undo.pop_all()
        return spool


def _key(entry: Mapping[str, Any]) -> str:
    """What the photographs of an entry depend on: the bytes, and where only an ETag stands for these, the address."""
    files = [file for file in (entry, entry.get("degraded")) if file]
    named = [
        file["hash"] if file["hash"].startswith("sha256:") else f"{file['address']} {file['hash']}" for file in files
    ]
    return json.dumps([*named, entry.get("degraded", {}).get("kind", "")])


def _known(entry: Mapping[str, Any], kept: Kept) -> Iterable[_Prepared] | None:
    """The photographs of an entry as the run before wrote them; None when any is not there."""
    if (found := kept.get(_key(entry))) is None:
        return None
    facts, parts = found
    with contextlib.ExitStack() as undo:
        spool = _Spool()
        undo.callback(spool.close)
        for of_one in facts:
            members = [kept.read(parts.pop(0)) for _ in range(2 if of_one["degraded"] else 1)]
            of_entry = {
                "address": entry["address"] + of_one.pop("time"),
                "degraded": entry["degraded"]["address"] if "degraded" in entry else "",
                "set": entry.get("set", UNNAMED),
            }
            if None in members:
                return None
            spool.add(Photograph(**of_one | of_entry), *(data for data in members if data is not None))
        undo.pop_all()
        return spool


class _Spool:
    """Photographs whose members wait in a temporary file; they are read once."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._waiting: list[tuple[Photograph, list[int]]] = []

    def add(self, photograph: Photograph, *members: bytes) -> None:
        """Appends a photograph with its image, of a pair with both."""
        for data in members:
            self._file.write(data)
        self._waiting.append((photograph, [len(data) for data in members]))

    def close(self) -> None:
        """Removes the file."""
        self._file.close()

    def __iter__(self) -> Iterator[_Prepared]:
        with self._file:
            self._file.seek(0)
            for photograph, sizes in self._waiting:
                names = (f"{photograph.image_id}.png", f"{photograph.image_id}.degraded.png")
                yield photograph, {name: self._file.read(size) for name, size in zip(names, sizes, strict=False)}


class Photographs:
    """The photographs of an ingested folder, for reading in any order and from several threads.

    Args:
        folder: What `ingest` filled.

    Attributes:
        manifest: All photographs, in the order of the manifest.
    """

    def __init__(self, folder: str | Path):
        found = list(read_photographs(folder))
        self.manifest = [photograph for photograph, *_ in found]
        self._places = {photograph.image_id: places for photograph, *places in found}

    def place(self, photograph: Photograph) -> "Place":
        """Where a photograph is: what another process on the same files needs to decode it."""
        place = self._places[photograph.image_id][0]
        assert place is not None
        return place

    def pixels(self, photograph: Photograph) -> np.ndarray:
        """Decodes one photograph, of a pair the clean one, to (height, width, 3) RGB, uint8 or uint16."""
        return self.place(photograph).pixels()

    def degraded_pixels(self, photograph: Photograph) -> np.ndarray:
        """Decodes the degraded image of a pair, of the same size."""
        place = self._places[photograph.image_id][1]
        assert place is not None
        return place.pixels()


@dataclass(frozen=True, slots=True)
class Place:
    """A photograph in a shard: the shard, its name there, and its bytes."""

    shard: Path
    name: str
    offset: int
    size: int

    def pixels(self) -> np.ndarray:
        """Decodes it to (height, width, 3) RGB, uint8 or uint16."""
        try:
            with reading(self.shard, next_step=_AGAIN), open(self.shard, "rb") as file:
                file.seek(self.offset)
                return decode(file.read(self.size), max_megapixels=float("inf")).pixels
        except ImageError as error:
            why = f"{self.name} in it: {error.what}"
            raise BrokenFileError("A file is damaged", where=self.shard, why=why, next_step=_AGAIN) from None

    def width_and_height(self) -> tuple[int, int]:
        """In pixels, from the head of the PNG."""
        with reading(self.shard, next_step=_AGAIN), open(self.shard, "rb") as file:
            file.seek(self.offset + 16)
            width, height = struct.unpack(">II", file.read(8))
            return width, height


def read_manifest(folder: str | Path) -> list[Photograph]:
    """Reads the manifest of an ingested folder as a whole; see `manifest_rows`."""
    return list(manifest_rows(folder))


def manifest_rows(folder: str | Path) -> Iterator[Photograph]:
    """Reads the manifest of an ingested folder, photograph by photograph.

    Raises:
        SourceError: There is none.
        BrokenFileError: It is damaged.
    """
    path = Path(folder) / "manifest.csv"
    if not path.is_file():
        raise SourceError("No photographs were ingested yet", where=path, next_step="run `dvc repro ingest`")
    columns: dict[str, Callable[[str], Any]] = {
        field.name: int if field.type is int else str for field in fields(Photograph)
    }
    columns |= dict.fromkeys(("set", "mode"), sys.intern) | {"shard": _named_shard}  # of which there are few
    for row in table_rows(path, columns, next_step=_AGAIN):
        yield Photograph(**{name: row[name] for name in columns})


def read_photographs(folder: str | Path) -> Iterator[tuple[Photograph, Place, Place | None]]:
    """Goes through an ingested folder with no more in memory than the names in a shard.

    Yields:
        Each photograph of the manifest, where it is, and where the degraded image of a pair is.

    Raises:
        SourceError: Nothing was ingested.
        BrokenFileError: The manifest or a shard is damaged.
    """
    shard, places = "", dict[str, Place]()
    for photograph in manifest_rows(folder):
        path = Path(folder) / photograph.shard
        if photograph.shard != shard:
            shard, places = photograph.shard, {}
            with reading(path, next_step=_AGAIN), tarfile.open(path) as tar:
                for member in tar:
                    places[member.name] = Place(path.absolute(), member.name, member.offset_data, member.size)
        names = [f"{photograph.image_id}.png"] + [f"{photograph.image_id}.degraded.png"] * bool(photograph.degraded)
        if missing := [name for name in names if name not in places]:
            raise BrokenFileError("A file is damaged", where=path, why=f"it holds no {missing[0]}", next_step=_AGAIN)
        yield photograph, places[names[0]], places[names[1]] if photograph.degraded else None


_COLUMNS = [field.name for field in fields(Photograph)]


def _write_csv(path: Path, columns: list[str], rows: Any) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


class _ShardWriter:
    """Writes tar files that hold nothing of time, owner or machine.

    Args:
        folder: Where they are written.
        limit: Bytes from which on a shard is closed.

    Attributes:
        files: The names of all shards, in their order.
    """

    def __init__(self, folder: Path, limit: int):
        self._folder, self._limit = folder, limit
        self.files: list[str] = []
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> int:
        """To how many of them, the first ones, nothing more is added."""
        return len(self.files) - (self._tar is not None)

    def add(self, members: Mapping[str, bytes]) -> list[Part]:
        """Appends members to one shard; returns where each is."""
        if self._tar is None:
            self.files.append(f"images-{len(self.files):05d}.tar")
            path = self._folder / self.files[-1]
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        parts = []
        for name, data in members.items():
            member = tarfile.TarInfo(name)  # time, owner and group are 0 by default
            member.size = len(data)
            parts.append(Part(self.files[-1], self._tar.offset + tarfile.BLOCKSIZE, len(data), 0))
            self._tar.addfile(member, io.BytesIO(data))
        if self._tar.offset >= self._limit:
            self.close()
        return parts

    def close(self) -> None:
        """Ends the shard."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def _named_shard(name: str) -> str:
    """The name of a shard in a manifest, whose end may be cut off."""
    if not re.fullmatch(r"images-\d{5,}\.tar", name):
        raise ValueError(f"{name} is no name of a shard")
    return sys.intern(name)
