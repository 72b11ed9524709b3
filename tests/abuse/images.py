"""Images: damaged files of every format through `read_image`, then all in one folder through `data scan` and `ingest`.

A damaged file is an ImageError with its reason, or pixels of the size that its header names, within limits of time and
memory for each file. In the folder every undamaged image comes out as it was, and each other file is ingested or
quarantined as `read_image` says. What is no file, such as a FIFO, is named and not opened.
"""

import contextlib
import csv
import itertools
import os
import socket
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from relume.errors import ImageError
from relume.images import decode, read_header, read_image
from relume.ingestion.ingest import BYTES_AT_ONCE, Photographs
from tests.abuse.rows import Row, Setting, inside, relume, step, watched
from tests.relume.images.damaged import DAMAGES, PIXELS, SAMPLES, chunk, damaged, samples

FAMILY = "images"
HOSTILE = Path(__file__).parents[3] / "shared" / "data" / "hostile"  # further files, where a folder beside has some
SECONDS = 60.0  # for a file; the largest that the limit allows take two on an idle machine
MEGABYTES = 32  # that reading a file may take beside what its header says
LIMIT = 200.0  # megapixels; the default, of ingest as well
LOSSLESS = ("png", "png 16", "tiff", "tiff lzw", "tiff tiles", "tiff 16", "webp lossless", "bmp")
NO_FILES = ("FIFO", "socket", "device", "nothing", "itself")
UNDAMAGED = "undamaged"


def attack(setting: Setting) -> Iterator[Row]:
    """Damages images of every format; a row for each damage."""
    place = setting.folder / "images"
    with inside(place / "checkout", place / "checkout" / "home"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it finds odd in damaged files
        Path("params.yaml").write_text(f"ingest: {{max_megapixels: {LIMIT:g}, min_side: 1, shard_megabytes: 64}}\n")
        photographs = Path("photographs").resolve()
        photographs.mkdir()
        kinds = _write(photographs, setting)
        rows = {kind: Row(family=FAMILY, kind=kind) for kind in kinds}
        reasons = {path: _read(path, rows[kind]) for kind, paths in kinds.items() for path in paths}
        yield from _no_files(photographs)
        yield _ingested(rows, kinds, reasons)
        yield from rows.values()
        yield _large(setting)


def _write(folder: Path, setting: Setting) -> dict[str, list[Path]]:
    """Fills a folder; its files by kind. Undamaged ones come first, so that a copy of one is the duplicate."""
    kinds = {UNDAMAGED: [_save(folder, f"0 {sample}", sample, data) for sample, data in SAMPLES.items()]}
    for damage, sample, number in itertools.product(DAMAGES, SAMPLES, range(5 if setting.thorough else 1)):
        rng = np.random.default_rng(setting.random(damage, sample, number).getrandbits(64))
        path = _save(folder, f"{sample} {damage} {number}", sample, damaged(sample, damage, rng))
        kinds.setdefault(damage, []).append(path)
    kinds["much in little"] = [_save(folder, f"{side}", "png", _bomb(side)) for side in (14_200, 30_000, 2**31 - 1)]
    if HOSTILE.is_dir():
        found = [path for path in sorted(HOSTILE.iterdir()) if path.suffix != ".md"]
        kinds["seen before"] = [_save(folder, path.stem, path.suffix[1:], path.read_bytes()) for path in found]
    return kinds


def _save(folder: Path, name: str, sample: str, data: bytes) -> Path:
    path = folder / f"{name}.{sample.split()[0]}"
    path.write_bytes(data)
    return path


def _bomb(side: int) -> bytes:
    """A PNG of a bit a pixel with the first rows of a square image, of which few bytes are needed."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000 * (1 + min(side, 2**16) // 8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _read(path: Path, row: Row) -> str | None:
    """Reads a file alone; the reason for which it was refused, None when it was read."""

    def read() -> tuple[int, str]:
        try:
            image = read_image(path, max_megapixels=LIMIT)
        except ImageError as error:
            return (2 if str(path) in str(error) else 1), error.reason
        shape = (image.header.height, image.header.width, 3)
        return (0, "") if image.pixels.shape == shape else (1, f"{image.pixels.shape} instead of {shape}")

    with memory() as taken:
        ended = watched(read, seconds=SECONDS)
    allowed = MEGABYTES * 2**20 + path.stat().st_size + _bytes_of(path)
    row.tried += 1
    if ended.failure or ended.code == 1:
        row.wrong.append(f"{path.name}: {ended.failure or ended.output}")
    elif row.kind == UNDAMAGED and (ended.code or not _unchanged(path)):
        row.wrong.append(f"{path.name}: {ended.output or 'it was changed'}")
    elif taken[0] > allowed:
        row.wrong.append(f"{path.name}: it took {taken[0] / 2**20:.0f} MB of {allowed / 2**20:.0f}")
    elif ended.code:
        row.refused += 1
    else:
        row.survived += 1
    return ended.output or None


def _developed(path: Path) -> str | None:
    """As `_read`, where camera raw is developed, as `ingest` does; damaged tags may make a TIFF one."""
    try:
        decode(path.read_bytes(), develop=True, max_megapixels=LIMIT)
    except ImageError as error:
        return error.reason
    return None


def _unchanged(path: Path) -> bool:
    """Whether an undamaged sample is read as the image that it was made of, where its format loses nothing."""
    pixels = read_image(path).pixels
    truth = PIXELS.astype(np.uint16) * 257 if pixels.dtype == np.uint16 else PIXELS
    return path.stem.removeprefix("0 ") not in LOSSLESS or np.array_equal(pixels, truth)


def _bytes_of(path: Path) -> int:
    """What decoding may take by the header; nothing for a file that is refused by it."""
    try:
        header = read_header(path.read_bytes())
    except ImageError:
        return 0
    if header.megapixels <= LIMIT:
        return header.decoding_bytes
    return header.width * header.height * (header.format == "GIF")  # Pillow makes room for a frame as it opens it


def _no_files(folder: Path) -> Iterator[Row]:
    """Puts what is no regular file into the folder, under the names of images; what `restore` says of each."""
    row = Row(family=FAMILY, kind="no file, restore")
    os.mkfifo(folder / "FIFO.png")
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(folder):  # its whole path may be too long
        bound.bind("socket.png")
    for name, target in {"device": "/dev/zero", "nothing": "no such file", "itself": "itself.png"}.items():
        (folder / f"{name}.png").symlink_to(target)
    for name in NO_FILES:
        row.tried += 1
        ended = watched(relume("restore", str(folder / f"{name}.png"), "-o", "restored.png"), seconds=SECONDS)
        if ended.code == 2 and f"{name}.png" in ended.output:
            row.refused += 1
        else:
            row.wrong.append(f"{name}: {ended.failure or ended.output}")
    (folder / "folder.png").symlink_to("/")  # what lies behind is not listed, or all of the disk would be
    yield row


def _ingested(rows: dict[str, Row], kinds: dict[str, list[Path]], reasons: dict[Path, str | None]) -> Row:
    """All at once: what each file became is entered into the row of its kind; the row of what is no file."""
    folder = next(iter(reasons)).parent
    row = Row(family=FAMILY, kind="no file, data scan and ingest", tried=len(NO_FILES))
    scanned = watched(relume("data", "scan", "--tracked", str(folder)), seconds=SECONDS * 3)
    with memory() as taken:
        ended = watched(step("ingest"), seconds=SECONDS * 10)
    for name, command in (("data scan", scanned), ("ingest", ended)):
        if command.failure or command.code:
            row.wrong.append(f"{name}: {command.failure or command.output}")
            return row
    if taken[0] > max(BYTES_AT_ONCE, *map(_bytes_of, reasons)) + 2 * MEGABYTES * 2**20:
        row.wrong.append(f"ingest took {taken[0] / 2**20:.0f} MB")
    photographs = Photographs("data/ingested")
    ingested = {_path(one.address): one for one in photographs.manifest}
    with open("data/ingested/quarantine.csv", newline="", encoding="utf-8") as file:
        refused = {_path(entry["address"]): entry["reason"] for entry in csv.DictReader(file)}
    for kind, paths in kinds.items():
        for path in paths:
            rows[kind].tried += 1
            alone = _developed(path) if reasons[path] == "unsupported_format" else reasons[path]
            if path in refused and refused[path] in (alone, "duplicate_file") and kind != UNDAMAGED:
                rows[kind].refused += 1
            elif path in refused or path not in ingested or alone:
                rows[kind].wrong.append(f"{path.name}: alone {alone}, ingested {refused.get(path)}")
            elif np.array_equal(photographs.pixels(ingested[path]), decode(path.read_bytes(), develop=True).pixels):
                rows[kind].survived += 1
            else:
                rows[kind].wrong.append(f"{path.name}: it was changed")
    for name in NO_FILES:
        if refused.get(folder / f"{name}.png") == "not_a_file" and f"{name}.png" in scanned.output:
            row.refused += 1
        else:
            row.wrong.append(f"{name}: {refused.get(folder / f'{name}.png')}: {scanned.output}")
    if extra := (ingested.keys() | refused.keys()) - reasons.keys() - {folder / f"{name}.png" for name in NO_FILES}:
        row.wrong.append(f"also listed: {sorted(extra)}")
    return row


def _path(address: str) -> Path:
    return Path(unquote(address.removeprefix("file://")))


def _large(setting: Setting) -> Row:
    """Whole images, large enough to compare what they take with what their header says."""
    row = Row(family=FAMILY, kind="undamaged, 9 megapixels")
    makers = samples(np.tile(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8), (50, 50, 1)))
    folder = Path("large").resolve()
    folder.mkdir()
    for sample in makers if setting.thorough else ("png 16", "webp lossless"):
        _read(_save(folder, sample, sample, makers[sample]()), row)
    return row


@contextlib.contextmanager
def memory() -> Iterator[list[int]]:
    """Gives a list that afterwards holds how many bytes more this process had at the most."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what it has now
    before, taken = _status("VmRSS"), [0]
    yield taken
    taken[0] = _status("VmHWM") - before


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024
