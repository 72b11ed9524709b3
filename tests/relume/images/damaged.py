"""Images of every format that is read, and seeded damage to them."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import tifffile
from PIL import Image

from relume.images import encode

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257


def saved(kind: str, image: np.ndarray | Image.Image = PIXELS, **options: object) -> bytes:
    """An image as Pillow saves it."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray = DEEP, **options: object) -> bytes:
    """An image as tifffile saves it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def samples(pixels: np.ndarray = PIXELS) -> dict[str, Callable[[], bytes]]:
    """What makes a file of each kind from an image, (H, W, 3) uint8; the names begin with the suffix."""
    deep, image = pixels.astype(np.uint16) * 257, Image.fromarray(pixels)
    return {
        "png": lambda: saved("PNG", image),
        "png palette": lambda: saved("PNG", image.convert("P")),
        "png gray": lambda: saved("PNG", image.convert("L")),
        "png alpha": lambda: saved("PNG", image.convert("RGBA")),
        "png 16": lambda: encode(deep, ".png"),
        "jpeg": lambda: saved("JPEG", image),
        "jpeg progressive": lambda: saved("JPEG", image, progressive=True),
        "jpeg cmyk": lambda: saved("JPEG", image.convert("CMYK")),
        "webp": lambda: saved("WEBP", image),
        "webp lossless": lambda: saved("WEBP", image, lossless=True),
        "tiff": lambda: saved("TIFF", image),
        "tiff lzw": lambda: saved("TIFF", image, compression="tiff_lzw"),
        "tiff palette": lambda: saved("TIFF", image.convert("P")),
        "tiff tiles": lambda: tiff(pixels, tile=(16, 16), compression="zlib"),
        "tiff 16": lambda: tiff(deep, compression="zlib", predictor=True),
        "tiff 16 alpha": lambda: tiff(np.dstack([deep, deep[..., :1]]), extrasamples=["unassalpha"]),
        "bmp": lambda: saved("BMP", image),
        "gif": lambda: saved("GIF", image, save_all=True, append_images=[image.rotate(180)], disposal=2),
    }


SAMPLES = {name: make() for name, make in samples().items()}
EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
SIDES = (0, 1, 41, 14_000, 14_200, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # 14,200 squared is above the limit

# The tag, type, count and value of an entry of a TIFF: where each is, how it is stored, and what is written to it.
TIFF_FIELDS = (
    (0, "<H", (254, 256, 258, 259, 262, 277, 284, 322, 339, 50706)),
    (2, "<H", range(14)),
    (4, "<I", EXTREMES),
    (8, "<I", EXTREMES),
)


def _bits_flipped(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, 8 * len(data), rng.integers(1, 30)):
        data[place // 8] ^= 1 << (place % 8)


def _cut_off(data: bytearray, rng: np.random.Generator) -> None:
    del data[rng.integers(1, len(data)) :]


def _numbers_overwritten(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 4)):  # a TIFF keeps its tags at its end
        place = int(rng.choice([rng.integers(4, 120), rng.integers(0, len(data)), len(data) - rng.integers(4, 300)]))
        size, order = int(rng.choice([2, 4])), str(rng.choice(["little", "big"]))
        value = int(rng.choice(EXTREMES)) % 256**size
        data[place : place + size] = value.to_bytes(size, order)  # type: ignore[arg-type]


def _part_reversed(data: bytearray, rng: np.random.Generator) -> None:
    first, second = sorted(rng.integers(8, len(data), 2))
    data[first:second] = data[first:second][::-1]


def _other_size(data: bytearray, rng: np.random.Generator) -> None:
    """The header names another width and height, up to what its fields hold; all else agrees with it."""
    width, height = (int(side) for side in rng.choice(SIDES, 2))
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">II", data, 16, width, height)
        _check_header(data)
    elif data.startswith(b"\xff\xd8"):
        frame = next(place for place in _segments(data) if data[place + 1] in (0xC0, 0xC2))
        struct.pack_into(">HH", data, frame + 5, height % 2**16, width % 2**16)
    elif data.startswith(b"RIFF"):
        if data[12:16] == b"VP8L":
            packed = struct.unpack_from("<I", data, 21)[0] & 0xF0000000 | (height % 2**14) << 14 | width % 2**14
            struct.pack_into("<I", data, 21, packed)
        else:
            struct.pack_into("<HH", data, 26, width % 2**14, height % 2**14)
    elif data.startswith(b"GIF"):
        frame = data.index(b"\x2c\0\0\0\0")
        for place in rng.permutation([6, frame + 5])[: rng.integers(1, 3)]:
            struct.pack_into("<HH", data, place, width % 2**16, height % 2**16)
    elif data.startswith(b"BM"):
        struct.pack_into("<II", data, 18, width, height)
    else:
        for place in _tiff_entries(data):
            tag = struct.unpack_from("<H", data, place)[0]
            if tag in (256, 257):
                struct.pack_into("<HII", data, place + 2, 4, 1, width if tag == 256 else height)


def _wrong_tags(data: bytearray, rng: np.random.Generator) -> None:
    """What names the kind of a file, of its pixels or of a part of it names another."""
    if rng.random() < 0.2:
        other = SAMPLES[str(rng.choice(list(SAMPLES)))][:12]
        data[: len(other)] = other
    elif data.startswith(b"\x89PNG"):
        data[24 + rng.integers(5)] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16, 255])
        _check_header(data)
    elif data.startswith(b"\xff\xd8"):
        place = rng.choice(list(_segments(data)))
        data[place + 1] = rng.integers(0xC0, 0x100)
    elif data.startswith(b"RIFF"):
        data[12:16] = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")[rng.integers(6)]
    elif data.startswith(b"GIF"):
        frame = data.index(b"\x2c\0\0\0\0")
        data[rng.choice([10, 11, frame, frame + 9, frame + 10])] = rng.integers(256)
    elif data.startswith(b"BM"):
        struct.pack_into("<I", data, int(rng.choice([10, 14, 28, 30, 46])), int(rng.choice(EXTREMES)))
    else:
        place = int(rng.choice(list(_tiff_entries(data))))
        field, layout, values = TIFF_FIELDS[rng.integers(len(TIFF_FIELDS))]
        struct.pack_into(layout, data, place + field, int(rng.choice(values)))


def _check_header(data: bytearray) -> None:
    """Corrects the checksum of a PNG's header, without which nothing else in it is looked at."""
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))


def _segments(data: bytearray) -> Iterator[int]:
    """Where the segments of a JPEG start, up to its first scan."""
    place = 2
    while data[place + 1] != 0xDA:
        yield place
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]


def _tiff_entries(data: bytearray) -> Iterator[int]:
    """Where the entries of the first folder of a little-endian TIFF start."""
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        yield start + 2 + 12 * entry


DAMAGES: dict[str, Callable[[bytearray, np.random.Generator], None]] = {
    "bits flipped": _bits_flipped,
    "cut off": _cut_off,
    "numbers overwritten": _numbers_overwritten,
    "a part reversed": _part_reversed,
    "another size in the header": _other_size,
    "wrong tags": _wrong_tags,
}


def damaged(sample: str, damage: str, rng: np.random.Generator) -> bytes:
    """A sample with a damage of one kind."""
    data = bytearray(SAMPLES[sample])
    DAMAGES[damage](data, rng)
    return bytes(data)
