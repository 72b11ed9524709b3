"""Whatever a file holds, decoding gives an image or an ImageError: files that ended whole runs, and seeded damage."""

import contextlib
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from relume.errors import ImageError
from relume.images import decode, read_header
from tests.relume.images.damaged import DAMAGES, PIXELS, SAMPLES, chunk, damaged, saved


def reason(data, **limits):
    """Why a file is refused."""
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    return caught.value.reason


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

    def crop(self, box):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "crop", crop)
    assert reason(saved("PNG")) == "out_of_memory"


@pytest.mark.parametrize("rounds", [1, pytest.param(6, marks=pytest.mark.exhaustive)])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd in damaged files
def test_damage_belongs_to_its_file(rounds):
    """Every damaged file gives RGB pixels of its header's size or an ImageError with a reason, of all formats."""
    for seed, sample, damage in itertools.product(range(rounds), SAMPLES, DAMAGES):
        data = damaged(sample, damage, np.random.default_rng(seed))
        with contextlib.suppress(ImageError):
            image = decode(data, max_megapixels=4)
            assert image.pixels.shape == (image.header.height, image.header.width, 3), (seed, sample, damage)


def test_the_samples_are_what_they_are_called():
    """Undamaged, every sample is decoded: the damage is what is refused."""
    for name, data in SAMPLES.items():
        assert decode(data).pixels.shape == PIXELS.shape, name
