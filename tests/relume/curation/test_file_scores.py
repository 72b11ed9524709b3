"""The scores of files, by the command `relume data scores`."""

import csv

import numpy as np
import pytest
from click.testing import CliRunner

from relume.cli import main
from relume.curation.quality import quality
from relume.curation.scores import scores
from relume.images import encode, save_image
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
