"""Great Expectations on the prepared data: each kind of damage fails its own expectation, and nothing else does."""

import csv
import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from playwright.sync_api import expect
from pyarrow import parquet

from relume.curation.comparison import read_curated_tables
from relume.curation.curate import curate
from relume.curation.earlier import EarlierVersions
from relume.curation.expectations import load_tables
from relume.curation.settings import ValidateSettings
from relume.curation.split import SIDES, split_scenes
from relume.curation.split_table import split_table
from relume.curation.validate import check, failing_sheets, validate
from relume.errors import BrokenFileError, DataValidationError
from relume.images import encode, read_image, save_image
from relume.ingestion.ingest import ingest
from relume.ingestion.sources import scan
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings

LIMITS = {
    "min_photographs": 5,
    "min_train_patches": 5,
    "max_quarantined": 0.1,
    "min_colour": 0.5,
    "max_patch_share": 0.9,
}

SPLIT = settings(patch=96, stride=64, min_test=1, max_flat_fraction=1.0)


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
        SPLIT,
        progress=lambda *counted: None,
    )
    return folder


@pytest.fixture
def damaged(prepared, tmp_path):
    """A copy of the prepared folders to do damage to."""
    for name in ("ingested", "curated"):
        shutil.copytree(prepared / name, tmp_path / name)
    return tmp_path


def failed(folder, *, earlier=None, **limits):
    outcomes = validate(
        folder / "ingested",
        folder / "curated",
        ValidateSettings(**{**LIMITS, **limits}),
        split=SPLIT,
        earlier=earlier,
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
    """On what the steps made every expectation holds, and the Data Docs show all tables."""
    assert failed(damaged) == []
    pages = "".join(path.as_posix() for path in (damaged / "data_docs").rglob("*.html"))
    assert (damaged / "data_docs" / "index.html").is_file()
    for table in ("files", "manifest", "images", "splits", "patches"):
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
    assert ("splits", "scene_sides", "critical") in [(o.table, o.column, o.severity) for o in outcomes]


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
        rows[1]["sha256"] = rows[0]["sha256"]  # neither is one of a pair, and they are on two sides
        rows[2]["bit_depth"] = "7"

    edit_csv(damaged / "ingested" / "manifest.csv", change)
    assert [outcome.column for outcome in failed(damaged)] == ["", "bit_depth", "copy_sides"]
    text = (damaged / "ingested" / "manifest.csv").read_text().replace(",shard\n", ",tar\n")
    (damaged / "ingested" / "manifest.csv").write_text(text)
    outcomes = {outcome.column: outcome.observed for outcome in failed(damaged)}
    assert outcomes.keys() == {"bit_depth", "shard", "", "copy_sides"}
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
        validate(
            damaged / "ingested", damaged / "curated", ValidateSettings(**LIMITS), split=SPLIT, docs=damaged / "docs"
        )
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


def test_a_copy_on_two_sides_is_critical(damaged):
    """Two files of equal bytes, one of which trains while the other tests, though their scenes have other names."""

    def listed(rows):
        left, right = (row for row in rows if "motorcycle" in row["address"])
        right["sha256"] = left["sha256"]

    def divided(rows):
        left, right = (row for row in rows if "motorcycle" in row["address"])
        left.update(group=left["image_id"], split="train", reason="")
        right.update(group=right["image_id"], split="test", reason="")

    edit_csv(damaged / "ingested" / "manifest.csv", listed)
    edit_csv(damaged / "curated" / "images.csv", divided)
    outcomes = failed(damaged)
    assert "copy_sides" in [outcome.column for outcome in outcomes]
    assert "scene_sides" not in [outcome.column for outcome in outcomes]
    with pytest.raises(DataValidationError, match="2 of 6 unexpected"):
        check([outcome for outcome in outcomes if outcome.column == "copy_sides"])


def test_a_set_without_a_side_is_critical(damaged):
    """A second set, all of which trains, has nothing to validate and test with, though the first has."""

    def change(rows):
        for row in rows:
            if row["split"] == "train":
                row["set"] = "other"

    edit_csv(damaged / "curated" / "images.csv", change)
    outcomes = failed(damaged)
    with pytest.raises(DataValidationError, match="set_sides") as caught:
        check(outcomes)
    assert "to that set" in caught.value.next_step


def test_patches_of_a_held_out_photograph_are_critical_and_name_it(damaged):
    """The split's own suite finds them from the photograph's side."""
    with open(damaged / "curated" / "images.csv", newline="") as file:
        leaked = next(row["image_id"] for row in csv.DictReader(file) if row["split"] == "validation")
    edit_patches(damaged, image_id=leaked)
    (outcome,) = [outcome for outcome in failed(damaged) if outcome.table == "splits"]
    assert (outcome.column, outcome.severity, outcome.image_ids) == ("held_out_patches", "critical", (leaked,))


def many(side, count=1000):
    """The tables of `count` scenes in colour, of which each is on the side that `side` says of its number."""
    ids = [f"{number:016x}" for number in range(count)]
    images = pd.DataFrame({"image_id": ids, "group": ids, "set": "", "reason": "", "split": map(side, range(count))})
    manifest = pd.DataFrame({"image_id": ids, "sha256": ids, "channels": 3})
    return manifest, images, pd.DataFrame({"image_id": ids[:1]})


@pytest.mark.parametrize(("tests", "validations", "column"), [
    (200, 120, None), (230, 100, None), (300, 20, "test_deviation"), (200, 300, "held_out_deviation"),
])  # fmt: skip
def test_fractions_far_from_the_asked_ones_are_found(tests, validations, column):
    """Of 1,000 scenes 20 percent test and 12 percent validate, as chance has it: within 15 each for one deviation."""

    def side(number):
        return "test" if number < tests else "validation" if number < tests + validations else "train"

    frame = split_table(*many(side), SPLIT)
    far = [name for name in ("test_deviation", "held_out_deviation") if frame[name].max() > 5]
    assert far == ([column] if column else [])
    spread = np.sqrt(1000 * 0.32 * 0.68)
    assert frame["test_deviation"].unique() == pytest.approx([abs(tests - 200) / spread])


def test_fractions_far_from_the_asked_ones_stop_the_run(prepared, tmp_path):
    """All six photographs but one are held out where a fraction asks for a third: so few are within chance, so they are
    counted a hundred times."""
    for name in ("ingested", "curated"):
        shutil.copytree(prepared / name, tmp_path / name)

    def multiply(rows):
        for row in list(rows):
            for number in range(100):
                new = hashlib.sha256(f"{row['image_id']}{number}".encode()).hexdigest()
                changed = {"image_id": new[:16], "address": f"{row['address']}{number}"}
                rows.append(row | changed | ({"sha256": new} if "sha256" in row else {"group": new[:16]}))

    def hold_out(rows):
        multiply(rows)
        for row in rows[6:]:
            row["split"], row["reason"] = "test", ""

    edit_csv(tmp_path / "ingested" / "manifest.csv", multiply)
    edit_csv(tmp_path / "curated" / "images.csv", hold_out)
    outcomes = failed(tmp_path)
    assert {outcome.column for outcome in outcomes} == {"test_deviation", "held_out_deviation"}
    with pytest.raises(DataValidationError, match="max_value=5") as caught:
        check(outcomes)
    assert "other fractions" in caught.value.next_step


@pytest.mark.parametrize("count", [5, 8, 40, 1000])
@pytest.mark.parametrize("least", [1, 3])
def test_every_split_of_the_curation_is_near_the_fractions(count, least):
    """Over 30 seeds: what the split makes, its least numbers included, is within five deviations."""
    for seed in range(30):
        limits = settings(seed=seed, min_test=least)
        sides = split_scenes((f"{number:016x}" for number in range(count)), np.ones(count, bool), limits)
        frame = split_table(*many(lambda number, sides=sides: SIDES[sides[number]], count), limits)
        assert frame[["test_deviation", "held_out_deviation"]].max().max() < 5
        assert (frame["set_sides"] == 3).all()


def test_the_version_before_is_compared_by_itself(damaged, tmp_path):
    """The first run has none, a second of the same data neither; data whose photographs are others is warned of, and
    only with the version before, until that passed."""
    kept = tmp_path / "home" / "earlier.json"
    kept.parent.mkdir()
    earlier = EarlierVersions(kept)
    assert failed(damaged, earlier=earlier) == []
    assert failed(damaged, earlier=earlier) == []

    def sharpen(rows):
        for row in rows:
            row["sharpness"] = str(20 * float(row["sharpness"]))

    edit_csv(damaged / "curated" / "images.csv", sharpen)
    for _ in range(2):  # also when the same data is validated again
        (outcome,) = failed(damaged, earlier=earlier)
        assert (outcome.table, outcome.column, outcome.severity, outcome.earlier) == (
            "images", "sharpness", "warning", True,
        )  # fmt: skip
        assert "relume data diff" in outcome.next_step
    edit_csv(damaged / "curated" / "images.csv", lambda rows: rows[0].update(noise_sigma="1.5"))
    assert failed(damaged, earlier=earlier) == []
    before = kept.read_bytes()
    edit_csv(damaged / "curated" / "images.csv", lambda rows: rows[0].update(noise_sigma="-1"))
    assert [outcome.severity for outcome in failed(damaged, earlier=earlier)] == ["critical"]
    assert kept.read_bytes() == before
    kept.write_text("[1")
    with pytest.raises(BrokenFileError, match=r"earlier\.json") as caught:
        failed(damaged, earlier=earlier)
    assert "remove" in caught.value.next_step


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """An ingested and a curated folder of five pairs."""
    folder = tmp_path_factory.mktemp("paired")
    noise = np.random.default_rng(0)
    for name in ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left"):
        clean = skimage_photograph(f"{name}.png")[:256, :256]
        noisy = np.clip(clean + noise.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)
        save_image(folder / "photos" / "noisy" / f"{name}.png", noisy)
        save_image(folder / "photos" / "clean" / f"{name}.png", clean)
    for name in ("ingested", "curated"):
        (folder / name).mkdir()
    limits = {"max_megapixels": 100.0, "min_side": 16, "shard_megabytes": 100.0}
    listing = scan([f"real=polyu:{folder / 'photos'}"])
    ingest(listing, folder / "ingested", **limits, progress=lambda *counted: None)
    curate(folder / "ingested", folder / "curated", SPLIT, progress=lambda *counted: None)
    return folder


def of_pairs(folder):
    return [(outcome.column, outcome.image_ids) for outcome in failed(folder) if outcome.table == "pairs"]


def test_both_sides_of_pairs_are_looked_at(paired, tmp_path):
    """Good pairs pass, with the difference and deviation of what a training and a test see of them; a blank and an
    equal degraded side, in a shard or held out, and one of another size are critical and named."""
    for name in ("ingested", "curated"):
        shutil.copytree(paired / name, tmp_path / name)
    assert failed(tmp_path) == []
    table = load_tables(tmp_path / "ingested", tmp_path / "curated")["pairs"]
    assert sorted(table["split"].unique()) == ["test", "train", "validation"]
    assert table["difference"].between(20 * np.sqrt(2 / np.pi) - 3, 20 * np.sqrt(2 / np.pi) + 1).all()

    shard = np.load(tmp_path / "curated" / "pairs-00000.npy")
    patches = parquet.read_table(tmp_path / "curated" / "patches.parquet").to_pandas()
    blank, *others = patches.drop_duplicates("image_id").itertuples()
    shard[blank.row, 0] = 128
    same = others[0]
    shard[same.row, 0] = shard[same.row, 1]
    np.save(tmp_path / "curated" / "pairs-00000.npy", shard)
    (tested,) = (tmp_path / "curated" / "held_out" / "test" / "degraded").iterdir()
    shutil.copy(tested.parents[1] / tested.name, tested)
    found = dict(of_pairs(tmp_path))
    assert set(found) == {"difference", "deviation"}
    assert set(found["difference"]) == {same.image_id, tested.stem}
    assert set(found["deviation"]) == {blank.image_id}


def test_a_degraded_side_of_another_size_is_critical(paired, tmp_path):
    """The sizes are those of the ingested images themselves, whatever the manifest says."""
    for name in ("ingested", "curated"):
        shutil.copytree(paired / name, tmp_path / name)
    shard = tmp_path / "ingested" / "images-00000.tar"
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    (number,) = [n for n, (member, _) in enumerate(members) if member.name.endswith(".degraded.png")][:1]
    members[number] = (members[number][0], encode(np.zeros((200, 256, 3), np.uint8), ".png"))
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    name = members[number][0].name.partition(".")[0]
    assert of_pairs(tmp_path) == [("degraded_height, height", (name,))]
