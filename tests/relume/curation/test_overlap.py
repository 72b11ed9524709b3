"""Test images among training photographs are found, however they were cut, turned or mirrored."""

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from relume.cli import main
from relume.curation.overlap import Overlap, find_overlaps
from relume.images import save_image
from tests.relume.curation.photographs import skimage_photograph


@pytest.fixture
def training(tmp_path):
    """Two photographs: a cat, and one of 2400 x 1600 pixels with a cup of coffee that fills a quarter of its width."""
    cat, table = tmp_path / "training" / "cat.png", tmp_path / "training" / "table.png"
    cat.parent.mkdir()
    save_image(cat, skimage_photograph("chelsea.png"))
    wide = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (1600, 2400, 3), dtype=np.uint8), (0, 0), 3)
    wide[900:1300, 1500:2100] = skimage_photograph("coffee.png")
    save_image(table, wide)
    return [cat, table]


def plant(tmp_path, pixels):
    """Writes a test image beside one that shows something else."""
    tests = [tmp_path / "tests" / "other.png", tmp_path / "tests" / "planted.png"]
    tests[0].parent.mkdir()
    save_image(tests[0], skimage_photograph("astronaut.png"))
    save_image(tests[1], pixels)
    return tests


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda: skimage_photograph("chelsea.png")[40:260, 100:400], 0),
        (lambda: skimage_photograph("chelsea.png")[40:260, 100:400][:, ::-1], 0),
        (lambda: cv2.resize(skimage_photograph("chelsea.png")[40:260, 100:400][:, ::-1], None, fx=0.7, fy=0.7), 0),
        (lambda: np.rot90(skimage_photograph("chelsea.png"))[::-1], 0),
        (lambda: skimage_photograph("coffee.png")[20:380, 100:500][:, ::-1], 1),
    ],
    ids=["crop", "mirrored crop", "smaller mirrored crop", "transposed", "mirrored crop of a large photograph"],
)
def test_finds_a_planted_image(tmp_path, training, change, found):
    """A version of a training photograph among the test images is found, and nothing else."""
    tests = plant(tmp_path, np.ascontiguousarray(change()))
    assert find_overlaps(training, tests) == [Overlap(training=training[found], test=tests[1], same_file=False)]


def test_an_equal_file_is_found_by_its_hash(tmp_path, training):
    """A copy without anything to recognise, such as an even gray, is found all the same."""
    save_image(training[0], np.full((64, 64, 3), 128, np.uint8))
    tests = plant(tmp_path, np.full((64, 64, 3), 128, np.uint8))
    assert find_overlaps(training, tests) == [Overlap(training=training[0], test=tests[1], same_file=True)]


def test_the_command_fails_when_a_test_image_is_in_training(tmp_path, training):
    """Each overlap is a line, and the exit code stops a script; without one the numbers compared are given."""
    plant(tmp_path, np.ascontiguousarray(skimage_photograph("chelsea.png")[:, ::-1]))
    folders = [str(training[0].parent), str(tmp_path / "tests")]
    result = CliRunner().invoke(main, ["data", "overlaps", *folders])
    assert result.exit_code == 1
    assert f"{tmp_path}/tests/planted.png shows the same scene as {training[0]}" in result.output
    (tmp_path / "tests" / "planted.png").unlink()
    result = CliRunner().invoke(main, ["data", "overlaps", *folders])
    assert result.exit_code == 0
    assert "2 photographs, 1 test image: no overlap" in result.output
