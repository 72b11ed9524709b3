"""Files of every kind through a network that changes nothing: what comes out is what went in, by another reader."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image, ImageCms

from relume.cli import main
from relume.errors import ImageError
from relume.images import decode, read_header, read_image, save_image
from relume.inference.plan import EdgeFusion, Inference, Tiling
from relume.models.registry import build
from relume.serving.served_export import export_served_model
from relume.serving.served_model import Serving
from tests.tiny_onnx import BLUR, IDENTITY, write_tiny_model

ROOT = Path(__file__).parents[2]
RGB = skimage.data.chelsea()[60:110, 100:170]
RGB16 = RGB.astype(np.uint16) * 257 - np.random.default_rng(0).integers(0, 257, RGB.shape, dtype=np.uint16).clip(
    0, RGB.astype(np.uint16) * 257
)
FLOAT = (RGB16 / np.float32(65535)).astype(np.float32)
ALPHA = np.tile(np.linspace(0, 255, 70).astype(np.uint8), (50, 1))


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A working folder with a model that changes nothing."""
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "model", kernel=IDENTITY)


def restore(*arguments):
    result = CliRunner().invoke(main, ["restore", *arguments, "--model", "model"])
    assert result.exit_code == 0, result.output
    return result


def with_alpha(colours, peak):
    return np.dstack([colours, (ALPHA.astype(np.float64) * peak / 255).astype(colours.dtype)])


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb"} | options)
    return file.getvalue()


GRAY_ALPHA = np.dstack([RGB16[..., 1], ALPHA.astype(np.uint16) * 257])


def by_pillow(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def png16(pixels):
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.ndim == 3 else ...
    return cv2.imencode(".png", pixels[..., order] if pixels.ndim == 3 else pixels)[1].tobytes()


def read_tiff(path):
    return tifffile.imread(path)


def read_pillow(path):
    return np.asarray(Image.open(path))


def read_opencv(path):
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


KINDS = {
    "png 8": (".png", by_pillow(RGB, "PNG"), read_pillow, RGB),
    "png 8 gray": (".png", by_pillow(RGB[..., 1], "PNG"), read_pillow, RGB[..., 1]),
    "png 8 alpha": (".png", by_pillow(with_alpha(RGB, 255), "PNG"), read_pillow, with_alpha(RGB, 255)),
    "png 8 gray alpha": (".png", by_pillow(np.dstack([RGB[..., 1], ALPHA]), "PNG"), read_pillow, None),
    "png 16": (".png", png16(RGB16), read_opencv, RGB16),
    "png 16 gray": (".png", png16(RGB16[..., 1]), read_opencv, RGB16[..., 1]),
    "png 16 alpha": (".png", png16(with_alpha(RGB16, 65535)), read_opencv, with_alpha(RGB16, 65535)),
    "tiff 8": (".tif", tiff(RGB), read_tiff, RGB),
    "tiff 8 planar": (".tif", tiff(np.moveaxis(RGB, -1, 0), planarconfig="separate"), read_tiff, RGB),
    "tiff 16": (".tif", tiff(RGB16, compression="zlib", predictor=True), read_tiff, RGB16),
    "tiff 16 planar": (".tif", tiff(np.moveaxis(RGB16, -1, 0), planarconfig="separate"), read_tiff, RGB16),
    "tiff 16 big-endian": (".tif", tiff(RGB16, byteorder=">"), read_tiff, RGB16),
    "tiff 16 alpha": (".tif", tiff(with_alpha(RGB16, 65535), extrasamples=["unassalpha"]), read_tiff, None),
    "tiff 16 gray alpha": (
        ".tif",
        tiff(GRAY_ALPHA, photometric="minisblack", extrasamples=["unassalpha"]),
        read_tiff,
        None,
    ),
    "tiff 16 gray": (".tif", tiff(RGB16[..., 1], photometric="minisblack"), read_tiff, RGB16[..., 1]),
    "tiff float": (".tif", tiff(FLOAT), read_tiff, FLOAT),
    "tiff float lzw": (".tif", cv2.imencode(".tif", FLOAT[..., ::-1])[1].tobytes(), read_tiff, FLOAT),
    "tiff float planar": (".tif", tiff(np.moveaxis(FLOAT, -1, 0), planarconfig="separate"), read_tiff, FLOAT),
    "tiff float gray": (".tif", tiff(FLOAT[..., 1], photometric="minisblack"), read_tiff, FLOAT[..., 1]),
    "tiff float alpha": (".tif", tiff(with_alpha(FLOAT, 1), extrasamples=["unassalpha"]), read_tiff, None),
    "tiff half": (".tif", tiff(FLOAT.astype(np.float16)), read_tiff, FLOAT.astype(np.float16)),
    "tiff double": (".tif", tiff(FLOAT.astype(np.float64)), read_tiff, FLOAT),
    "webp": (".webp", by_pillow(RGB, "WEBP", lossless=True), read_pillow, RGB),
    "webp alpha": (".webp", by_pillow(with_alpha(RGB, 255), "WEBP", lossless=True), read_pillow, None),
    "bmp": (".bmp", by_pillow(RGB, "BMP"), read_pillow, RGB),
    "jpeg": (".jpg", by_pillow(RGB, "JPEG", quality=100, subsampling=0), read_pillow, RGB),
    "jpeg gray": (".jpg", by_pillow(RGB[..., 1], "JPEG", quality=100), read_pillow, RGB[..., 1]),
}
PEAKS = {"uint8": 255, "uint16": 65535, "float32": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_keeps_its_depth_and_kind(model, kind):
    """Bits, float, gray and alpha are those of the input, in the format of the input, value by value."""
    suffix, data, read, expected = KINDS[kind]
    Path(f"in{suffix}").write_bytes(data)
    result = restore(f"in{suffix}", "-o", f"out{suffix}")
    assert "note" not in result.stderr
    expected = read(f"in{suffix}") if expected is None else expected
    found = read(f"out{suffix}")
    assert found.shape == expected.shape
    if found.dtype == np.float32:
        np.testing.assert_allclose(found, expected, atol=2e-7)
    else:
        assert found.dtype == expected.dtype
        error = np.abs(found.astype(int) - expected.astype(int))
        assert error.mean() < 3 if suffix == ".jpg" else error.max() == 0


@pytest.mark.parametrize(
    ("kind", "suffix", "words"),
    [
        ("png 16", ".jpg", ["16-bit values were rounded to 8 bits"]),
        ("tiff float", ".png", ["float values were rounded to 16 bits"]),
        ("png 8 alpha", ".jpg", ["composited over white"]),
        ("tiff float alpha", ".jpg", ["float values were rounded to 8 bits", "composited over white"]),
        ("png 16", ".tif", []),
    ],
)
def test_what_a_format_does_not_hold_is_noted(model, kind, suffix, words):
    """Each loss has a note of its own, and the values are those of the input as the format can hold them."""
    Path(f"in{KINDS[kind][0]}").write_bytes(KINDS[kind][1])
    said = restore(f"in{KINDS[kind][0]}", "-o", f"out{suffix}").stderr
    notes = [line for line in said.splitlines() if "note" in line]
    assert [word in note for word, note in zip(words, notes, strict=True)] == [True] * len(words)
    image, found = decode(KINDS[kind][1], full=True), read_image(f"out{suffix}").pixels
    expected = image.pixels / PEAKS[image.pixels.dtype.name]
    if image.alpha is not None and suffix == ".jpg":
        alpha = image.alpha[..., np.newaxis] / PEAKS[image.alpha.dtype.name]
        expected = alpha * expected + 1 - alpha
    assert np.abs(found / PEAKS[found.dtype.name] - expected).mean() < 0.01


@pytest.mark.parametrize("quality", [40, 95, 98, 100])
def test_a_jpeg_is_never_saved_coarser_than_it_was(model, quality):
    """Its result has the quantisation of quality 95, or its own where that is finer, and colours at every pixel."""
    Path("in.jpg").write_bytes(by_pillow(RGB, "JPEG", quality=quality, subsampling=2))
    restore("in.jpg", "-o", "out.jpg")
    expected = Image.open(io.BytesIO(by_pillow(RGB, "JPEG", quality=max(quality, 95), subsampling=0)))
    assert Image.open("out.jpg").quantization == expected.quantization
    assert [layer[1:3] for layer in Image.open("out.jpg").layer] == [(1, 1)] * 3


def test_tables_of_a_camera_are_met_by_finer_ones(model):
    """A file with tables of no known quality, one entry of which is fine, gets tables that are nowhere coarser."""
    tables = [[9] * 64, [9] * 64]
    tables[1][5] = 1
    Path("in.jpg").write_bytes(by_pillow(RGB, "JPEG", qtables=tables))
    restore("in.jpg", "-o", "out.jpg")
    assert Image.open("out.jpg").quantization[1][5] == 1


def test_quality_and_subsampling_are_chosen(model):
    """They are those of Pillow's writer at the same settings; where the result is lossless, a note says so."""
    Path("in.png").write_bytes(by_pillow(RGB, "PNG"))
    restore("in.png", "-o", "out.jpg", "--quality", "60", "--subsampling", "4:2:0")
    assert Path("out.jpg").read_bytes() == by_pillow(RGB, "JPEG", quality=60, subsampling=2)
    for suffix, kind in ((".webp", "WEBP"), (".avif", "AVIF")):
        restore("in.png", "-o", f"out{suffix}", "--quality", "60")
        coarse = Path(f"out{suffix}").stat().st_size
        restore("in.png", "-o", f"out{suffix}")
        assert coarse < Path(f"out{suffix}").stat().st_size
        assert Image.open(f"out{suffix}").format == kind
    restore("in.png", "-o", "out.webp", "--quality", "100")
    np.testing.assert_array_equal(read_pillow("out.webp"), RGB)
    assert "quality has no effect" in restore("in.png", "-o", "out.tif", "--quality", "60").stderr


def test_float_values_outside_of_what_models_know_stay(model):
    """Highlights above 1 and negative values of a float TIFF come back as they were; what is no number is refused."""
    image = FLOAT * 4 - 1
    tifffile.imwrite("in.tif", image, photometric="rgb")
    restore("in.tif", "-o", "out.tif")
    np.testing.assert_allclose(tifffile.imread("out.tif"), image, atol=1e-6)
    image[3, 4, 1] = np.nan
    tifffile.imwrite("in.tif", image, photometric="rgb")
    with pytest.raises(ImageError, match="not a number"):
        read_image("in.tif", full=True)


def test_a_deep_image_is_blended_and_blurred_in_its_depth(model):
    """Half of a blur of 16 bits is the mean of the two in float64, within one value; alpha is not blurred."""
    write_tiny_model(Path("blur"), kernel=BLUR)
    Path("in.png").write_bytes(KINDS["png 16 alpha"][1])
    restored = CliRunner().invoke(main, ["restore", "in.png", "-o", "out.png", "--model", "blur", "--blend", "0.5"])
    assert restored.exit_code == 0
    image, found = with_alpha(RGB16, 65535).astype(float), read_opencv("out.png")
    blurred = sum(np.roll(image[..., :3], (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)) / 9
    inner = slice(1, -1), slice(1, -1)
    assert np.abs(found[..., :3] - (blurred + image[..., :3]) / 2)[inner].max() <= 1
    np.testing.assert_array_equal(found[..., 3], image[..., 3])


def test_a_palette_keeps_its_transparency_and_cmyk_becomes_rgb(model):
    """A palette becomes the colours that it names, with alpha; CMYK the RGB of the plain formula."""
    palette = Image.fromarray(RGB).quantize(16)
    palette.save("in.png", transparency=3)
    restore("in.png", "-o", "out.png")
    np.testing.assert_array_equal(read_pillow("out.png"), np.asarray(Image.open("in.png").convert("RGBA")))
    Image.fromarray(RGB).convert("CMYK").save("in.tif")
    assert "CMYK was converted to sRGB by the plain formula" in restore("in.tif", "-o", "out.tif").stderr
    np.testing.assert_array_equal(read_tiff("out.tif"), np.asarray(Image.open("in.tif").convert("RGB")))


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="without exiftool: apt-get install libimage-exiftool-perl")
@pytest.mark.parametrize("kind", ["jpeg", "png 8", "png 16", "tiff 8", "tiff 16", "tiff float", "webp"])
def test_metadata_stays_in_the_eyes_of_exiftool(model, kind):
    """Date, maker, place, rating, resolution and colour profile of a file that was given them by exiftool itself."""
    suffix = KINDS[kind][0]
    Path(f"in{suffix}").write_bytes(KINDS[kind][1])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Path("profile.icc").write_bytes(profile)
    written = {
        "EXIF:Make": "Leica",
        "EXIF:Artist": "Ana Example",
        "EXIF:DateTimeOriginal": "2026:05:01 10:20:30",
        "EXIF:ISO": 6400,
        "EXIF:ExposureTime": 0.004,
        "EXIF:GPSLatitude": 52.5,
        "EXIF:GPSLatitudeRef": "N",
        "XMP:Rating": 4,
    }
    dpi = {} if kind == "webp" else {"EXIF:XResolution": 300, "EXIF:YResolution": 300, "EXIF:ResolutionUnit": 2}
    tags = [f"-{name}={value}" for name, value in (written | dpi).items()]
    command = ["exiftool", "-q", "-n", "-overwrite_original", *tags, "-ICC_Profile<=profile.icc", f"in{suffix}"]
    subprocess.run(command, check=True)

    def tags_by_exiftool(path):
        shown = subprocess.run(["exiftool", "-j", "-n", "-G", "-b", path], check=True, capture_output=True, text=True)
        return json.loads(shown.stdout)[0]

    restore(f"in{suffix}", "-o", f"out{suffix}")
    before, after = tags_by_exiftool(f"in{suffix}"), tags_by_exiftool(f"out{suffix}")
    assert {name: after.get(name) for name in written} == {name: before[name] for name in written} == written
    assert after.get("ICC_Profile:ProfileDescription") == before["ICC_Profile:ProfileDescription"]
    assert "ExifTool:Warning" not in after
    assert "ExifTool:Error" not in after
    restore(f"in{suffix}", "-o", f"bare{suffix}", "--strip")
    bare = tags_by_exiftool(f"bare{suffix}")
    assert not [name for name in bare if name.startswith(("XMP", "ICC")) or name in written]
    restore(f"in{suffix}", "-o", f"placeless{suffix}", "--strip-place")
    left = tags_by_exiftool(f"placeless{suffix}")
    assert not [name for name in left if "GPS" in name]
    assert left["EXIF:DateTimeOriginal"] == "2026:05:01 10:20:30"


MEASURE = """
import sys
from pathlib import Path
from flows.restore import needed_memory, restore_file
from relume.images import read_header
from relume.serving.served_model import read_serving
from tests.abuse.images import memory

small, image, result = sys.argv[1:]
restore_file(small, result, model="model")  # imports what restoring needs
with memory() as taken:
    restore_file(image, result, model="model")
with open(image, "rb") as file:
    header = read_header(file.read(), full=True)
print(taken[0], needed_memory(header, result, read_serving(Path("model")).inference))
"""


def measured(small, image, result):
    """Bytes that restoring took in a process of its own, and those that were predicted."""
    command = [sys.executable, "-c", MEASURE, small, image, result]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return map(int, done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpeg", "png 16 alpha", "tiff float"])
def test_memory_is_what_was_predicted(model, kind):
    """Nine megapixels, in a process of their own, take no more than was said before, and not only a third of it."""
    suffix, data, _, _ = KINDS[kind]
    Path(f"small{suffix}").write_bytes(data)
    image = decode(data, full=True)
    pixels = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
    save_image(f"in{suffix}", np.tile(pixels, (60, 43, 1)))
    taken, said = measured(f"small{suffix}", f"in{suffix}", f"out{suffix}")
    assert said / 3 < taken < said


class Doubled(torch.nn.Module):
    """A network that makes an image twice as large."""

    def forward(self, image):
        return image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def average():
    """The mean of two small networks."""
    base = {"architecture": "dncnn", "arguments": {"width": 4, "layers": 2}}
    return build("weighted_average", {"bases": [base, base]})


ONCE = Inference(tile=256, halo=0, overlap=16)
LARGER = Tiling(tile=320, halo=0, overlap=16)
PLANS = {
    "twice as large": (Doubled, ONCE.model_copy(update={"scale": 2})),
    "in two windows": (average, ONCE.model_copy(update={"further_windows": (LARGER,)})),
    "in tiles of their own": (average, ONCE.model_copy(update={"members": {"a": None, "b": LARGER}})),
    "fused at edges": (average, ONCE.model_copy(update={"fusion": EdgeFusion(smooth="a", detail="b")})),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANS)
def test_memory_of_a_plan_is_what_was_predicted(tmp_path, monkeypatch, kind):
    """Larger results, several windows and members hold copies of the image, which were said before."""
    monkeypatch.chdir(tmp_path)
    network, plan = PLANS[kind]
    export_served_model(network().eval(), tmp_path / "model", Serving(inference=plan))
    save_image("small.png", RGB)
    save_image("in.png", np.tile(RGB, (60, 43, 1)))
    taken, said = measured("small.png", "in.png", "out.jpg")
    assert said / 3 < taken < said


@pytest.mark.exhaustive
@pytest.mark.parametrize("suffix", [".avif", ".jp2"])
def test_memory_of_hungry_encoders_is_predicted(model, suffix):
    """Four megapixels with alpha, from a PNG to formats whose encoders hold many copies, and from those to a PNG."""
    small = with_alpha(RGB, 255)
    save_image("small.png", small)
    save_image("in.png", np.tile(small, (40, 29, 1)))
    taken, said = measured("small.png", "in.png", f"out{suffix}")
    assert said / 3 < taken < said
    save_image(f"small{suffix}", small)
    taken, said = measured(f"small{suffix}", f"out{suffix}", "back.png")
    assert taken < said


@pytest.mark.exhaustive
@pytest.mark.parametrize("megapixels", [12, 100])
def test_memory_of_large_photographs_is_predicted(model, megapixels):
    """A JPEG of a camera, with tiles of the size that is served."""
    write_tiny_model(Path("model"), kernel=IDENTITY, tile=512, halo=32)
    height = round((megapixels * 0.75e6) ** 0.5)
    rows, columns = np.arange(height) % 50, np.arange(height * 4 // 3) % 70
    save_image("in.jpg", RGB[np.ix_(rows, columns)])
    save_image("small.jpg", RGB)
    taken, said = measured("small.jpg", "in.jpg", "out.jpg")
    assert said / 3 < taken < said
    assert read_header(Path("out.jpg").read_bytes()).megapixels == pytest.approx(megapixels, rel=0.01)
