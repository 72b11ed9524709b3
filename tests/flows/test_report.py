"""What the report says of the stages."""

import numpy as np
import pytest

from flows.report import PROTOCOLS, _helped, _image_rows, _table, _weak, write_contact_sheet
from relume.evaluation.card import PAIRED, PAIRS
from relume.evaluation.tasks import TASKS
from relume.images import read_image, save_image


def scores(gains):
    """Rows as of per_image.csv: each photograph's fine-tuned PSNR above that of the ensemble by so much."""
    systems = {"average": 0.0, "nlm": -3.0, "ensemble": 0.0}
    return [
        {"system": system, "image_id": str(i), "level": sigma, "protocol": "clipped", "psnr": str(30 + above)}
        for i, gain in enumerate(gains)
        for sigma in ("15", "50")
        for system, above in (systems | {"final": gain}).items()
    ]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.1, 0.12, 0.14, 0.1, 0.2], "helped"),
        ([-0.1, -0.12, -0.14, -0.1, -0.2], "hurt"),
        ([0.1, -0.12, 0.14, -0.1, 0.0], "made no clear difference"),
        ([0.1, 0.1, 0.2], "too few for a confidence interval: 3 photographs"),
    ],
)
def test_a_stage_helped_only_where_photographs_can_tell(gains, verdict):
    """The interval holds zero or not; from fewer than five photographs there is none."""
    row = next(row for row in _helped(scores(gains)) if "fine-tune against" in row["title"])
    assert row["gain"] == pytest.approx(sum(gains) / len(gains))
    assert row["verdict"] == verdict
    assert (row["interval"] is None) == (len(gains) < 5)


def test_a_task_without_filters_is_shown_beside_its_input(tmp_path):
    """The final model is compared with the decoded JPEG, and the images are those of the lowest quality."""
    systems = {"jpeg": 28.0, "average": 30.0, "ensemble": 30.0, "final": 30.5}
    rows = [
        {"system": system, "image_id": image, "level": quality, "protocol": "jpeg", "psnr": psnr + quality / 10}
        for image in ("00aa", "00bb")
        for quality in (10.0, 40.0)
        for system, psnr in systems.items()
    ]
    last = _helped(rows)[-1]
    assert (last["title"], last["gain"]) == ("the final model against decoded JPEG", pytest.approx(2.5))
    for image in ("00aa", "00bb"):
        for shown in ("jpeg", "final", "clean"):
            path = tmp_path / "reports" / "evaluation" / "pictures" / f"{image}_{shown}.png"
            save_image(path, np.zeros((32, 32, 3), np.uint8))
    first, _ = _image_rows(tmp_path, rows)
    assert [(cell["title"], cell["psnr"]) for cell in first["cells"]] == [
        ("decoded JPEG, quality 10", 29.0),
        ("restored", 31.5),
        ("clean", None),
    ]
    assert _weak({"final": {"quality_10": {"psnr": 30.0}}}) == []


@pytest.mark.parametrize("of_pairs", [PAIRED, PAIRS])
def test_filters_that_pairs_alone_are_measured_with_are_not_the_baseline(tmp_path, of_pairs):
    """A camera's noise is measured beside non-local means on real pairs, and beside its input on drawn noise."""
    drawn = {"noisy": 28.0, "average": 29.0, "ensemble": 29.0, "final": 30.0}
    real = {"noisy": 36.0, "blur": 37.0, "nlm": 37.5, "final": 38.0}
    rows = [
        {"system": system, "image_id": "00aa", "level": level, "protocol": protocol, "psnr": str(psnr)}
        for protocol, level, systems in (("camera", "500.0", drawn), (of_pairs, "1.3", real))
        for system, psnr in systems.items()
    ]
    last = _helped(rows)[-1]
    assert (last["title"], last["gain"]) == ("the final model against noisy input", pytest.approx(2.0))
    for shown in ("noisy", "final", "clean"):
        path = tmp_path / "reports" / "evaluation" / "pictures" / f"00aa_{shown}.png"
        save_image(path, np.zeros((32, 32, 3), np.uint8))
    (row,) = _image_rows(tmp_path, rows)
    assert [cell["title"] for cell in row["cells"]] == ["noisy input, electrons 500", "restored", "clean"]


def test_a_contact_sheet_is_a_row_for_each_photograph(tmp_path):
    """In the order degraded, baseline, restored, clean; the images of the evaluation stay as they are."""
    folder = tmp_path / "reports" / "evaluation" / "pictures"
    levels = {"first": (10, 20, 30, 40), "second": (50, 60, 70, 80)}
    for image_id, values in levels.items():
        for system, value in zip(("noisy", "nlm", "final", "clean"), values, strict=True):
            save_image(folder / f"{image_id}_{system}.png", np.full((48, 64, 3), value, np.uint8))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    write_contact_sheet(tmp_path / "sheet.png", root=tmp_path)
    expected = np.kron(np.array(list(levels.values()), np.uint8), np.ones((48, 64), np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "sheet.png").pixels[..., 1], expected)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_every_protocol_of_a_task_has_a_title():
    """A table of the report that lacks one would not be shown."""
    measured = {protocol for task in TASKS.values() for each in task.degradations for protocol in each.protocols}
    assert set(PROTOCOLS) == measured | {PAIRS, PAIRED}


def test_a_level_at_which_a_filter_is_better_is_said():
    """The better of the two filters is named with its lead; where the model leads, nothing is said."""
    psnr = {"blur": (24.0, 23.0), "nlm": (25.5, 22.0), "final": (25.0, 26.0)}
    systems = {name: {"sigma_15": {"psnr": low}, "sigma_50": {"psnr": high}} for name, (low, high) in psnr.items()}
    (sentence,) = _weak(systems)
    assert "sigma 15" in sentence
    assert "OpenCV non-local means (given sigma) is better by 0.50 dB" in sentence


def test_a_table_of_pairs_has_one_level_for_all():
    """Their levels are estimates, so the sentence on a better filter names none; no filter is given one."""
    systems = {"noisy": {"all": {"psnr": 36.0}}, "blur": {"all": {"psnr": 37.0}}, "final": {"all": {"psnr": 36.5}}}
    table = _table(systems)
    assert table["levels"] == ["all"]
    assert [row["cells"][0]["best"] for row in table["rows"]] == [False, True, False]
    assert table["rows"][1]["title"] == "Gaussian blur (best setting)"
    assert _weak(systems) == ["This model is not for such images: Gaussian blur (best setting) is better by 0.50 dB."]
