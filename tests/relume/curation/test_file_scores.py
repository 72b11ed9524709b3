"""The scores of files, by the command `relume data scores`."""

import csv
import io

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from relume.cli import main
from relume.curation.file_scores import look
from relume.curation.hashes import perceptual_hash
from relume.curation.quality import gray, quality
from relume.curation.scores import scores
from relume.images import decode, encode, save_image, to_uint8
from tests.relume.curation.photographs import skimage_photograph


def test_a_folder_of_files_becomes_a_table(tmp_path):
    """A PNG has the scores of its pixels, a JPEG the quality of its tables; what cannot be read is left out."""
    pixels = skimage_photograph("chelsea.png")
    save_image(tmp_path / "photos" / "a.png", pixels)
    save_image(tmp_path / "photos" / "b.jpg", pixels, quality=97)
    save_image(tmp_path / "photos" / "c.jpg", pixels, quality=38)
    (tmp_path / "photos" / "cut.jpg").write_bytes(encode(pixels, ".jpg")[:3000])
    save_image(tmp_path / "photos" / "tiny.png", pixels[:1, :1])
    save_image(tmp_path / "photos" / "small.png", pixels[:34, :34])
    result = CliRunner().invoke(main, ["data", "scores", str(tmp_path / "photos"), "-o", str(tmp_path / "table.csv")])
    assert result.exit_code == 0, result.output
    assert "cut.jpg was left out" in result.output
    assert "tiny.png was left out" in result.output
    with open(tmp_path / "table.csv", newline="") as file:
        rows = {row["file"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a.png", "b.jpg", "c.jpg", "small.png"]
    measured = scores(pixels)
    assert [float(rows["a.png"][name]) for name in ("niqe", "brisque", "sharpness", "jpeg_quality")] == pytest.approx(
        [measured.niqe, measured.brisque, quality(pixels).sharpness, 100]
    )
    assert (rows["a.png"]["width"], rows["a.png"]["height"], rows["a.png"]["bit_depth"]) == ("451", "300", "8")
    assert (rows["b.jpg"]["jpeg_quality"], rows["c.jpg"]["jpeg_quality"]) == ("97", "38")
    assert np.isnan(float(rows["small.png"]["niqe"]))


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "ihc.png", "brick.png"])
@pytest.mark.parametrize("deep", [False, True])
def test_the_first_look_agrees_with_the_measurement(name, deep):
    """Of gray values: sharpness within 3 %, noise within 0.05, flatness within 0.01, and the hash within a bit."""
    pixels = np.kron(skimage_photograph(name), np.ones((3, 3, 1), np.uint8))  # beyond the normalised scale
    data = encode(pixels.astype(np.uint16) * 257, ".png") if deep else encode(pixels, ".jpg", quality=92)
    found, decoded = look(data), to_uint8(decode(data).pixels)
    expected = quality(decoded)
    assert found["sharpness"] == pytest.approx(expected.sharpness, rel=0.03)
    assert found["noise_sigma"] == pytest.approx(expected.noise_sigma, abs=0.05)
    assert found["flat_fraction"] == pytest.approx(expected.flat_fraction, abs=0.01)
    assert found["brightness"] == pytest.approx(gray(decoded).mean(), abs=0.1)
    assert (found["hash"] ^ perceptual_hash(gray(decoded))).bit_count() <= 1


def test_a_turned_jpeg_is_looked_at_upright():
    """The hash of a JPEG that its EXIF tag turns is that of the turned pixels."""
    pixels, exif, file = skimage_photograph("coffee.png"), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, quality=95)
    upright = gray(np.ascontiguousarray(np.rot90(pixels, -1)))
    assert (look(file.getvalue())["hash"] ^ perceptual_hash(upright)).bit_count() <= 1


def test_a_quick_table_names_near_duplicates_and_leaves_out_what_is_cut(tmp_path):
    """A mirrored smaller copy names its original; a JPEG that is cut anywhere in its pixels has no row."""
    pixels = skimage_photograph("coffee.png")
    save_image(tmp_path / "photos" / "a.jpg", pixels)
    save_image(tmp_path / "photos" / "b.png", np.ascontiguousarray(pixels[::2, ::-2]))
    save_image(tmp_path / "photos" / "c.jpg", skimage_photograph("chelsea.png"))
    whole = encode(pixels, ".jpg")
    for number in range(1, 8):
        (tmp_path / "photos" / f"cut{number}.jpg").write_bytes(whole[: len(whole) * number // 8])
    table = tmp_path / "table.csv"
    result = CliRunner().invoke(main, ["data", "scores", str(tmp_path / "photos"), "--quick", "-o", str(table)])
    assert result.exit_code == 0, result.output
    with open(table, newline="") as file:
        rows = {row["file"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert list(rows) == ["a.jpg", "b.png", "c.jpg"]
    assert [row["near_duplicate_of"].rpartition("/")[2] for row in rows.values()] == ["", "a.jpg", ""]
    assert result.output.count("was left out") == 7
