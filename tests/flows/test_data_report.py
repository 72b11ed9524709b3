"""The report of curated data: every kind is on a sheet, nothing needs a network, and equal data give equal bytes."""

import re
import shutil
from itertools import combinations

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from flows.data_report import write_data_report
from relume.curation.curate import curate
from relume.curation.embedding_map import embedding_map
from relume.curation.settings import KeepBest
from relume.curation.sheets import THUMBNAIL, Thumbnail, contact_sheet, file_name
from relume.errors import BrokenFileError
from relume.files import sha256_folder
from relume.images import decode, encode, read_image
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Curated photographs, among them a copy, a blurred one, a noisy one and a small one; and a file that is broken."""
    root = tmp_path_factory.mktemp("checkout")
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "ihc.png", "gravel.png", "rocket.jpg")
    photographs = {name: skimage_photograph(name) for name in names}
    coffee = photographs["coffee.png"]
    photographs["<b>copy.png"] = cv2.resize(decode(encode(coffee, ".jpg")).pixels, None, fx=0.8, fy=0.8)
    photographs["blurred.png"] = cv2.GaussianBlur(photographs["rocket.jpg"], (0, 0), 8)
    photographs["small.png"] = coffee[:80, :80]
    (root / "photos").mkdir()
    (root / "photos" / "broken.png").write_bytes(b"\x89PNG")
    shutil.move(ingest_arrays(photographs, root), root / "data" / "ingested")
    (root / "data" / "curated").mkdir()
    limits = {"patch": 96, "stride": 96, "min_test": 1, "min_validation": 1, "min_sharpness": 20}
    rule = KeepBest(fraction=0.9, by=("niqe",))
    counts = curate(
        root / "data" / "ingested", root / "data" / "curated", settings(**limits, keep=rule), progress=lambda *_: None
    )
    return root, counts


def test_every_reason_has_a_sheet_and_the_page_needs_no_network(checkout, tmp_path):
    """PNG files for kept, each reason, duplicates, scores and map; the page embeds them and names no address."""
    root, counts = checkout
    page = write_data_report(root, tmp_path / "report").read_text()
    reasons = counts.keys() - {"train", "validation", "test", "patches"}
    assert {"blurred", "near_duplicate", "smaller_than_patch"} <= reasons
    expected = {"kept", "duplicates", "scores", "map"} | {f"rejected-{reason}" for reason in reasons}
    files = {path.stem: path for path in (tmp_path / "report").glob("*.png")}
    assert files.keys() == expected
    for path in files.values():
        assert read_image(path).pixels.std() > 5
    assert page.count("data:image/png;base64,") == len(files)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "broken.png" in page
    assert "<b>copy" not in page


def test_equal_data_give_equal_files(checkout, tmp_path):
    """Neither time nor place is in the report."""
    for name in ("one", "two"):
        write_data_report(checkout[0], tmp_path / name)
    assert sha256_folder(tmp_path / "one") == sha256_folder(tmp_path / "two")


def test_a_report_without_data_is_one_message(tmp_path):
    """Before anything was curated the message says what to run."""
    with pytest.raises(BrokenFileError, match="dvc repro --force curate"):
        write_data_report(tmp_path, tmp_path / "report")


def test_a_contact_sheet_has_every_thumbnail_in_reading_order():
    """The pixels of each are found in its cell, in rows of six, whatever its text is."""
    colours = [(10 + 20 * number, 200 - 20 * number, 90) for number in range(8)]
    thumbnails = [
        Thumbnail(pixels=np.full((THUMBNAIL, 100, 3), colour, np.uint8), text="long name\u4e2d " * number)
        for number, colour in enumerate(colours)
    ]
    sheet = contact_sheet(thumbnails)
    cells = [sheet[row : row + 184, column : column + 168] for row in (8, 192) for column in range(8, 1008, 168)]
    for colour, cell in zip(colours, cells, strict=False):
        assert (cell == colour).all(axis=-1).sum() == THUMBNAIL * 100
    assert contact_sheet(thumbnails[:1]).shape == (192, 176, 3)


def test_a_file_name_is_one_line():
    """Percent signs and newlines of an address do not break the text."""
    assert file_name("file:///a/b%0Ac%20d.png") == "b c d.png"
    assert file_name("archive:///set.zip#x/y.png") == "y.png"


def test_no_thumbnail_of_the_map_covers_another():
    """Of photographs that look alike each thumbnail is seen whole, within the axes, and lines lead to the points."""
    rng = np.random.default_rng(0)
    vectors = (0.01 * rng.standard_normal((70, 152))).astype(np.float32)
    vectors[0] += 1  # one far away, which leaves the others little room
    images = [np.full((40 + number, 60, 3), number, np.uint8) for number in range(60)]
    figure = embedding_map(vectors, [number % 4 for number in range(70)], images)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    boxes = [artist.patch.get_window_extent() for artist in axes.artists]
    assert len(boxes) == len(axes.lines) == 60
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.contains(*corner) for box in boxes for corner in box.corners())
    points = axes.collections[0].get_offsets()
    for line, point, artist in zip(axes.lines, points, axes.artists, strict=False):
        assert line.get_xydata() == pytest.approx(np.array([point, artist.xy]))


def test_a_map_of_equal_photographs_is_drawn():
    """Without any difference there is no direction and no size, and still each has a cell of its own."""
    figure = embedding_map(np.ones((3, 8), np.float32), [0, 0, 0], [np.zeros((9, 9, 3), np.uint8)] * 3)
    assert len({artist.xy for artist in figure.axes[0].artists}) == 3
