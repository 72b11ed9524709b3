"""Great Expectations on the prepared data: each kind of damage fails its own expectation, and nothing else does."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import expect
from pyarrow import parquet

from relume.curation.comparison import read_curated_tables
from relume.curation.curate import curate
from relume.curation.settings import ValidateSettings
from relume.curation.validate import check, failing_sheets, validate
from relume.errors import DataValidationError
from relume.images import read_image
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings

LIMITS = {
    "min_photographs": 5,
    "min_train_patches": 5,
    "max_quarantined": 0.1,
    "min_colour": 0.5,
    "max_patch_share": 0.9,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """An ingested and a curated folder of six photographs."""
    folder = tmp_path_factory.mktemp("prepared")
    names = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left", "motorcycle_right")
    ingest_arrays({f"{name}.png": skimage_photograph(f"{name}.png")[:256, :256] for name in names}, folder)
    (folder / "curated").mkdir()
    curate(
        folder / "ingested",
        folder / "curated",
        settings(patch=96, stride=64, min_test=1, max_flat_fraction=1.0),
        progress=lambda *counted: None,
    )
    return folder


@pytest.fixture
def damaged(prepared, tmp_path):
    """A copy of the prepared folders to do damage to."""
    for name in ("ingested", "curated"):
        shutil.copytree(prepared / name, tmp_path / name)
    return tmp_path


def failed(folder, **limits):
    outcomes = validate(
        folder / "ingested",
        folder / "curated",
        ValidateSettings(**{**LIMITS, **limits}),
        docs=folder / "data_docs",
    )
    return [outcome for outcome in outcomes if not outcome.success]


def edit_csv(path, change):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    change(rows)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def edit_patches(folder, **columns):
    path = folder / "curated" / "patches.parquet"
    rows = parquet.read_table(path).to_pylist()
    for name, value in columns.items():
        rows[0][name] = value(rows) if callable(value) else value
    parquet.write_table(pa.Table.from_pylist(rows), path)


def test_good_data_passes_and_leaves_data_docs(damaged):
    """On what the steps made every expectation holds, and the Data Docs show all four tables."""
    assert failed(damaged) == []
    pages = "".join(path.as_posix() for path in (damaged / "data_docs").rglob("*.html"))
    assert (damaged / "data_docs" / "index.html").is_file()
    for table in ("files", "manifest", "images", "patches"):
        assert f"/{table}" in pages


def test_data_docs_need_no_network(offline_page, damaged):
    """The index lists the runs, and one of them shows its expectations with their icons and styles."""
    assert failed(damaged) == []
    offline_page.goto((damaged / "data_docs" / "index.html").as_uri())
    expect(offline_page.locator("tbody tr", has_text="manifest").first).to_be_visible()
    offline_page.goto(next((damaged / "data_docs" / "validations").rglob("*images*.html")).as_uri())
    expect(offline_page.locator("i.fas").first).to_be_visible()
    assert offline_page.evaluate("document.fonts.check('900 16px \\'Font Awesome 6 Free\\'')")


def test_data_docs_are_replaced_as_a_whole(damaged):
    """A second run leaves no page of the first behind."""
    (damaged / "data_docs").mkdir()
    (damaged / "data_docs" / "old.html").write_text("old")
    failed(damaged)
    assert not (damaged / "data_docs" / "old.html").exists()
    assert sorted(path.name for path in damaged.iterdir()) == ["curated", "data_docs", "ingested"]


def test_too_little_data_is_critical(damaged):
    """Fewer photographs or patches than the limits stop the run, and the message says what was found and what to do."""
    outcomes = failed(damaged, min_photographs=7, min_train_patches=10_000)
    assert [(outcome.table, outcome.severity) for outcome in outcomes] == [
        ("manifest", "critical"),
        ("patches", "critical"),
    ]
    with pytest.raises(DataValidationError, match=r"min_value=7.*: 6") as caught:
        check(outcomes)
    assert "relume data scan FOLDER" in caught.value.next_step
    assert "validate.min_photographs" in caught.value.next_step
    assert caught.value.exit_code == 1


def test_a_scene_on_two_sides_is_critical(damaged):
    """If the two views of the motorcycle lay on two sides of the split, the run would stop."""

    def change(rows):
        left, right = (row for row in rows if "motorcycle" in row["address"])
        left["split"], right["split"] = "train", "test"
        left["reason"] = right["reason"] = ""

    edit_csv(damaged / "curated" / "images.csv", change)
    outcomes = failed(damaged)
    assert ("images", "group_sides", "critical") in [(o.table, o.column, o.severity) for o in outcomes]


@pytest.mark.parametrize(
    ("column", "columns"),
    [
        ("patch_id", {"patch_id": lambda rows: rows[1]["patch_id"]}),
        ("", {"row": lambda rows: rows[1]["row"]}),
        ("height, bottom", {"y": 200}),
        ("flat_fraction", {"flat_fraction": 1.5}),
        ("split", {"split": "test"}),
        ("size", {"size": 64}),
    ],
)
def test_each_damage_to_the_patches_is_found(damaged, column, columns):
    """Twice the same patch or place, a patch outside, a figure out of range or of the wrong side: one failure each."""
    edit_patches(damaged, **columns)
    assert [(outcome.table, outcome.column, outcome.severity) for outcome in failed(damaged)] == [
        ("patches", column, "critical")
    ]


def test_a_patch_of_a_test_photograph_is_critical(damaged):
    """A patch cut from a photograph that tests would leak the test into training; it stops the run."""
    with open(damaged / "curated" / "images.csv", newline="") as file:
        leaked = next(row["image_id"] for row in csv.DictReader(file) if row["split"] == "test")
    edit_patches(damaged, image_id=leaked)
    assert ("image_split", "critical") in [(outcome.column, outcome.severity) for outcome in failed(damaged)]


def test_damage_to_the_manifest_is_found(damaged):
    """A photograph listed twice, an impossible depth and a missing column are critical."""

    def change(rows):
        rows[1]["sha256"] = rows[0]["sha256"]  # and neither is one of a pair
        rows[2]["bit_depth"] = "7"

    edit_csv(damaged / "ingested" / "manifest.csv", change)
    assert [outcome.column for outcome in failed(damaged)] == ["", "bit_depth"]
    text = (damaged / "ingested" / "manifest.csv").read_text().replace(",shard\n", ",tar\n")
    (damaged / "ingested" / "manifest.csv").write_text(text)
    outcomes = {outcome.column: outcome.observed for outcome in failed(damaged)}
    assert outcomes.keys() == {"bit_depth", "shard", ""}
    assert "does not exist" in outcomes["shard"]


def test_warnings_are_reported_and_do_not_stop(damaged):
    """Many quarantined files, much gray and one photograph with most patches are warnings: `check` lets them pass."""
    edit_csv(damaged / "ingested" / "manifest.csv", lambda rows: [row.update(channels="1") for row in rows[1:]])
    with open(damaged / "ingested" / "quarantine.csv", "a") as file:
        file.write("file:///a.jpg,truncated,cut\nfile:///b.jpg,truncated,cut\n")
    outcomes = failed(damaged, max_patch_share=0.01)
    assert {(outcome.column, outcome.severity) for outcome in outcomes} == {
        ("reason", "warning"),
        ("channels", "warning"),
        ("photograph_share", "warning"),
    }
    check(outcomes)


def test_outcomes_hold_nothing_of_time(damaged):
    """Two runs give equal outcomes that fit into JSON, so the step's out depends on the data alone."""
    runs = [
        validate(damaged / "ingested", damaged / "curated", ValidateSettings(**LIMITS), docs=damaged / "docs")
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    json.dumps([vars(outcome) for outcome in runs[0]], allow_nan=False)


def test_the_shards_hold_as_many_patches_as_the_table(prepared):
    """The prepared folder itself is consistent: rows of the table and of the shards agree."""
    rows = parquet.read_table(prepared / "curated" / "patches.parquet").num_rows
    assert sum(len(np.load(path, mmap_mode="r")) for path in (prepared / "curated").glob("train-*.npy")) == rows


def test_a_median_outside_of_its_bounds_is_critical(damaged):
    """Bounds around the median of an earlier version hold for it, and stop data whose photographs are others."""
    tables = read_curated_tables({name: damaged / "curated" / name for name in ("images.csv", "patches.parquet")})
    median = float(np.median(tables.scores["sharpness"]))
    assert failed(damaged, medians={"sharpness": (0.9 * median, 1.1 * median)}) == []
    (outcome,) = failed(damaged, medians={"sharpness": (1.1 * median, 1.2 * median)})
    assert (outcome.table, outcome.column, outcome.severity) == ("images", "sharpness", "critical")
    assert "relume data diff" in outcome.next_step


def test_scores_out_of_their_range_are_critical_and_shown(damaged, tmp_path):
    """A table of scores is checked where there is one; the photograph whose row fails is on a sheet."""
    with open(damaged / "curated" / "images.csv", newline="") as file:
        images = list(csv.DictReader(file))
    scores = dict.fromkeys(("niqe", "niqe_native", "sharpness_native", "brisque", "brisque_native"), 5.0)
    scores |= {"blur": 0.3, "clipped": 0.0, "blockiness": 1.0, "jpeg_quality": 90.0, "entropy": 7.0}
    rows = [{"image_id": row["image_id"], "reason": "", **scores} for row in images]
    parquet.write_table(pa.Table.from_pylist(rows), damaged / "curated" / "scores.parquet")
    assert failed(damaged) == []
    rows[1]["entropy"] = 9.0
    parquet.write_table(pa.Table.from_pylist(rows), damaged / "curated" / "scores.parquet")
    (outcome,) = failed(damaged)
    assert (outcome.table, outcome.column) == ("scores", "entropy")
    assert outcome.image_ids == (rows[1]["image_id"],)
    (sheet,) = failing_sheets([outcome], damaged / "ingested", tmp_path / "failed")
    pixels = read_image(sheet).pixels
    assert pixels.shape == (192, 176, 3)
    assert pixels.std() > 20
    assert failing_sheets([], damaged / "ingested", tmp_path / "failed") == []
    assert list((tmp_path / "failed").iterdir()) == []
