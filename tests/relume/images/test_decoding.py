"""Pictures in files: what is decoded, what is refused and why, and what is written."""

import contextlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from relume.errors import ImageError
from relume.images import Metadata, decode, encode, read_header, read_image, save_image, to_uint8


def noise(height=30, width=44, channels=3, dtype=np.uint8, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(data, **limits):
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    return caught.value.reason


def png_claiming(width, height):
    """A PNG of a few bytes whose header claims a size."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG", "WEBP"])
def test_decodes_the_pixels_that_pillow_sees(kind):
    """Every 8-bit format decodes to the RGB pixels that Pillow's own conversion gives."""
    data = saved(Image.fromarray(noise()), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert (picture.header.width, picture.header.height, picture.header.channels) == (44, 30, 3)
    assert (picture.header.format, picture.header.mode, picture.header.bit_depth) == (kind, "RGB", 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_applies_the_exif_orientation(kind, orientation):
    """Each of the eight EXIF orientations is undone as Pillow's exif_transpose does it, and the size agrees."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(noise()), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.pixels.shape[:2] == (picture.header.height, picture.header.width)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_applies_the_orientation_of_a_16_bit_tiff(orientation):
    """A 16-bit TIFF is turned like the 8-bit TIFF of the same tag."""
    pixels = noise(dtype=np.uint16)
    buffers = []
    for stored in (pixels, (pixels >> 8).astype(np.uint8)):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        buffers.append(buffer.getvalue())
    deep, shallow = map(decode, buffers)
    np.testing.assert_array_equal(deep.pixels >> 8, shallow.pixels)
    assert deep.pixels.shape[:2] == (deep.header.height, deep.header.width)


def test_keeps_16_bits_of_colour_png_and_tiff():
    """All 16 bits of RGB PNG and TIFF survive, which Pillow alone would cut to 8."""
    pixels = noise(dtype=np.uint16)
    png = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, pixels, photometric="rgb", compression="zlib", predictor=True)
    for data in (png, tiff.getvalue()):
        picture = decode(data)
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert (picture.header.bit_depth, picture.header.mode) == (16, "RGB;16")


def test_keeps_16_bits_of_gray():
    """16-bit gray becomes three equal 16-bit channels."""
    gray = noise(channels=1, dtype=np.uint16)
    picture = decode(saved(Image.fromarray(gray), "PNG"))
    np.testing.assert_array_equal(picture.pixels, np.stack([gray] * 3, axis=-1))
    assert (picture.header.channels, picture.header.mode) == (1, "L;16")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_composites_alpha_over_white(dtype):
    """A pixel with alpha a becomes a*colour + (1-a)*white, rounded to the nearest integer."""
    pixels, white = noise(channels=4, dtype=dtype), np.iinfo(dtype).max
    data = cv2.imencode(".png", pixels[..., [2, 1, 0, 3]])[1].tobytes()
    alpha = pixels[..., 3:].astype(np.float64) / white
    expected = np.rint(alpha * pixels[..., :3] + (1 - alpha) * white).astype(dtype)
    picture = decode(data)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.header.channels == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_channel_that_is_no_alpha_is_left_out(dtype):
    """Red, green and blue of a scan with an infrared channel stay as they stand in the file."""
    scan, buffer = noise(channels=4, dtype=dtype), io.BytesIO()
    tifffile.imwrite(buffer, scan, photometric="rgb", extrasamples=["unspecified"])
    picture = decode(buffer.getvalue())
    np.testing.assert_array_equal(picture.pixels, scan[..., :3])
    assert picture.header.channels == 3


def test_resolves_palettes_and_gray():
    """Palette and gray files decode to the colours they show, with their stored channels on record."""
    image = Image.fromarray(noise())
    palette, gray = image.convert("P"), image.convert("L")
    np.testing.assert_array_equal(decode(saved(palette, "PNG")).pixels, np.asarray(palette.convert("RGB")))
    picture = decode(saved(gray, "PNG"))
    np.testing.assert_array_equal(picture.pixels, np.stack([np.asarray(gray)] * 3, axis=-1))
    assert picture.header.channels == 1


def test_converts_cmyk_by_the_plain_formula():
    """CMYK becomes (255 - ink) * (255 - black) / 255, within the one level of Pillow's integer arithmetic."""
    cmyk = noise(channels=4)
    buffer = io.BytesIO()
    Image.fromarray(cmyk, "CMYK").save(buffer, "TIFF")
    ink = cmyk.astype(np.float64)
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    picture = decode(buffer.getvalue())
    assert np.abs(picture.pixels - expected).max() <= 1
    assert (picture.header.mode, picture.header.channels) == ("CMYK", 4)


def test_names_each_kind_of_broken_file():
    """Empty, foreign, unsupported and cut-off files are told apart by their reasons."""
    jpeg, png = (saved(Image.fromarray(noise(64, 64)), kind) for kind in ("JPEG", "PNG"))
    webp = saved(Image.fromarray(noise(64, 64)), "WEBP")
    assert reason(b"") == "empty_file"
    assert reason(b"<!DOCTYPE html>") == "wrong_magic"
    assert reason(b"\0\0\0\x18ftypheic" + b"\0" * 32) == "unsupported_format"
    assert reason(b"8BPS" + b"\0" * 32) == "unsupported_format"
    assert reason(saved(Image.new("F", (8, 8)), "TIFF")) == "unsupported_format"
    for data in (jpeg, png, webp):
        assert reason(data[: len(data) // 2]) == "truncated"
    assert reason(png[:-12]) == "truncated"
    assert reason(png[:60] + bytes(20) + png[80:]) == "corrupt"


def test_refuses_16_bit_layouts_it_would_get_wrong():
    """16-bit TIFF stored plane by plane, or with premultiplied alpha, is refused and not decoded to other colours."""
    planar, associated = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(planar, np.moveaxis(noise(dtype=np.uint16), -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(associated, noise(channels=4, dtype=np.uint16), photometric="rgb", extrasamples=["assocalpha"])
    assert reason(planar.getvalue()) == reason(associated.getvalue()) == "unsupported_format"


def test_refuses_a_decompression_bomb_from_its_header():
    """A file of a hundred bytes that claims 10 gigapixels is refused by the limit, not decoded."""
    assert reason(png_claiming(100_000, 100_000)) == "decompression_bomb"
    assert reason(png_claiming(2000, 1000), max_megapixels=1.9) == "decompression_bomb"
    assert reason(png_claiming(2000, 1000), max_megapixels=2.0) == "truncated"


def test_refuses_what_is_too_small():
    """A side below the least one is refused, the least one itself is not."""
    data = saved(Image.fromarray(noise(30, 44)), "PNG")
    assert reason(data, min_side=31) == "too_small"
    assert decode(data, min_side=30).pixels.shape == (30, 44, 3)


SAMPLES = [
    *(saved(Image.fromarray(noise(24, 16)), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")),
    encode(noise(24, 16, dtype=np.uint16), ".png"),
    encode(noise(24, 16, dtype=np.uint16), ".tif"),
    encode(noise(24, 16).astype(np.float32), ".tif"),
    *(saved(Image.fromarray(noise(24, 16)), kind) for kind in ("AVIF", "JPEG2000")),
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(SAMPLES),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    full=st.booleans(),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd in damaged files
def test_damaged_bytes_give_an_image_or_an_image_error(data, cut, flips, full):
    """Whatever is cut off or overwritten, decoding gives RGB pixels or an ImageError, never another exception."""
    damaged = bytearray(data[: int(cut * len(data)) + 1])
    for place, value in flips:
        damaged[int(place * len(damaged))] = value
    with contextlib.suppress(ImageError):
        picture = decode(bytes(damaged), max_megapixels=1, full=full)
        assert picture.pixels.shape == (picture.header.height, picture.header.width, 3)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_never_taken_for_an_image(data):
    """Random bytes are refused with an ImageError, by the header already."""
    with pytest.raises(ImageError):
        read_header(data)


def test_finds_the_orientation_behind_the_pixels_of_a_png():
    """An eXIf chunk after the pixels counts, as PNG's specification allows it anywhere."""
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    png = saved(Image.fromarray(noise()), "PNG")
    np.testing.assert_array_equal(decode(png[:-12] + chunk + png[-12:]).pixels, np.rot90(noise(), k=-1))


def test_to_uint8_rounds_to_the_nearest_level():
    """Each of the 65536 values goes to the nearest integer of v * 255 / 65535, computed in floating point."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(to_uint8(values), np.rint(values.astype(np.float64) * 255 / 65535))
    assert to_uint8(noise()).dtype == np.uint8


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_formats_give_back_pixels_and_profile(tmp_path, suffix, dtype):
    """PNG and TIFF hold 8 and 16 bits and the colour profile without loss."""
    from PIL import ImageCms

    pixels, profile = noise(dtype=dtype), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save_image(tmp_path / f"picture{suffix}", pixels, metadata=Metadata(icc_profile=profile))
    picture = read_image(tmp_path / f"picture{suffix}")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.metadata.icc_profile == profile


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_stay_close(tmp_path, suffix):
    """JPEG and WebP keep a smooth image, also a 16-bit one, within a few levels in all channels."""
    y, x = np.mgrid[0:64, 0:96]
    pixels = np.stack([x * 2, y * 3, 255 - x], axis=-1).astype(np.uint16) * 257
    save_image(tmp_path / f"picture{suffix}", pixels)
    error = np.abs(read_image(tmp_path / f"picture{suffix}").pixels.astype(int) - to_uint8(pixels))
    assert error.mean() < 2


def test_equal_pixels_give_equal_bytes():
    """Encoding holds nothing of time: two encodings are the same bytes."""
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        for dtype in (np.uint8, np.uint16):
            assert encode(noise(dtype=dtype), suffix) == encode(noise(dtype=dtype), suffix)


def test_saving_is_refused_before_anything_is_written(tmp_path):
    """An unknown suffix, a size the format cannot hold and a folder that is a file leave nothing behind."""
    (tmp_path / "file").write_text("")
    for path, pixels, expected in [
        (tmp_path / "a.docx", noise(), "unsupported_format"),
        (tmp_path / "a", noise(), "unsupported_format"),
        (tmp_path / "a.webp", np.zeros((1, 20000, 3), np.uint8), "unsupported_size"),
        (tmp_path / "file" / "a.png", noise(), "unwritable"),
    ]:
        with pytest.raises(ImageError) as caught:
            save_image(path, pixels)
        assert caught.value.reason == expected
        assert str(path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_reading_a_missing_file_or_a_folder_says_so(tmp_path):
    """A path that does not exist, a folder and a link to a device are user mistakes with their own reasons."""
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for path, expected in [
        (tmp_path / "none.png", "not_found"),
        (tmp_path, "unreadable"),
        (tmp_path / "zero.png", "unreadable"),
    ]:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert (caught.value.reason, caught.value.exit_code) == (expected, 2)


def test_import_is_light():
    """Importing the module loads neither OpenCV nor Pillow nor torch: the command line imports it."""
    code = "import sys, relume.images; print(sorted({'cv2', 'PIL', 'torch', 'tifffile'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_alpha_and_depth_are_converted_band_by_band():
    """A 16-bit image with alpha is composited as a whole one would be, in the memory of what is read and returned."""
    pixels = np.tile(noise(30, 3000, channels=4, dtype=np.uint16), (100, 1, 1))
    data = cv2.imencode(".png", pixels[..., [2, 1, 0, 3]], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    tracemalloc.start()
    try:
        result = decode(data).pixels
        to_uint8(result)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < pixels.nbytes + result.nbytes + 100e6
    alpha = pixels[:30, :, 3:].astype(np.float64) / 65535
    expected = np.rint(alpha * pixels[:30, :, :3] + (1 - alpha) * 65535).astype(np.uint16)
    np.testing.assert_array_equal(result, np.tile(expected, (100, 1, 1)))
