"""Files of the further formats, made by their own writers and restored by a network that changes nothing."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image

from relume.errors import ImageError
from relume.images import decode, read_header, read_image
from tests.flows.test_restore_kinds import RGB, RGB16, by_pillow, model, restore, with_alpha  # noqa: F401
from tests.relume.images.test_metadata import camera_exif, tags_of

pytestmark = pytest.mark.usefixtures("model")


def test_avif_and_jpeg_2000_keep_colours_and_alpha():
    """AVIF stays close, with alpha and the camera's words; JPEG 2000 is lossless and says what it does not hold."""
    Path("in.avif").write_bytes(by_pillow(with_alpha(RGB, 255), "AVIF", quality=100, subsampling="4:4:4"))
    restore("in.avif", "-o", "out.avif")
    before, after = (np.asarray(Image.open(name)).astype(int) for name in ("in.avif", "out.avif"))
    assert after.shape == (50, 70, 4)
    assert np.abs(after - before).mean() < 3
    Path("in.jp2").write_bytes(by_pillow(RGB, "JPEG2000"))
    restore("in.jp2", "-o", "out.jp2")
    np.testing.assert_array_equal(cv2.imread("out.jp2")[..., ::-1], RGB)
    Path("in.jpg").write_bytes(by_pillow(RGB, "JPEG", exif=camera_exif()))
    assert "JPEG2000 holds none" in restore("in.jpg", "-o", "out.jp2").stderr


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_avif_on_its_side_is_restored_upright(orientation):
    """The turn that its container states is done once."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Path("in.avif").write_bytes(by_pillow(RGB, "AVIF", quality=100, subsampling="4:4:4", exif=exif))
    restore("in.avif", "-o", "out.png")
    turned = np.rot90(RGB, {1: 0, 3: 2, 6: 3}[orientation])
    assert np.abs(read_image("out.png").pixels - turned.astype(int)).mean() < 3


def test_jpeg_2000_of_16_bits_is_read_in_its_depth():
    """All 16 bits go into a PNG."""
    Path("in.jp2").write_bytes(cv2.imencode(".jp2", RGB16[..., ::-1])[1].tobytes())
    expected = cv2.imread("in.jp2", cv2.IMREAD_UNCHANGED)
    restore("in.jp2", "-o", "out.png")
    np.testing.assert_array_equal(cv2.imread("out.png", cv2.IMREAD_UNCHANGED), expected)
    assert expected.dtype == np.uint16


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_of_10_and_12_bits_is_read_in_its_depth(bits):
    """White is 65535, and of OpenCV's file with the finest quality each value is closer than 8 bits would be."""
    values = RGB16 >> (16 - bits)
    values[:5] = 2**bits - 1
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    Path("in.avif").write_bytes(cv2.imencode(".avif", values[..., ::-1], options)[1].tobytes())
    restore("in.avif", "-o", "out.png")
    found = cv2.imread("out.png", cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.abs(found - values * (65535 / (2**bits - 1))).mean() < 257 / 8
    assert found[0].min() > 65400
    assert "16-bit values were rounded to 8 bits" in restore("in.avif", "-o", "out.avif").stderr


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("pixels", [RGB16, with_alpha(RGB16, 65535)], ids=["rgb", "rgba"])
def test_heic_of_10_and_12_bits_is_read_in_its_depth(bits, pixels, monkeypatch):
    """Its values, scaled so that white is 65535, and its alpha."""
    pillow_heif = pytest.importorskip("pillow_heif", reason='without HEIC: pip install "relume[formats]"')
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    image = pillow_heif.from_bytes("RGB;16" if pixels.shape[2] == 3 else "RGBA;16", (70, 50), pixels.tobytes())
    file = io.BytesIO()
    image.save(file, quality=90)
    Path("in.heic").write_bytes(file.getvalue())
    restore("in.heic", "-o", "out.png")
    theirs = np.asarray(pillow_heif.open_heif("in.heic", convert_hdr_to_8bit=False))  # in the upper bits
    expected = (theirs >> (16 - bits)) * (65535 / (2**bits - 1))
    found = cv2.imread("out.png", cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3][: pixels.shape[2]]]
    assert np.abs(found - expected).max() <= 0.5
    assert np.unique(found).size > 256


def test_of_a_gif_the_first_frame_becomes_a_png():
    """In a folder it keeps its name, with the suffix of what was written."""
    first, second = (Image.fromarray(frame).quantize(64) for frame in (RGB, RGB[::-1]))
    Path("in").mkdir()
    first.save("in/moving.gif", save_all=True, append_images=[second])
    restore("in", "-o", "out")
    np.testing.assert_array_equal(
        read_image("out/moving.gif.png").pixels, np.asarray(Image.open("in/moving.gif").convert("RGB"))
    )


def test_heic_keeps_what_the_camera_wrote():
    """A photograph of a phone becomes a JPEG with date, maker and place, upright."""
    pillow_heif = pytest.importorskip("pillow_heif", reason='without HEIC: pip install "relume[formats]"')
    image = pillow_heif.from_pillow(Image.fromarray(RGB))
    file = io.BytesIO()
    image.save(file, quality=95, exif=camera_exif())
    Path("in.heic").write_bytes(file.getvalue())
    restore("in.heic", "-o", "out.jpg")
    theirs = pillow_heif.open_heif("in.heic").to_pillow()
    assert read_image("out.jpg").pixels.shape[:2] == np.asarray(theirs).shape[:2]
    assert np.abs(read_image("out.jpg").pixels - np.asarray(theirs).astype(int)).mean() < 3
    tags, _ = tags_of(Path("out.jpg").read_bytes(), ".jpg")
    assert tags[0x010F] == "Leica"
    assert tags.get(0x0112, 1) == 1
    assert tags[0x8769]["DateTimeOriginal"] == "2026:05:01 10:20:30"
    assert tags[0x8825]["GPSLatitude"] == (52, 1, 31, 1, 7, 1)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="without exiftool: apt-get install libimage-exiftool-perl")
@pytest.mark.parametrize(
    ("package", "kind", "suffix", "result"),
    [
        ("PIL", "AVIF", ".avif", ".avif"),
        ("pillow_heif", "HEIF", ".heic", ".jpg"),
        ("pillow_jxl", "JXL", ".jxl", ".png"),
    ],
)
def test_what_exiftool_wrote_is_what_it_reads(package, kind, suffix, result):
    """Maker, date, place and rating, in another format where that of the input is not written."""
    reader = pytest.importorskip(package, reason='without the format: pip install "relume[formats]"')
    if kind == "HEIF":
        reader.from_pillow(Image.fromarray(RGB)).save(f"in{suffix}")
    else:
        Path(f"in{suffix}").write_bytes(by_pillow(RGB, kind))
    written = {
        "EXIF:Make": "Leica",
        "EXIF:DateTimeOriginal": "2026:05:01 10:20:30",
        "EXIF:GPSLatitude": 52.5,
        "EXIF:GPSLatitudeRef": "N",
        "XMP:Rating": 4,
    }
    tags = [f"-{name}={value}" for name, value in written.items()]
    subprocess.run(["exiftool", "-m", "-q", "-n", "-overwrite_original", *tags, f"in{suffix}"], check=True)
    restore(f"in{suffix}", "-o", f"out{result}")
    shown = subprocess.run(["exiftool", "-j", "-n", "-G", f"out{result}"], check=True, capture_output=True, text=True)
    found = json.loads(shown.stdout)[0]
    assert {name: found.get(name) for name in written} == written
    assert "ExifTool:Warning" not in found


def test_jpeg_xl_is_read():
    """A lossless one gives its pixels, value by value."""
    pytest.importorskip("pillow_jxl", reason='without JPEG XL: pip install "relume[formats]"')
    Path("in.jxl").write_bytes(by_pillow(RGB, "JXL", lossless=True))
    restore("in.jxl", "-o", "out.png")
    np.testing.assert_array_equal(read_image("out.png").pixels, RGB)


def raw_file(rgb):
    """A DNG of a sensor with the pattern RGGB, whose maker and date are known."""
    linear = ((rgb / 255.0) ** 2.2 * 60000).astype(np.uint16)
    sensor = np.empty(rgb.shape[:2], np.uint16)
    for place, colour in [((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 2)]:
        sensor[place[0] :: 2, place[1] :: 2] = linear[place[0] :: 2, place[1] :: 2, colour]
    to_camera = [3.2405, -1.5371, -0.4985, -0.9693, 1.8760, 0.0416, 0.0556, -0.2040, 1.0572]  # from XYZ: sRGB's
    matrix = tuple(number for value in to_camera for number in (round(value * 10000), 10000))
    tags = [
        (271, 2, 0, "Relume", True),
        (306, 2, 0, "2026:05:01 10:20:30", True),
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, bytes([0, 1, 1, 2]), True),
        (50706, 1, 4, bytes([1, 4, 0, 0]), True),
        (50708, 2, 0, "Relume Test", True),
        (50717, 4, 1, 60000, True),
        (50721, 10, 9, matrix, True),
        (50728, 5, 3, (1, 1, 1, 1, 1, 1), True),
        (50778, 3, 1, 21, True),
    ]
    file = io.BytesIO()
    tifffile.imwrite(file, sensor, photometric="CFA", metadata=None, software=False, extratags=tags)
    return file.getvalue()


def test_camera_raw_is_developed():
    """A DNG becomes 16 bits that LibRaw gives, of the photograph that its sensor saw; maker and date are kept."""
    rawpy = pytest.importorskip("rawpy", reason='without camera raw: pip install "relume[formats]"')
    photograph = skimage.data.coffee()[100:228, 100:292]
    Path("in.dng").write_bytes(raw_file(photograph))
    restore("in.dng", "-o", "out.tif")
    with rawpy.imread("in.dng") as raw:
        expected = raw.postprocess(use_camera_wb=True, output_bps=16)
    found = tifffile.imread("out.tif")
    np.testing.assert_array_equal(found, expected)
    assert np.corrcoef(found[::4, ::4].ravel(), photograph[::4, ::4].ravel())[0, 1] > 0.9
    tags, _ = tags_of(Path("out.tif").read_bytes(), ".tif")
    assert tags[271] == "Relume"


@pytest.mark.parametrize(
    ("module", "package", "data"),
    [
        ("pillow_heif.as_plugin", "pillow-heif", b"\0\0\0\x18ftypheic" + bytes(32)),
        ("pillow_jxl.JpegXLImagePlugin", "pillow-jxl-plugin", b"\xff\x0a" + bytes(32)),
        ("rawpy", "rawpy", b"FUJIFILMCCD-RAW" + bytes(32)),
    ],
)
def test_a_missing_decoder_says_its_name(monkeypatch, module, package, data):
    """The message says what to install; and where photographs are ingested, the format is not supported as before."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "relume.images.raw", raising=False)
    with pytest.raises(ImageError, match=f"pip install {package}") as missing:
        read_header(data, full=True)
    assert missing.value.reason == "missing_package"
    with pytest.raises(ImageError, match="not read") as refused:
        decode(data)
    assert refused.value.reason == "unsupported_format"
