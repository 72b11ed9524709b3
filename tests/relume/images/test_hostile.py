"""Whatever a file holds, decoding gives an image or an ImageError: files that ended whole runs, and seeded damage."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from relume.errors import ImageError
from relume.images import decode, encode, read_header

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257


def reason(data, **limits):
    """Why a file is refused."""
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    return caught.value.reason


def saved(kind, image=PIXELS, **options):
    """An image as Pillow saves it."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels=DEEP, **options):
    """An image as tifffile saves it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", **options)
    return buffer.getvalue()


def chunk(name, body):
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_a_palette_png_without_its_palette():
    """Pillow fails an assertion of its own on it."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    assert reason(data) == "corrupt"


def test_a_tiff_between_the_limit_of_pillow_and_ours():
    """A header of 14,000 x 14,000 without data is cut off: 196 megapixels are within our limit, not within Pillow's."""
    data = bytearray(saved("TIFF", Image.fromarray(PIXELS[..., 0])))
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * entry
        if struct.unpack_from("<H", data, place)[0] in (256, 257, 278):  # width, height, rows of a strip
            struct.pack_into("<HII", data, place + 2, 4, 1, 14_000)
    header = read_header(bytes(data))
    assert (header.width, header.height) == (14_000, 14_000)
    assert reason(bytes(data)) == "truncated"
    assert reason(bytes(data), max_megapixels=195) == "decompression_bomb"


@pytest.mark.parametrize("frame", [(0, 0, 65_535, 65_535), (60_000, 60_000, 1000, 1000), (0, 0, 30_000, 7000)])
def test_a_gif_whose_frame_is_larger_than_its_screen(frame):
    """The frame that is decoded counts, not the screen, wherever Pillow or we find it too large."""
    data = bytearray(saved("GIF"))
    struct.pack_into("<HHHH", data, data.index(b"\x2c\0\0\0\0") + 1, *frame)
    assert reason(bytes(data)) == "decompression_bomb"


def test_no_memory_is_a_reason_of_its_own(monkeypatch):
    """An image that does not fit the memory is not called damaged."""

    def convert(self, mode):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", convert)
    assert reason(saved("PNG")) == "out_of_memory"


SAMPLES = {
    "png": saved("PNG"),
    "png palette": saved("PNG", Image.fromarray(PIXELS).convert("P")),
    "png gray": saved("PNG", PIXELS[..., 0]),
    "png 16": encode(DEEP, ".png"),
    "jpeg": saved("JPEG"),
    "jpeg progressive": saved("JPEG", progressive=True),
    "jpeg cmyk": saved("JPEG", Image.fromarray(PIXELS).convert("CMYK")),
    "webp": saved("WEBP"),
    "webp lossless": saved("WEBP", lossless=True),
    "tiff": saved("TIFF"),
    "tiff lzw": saved("TIFF", compression="tiff_lzw"),
    "tiff palette": saved("TIFF", Image.fromarray(PIXELS).convert("P")),
    "tiff tiles": tiff(PIXELS, tile=(16, 16), compression="zlib"),
    "tiff 16": tiff(compression="zlib", predictor=True),
    "tiff 16 alpha": tiff(np.dstack([DEEP, DEEP[..., :1]]), extrasamples=["unassalpha"]),
    "bmp": saved("BMP"),
    "gif": saved("GIF", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])], disposal=2),
}
EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def damage(rng):
    """A sample with flipped bits, its end cut off, or numbers, tags and sizes of its header overwritten."""
    data = bytearray(SAMPLES[str(rng.choice(list(SAMPLES)))])
    kind = rng.choice(["flip", "cut", "number", "swap"])
    if kind == "flip":
        for place in rng.integers(0, 8 * len(data), rng.integers(1, 30)):
            data[place // 8] ^= 1 << (place % 8)
    elif kind == "cut":
        del data[rng.integers(1, len(data)) :]
    elif kind == "number":  # a TIFF keeps its tags at its end
        for _ in range(rng.integers(1, 4)):
            place = int(
                rng.choice([rng.integers(4, 120), rng.integers(0, len(data)), len(data) - rng.integers(4, 300)])
            )
            size, order = int(rng.choice([2, 4])), str(rng.choice(["little", "big"]))
            value = int(rng.choice(EXTREMES)) % 256**size
            data[place : place + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    else:
        first, second = sorted(rng.integers(8, len(data), 2))
        data[first:second] = data[first:second][::-1]
    return bytes(data)


@pytest.mark.parametrize("files", [60, pytest.param(400, marks=pytest.mark.exhaustive)])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd in damaged files
def test_damage_belongs_to_its_file(files):
    """Every damaged file gives RGB pixels of its header's size or an ImageError with a reason, of all formats."""
    for seed in range(files):
        data = damage(np.random.default_rng(seed))
        with contextlib.suppress(ImageError):
            image = decode(data, max_megapixels=4)
            assert image.pixels.shape == (image.header.height, image.header.width, 3), seed


def test_the_samples_are_what_they_are_called():
    """Undamaged, every sample is decoded: the damage is what is refused."""
    for name, data in SAMPLES.items():
        assert decode(data).pixels.shape == PIXELS.shape, name
