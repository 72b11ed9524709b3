"""What the report says of the stages."""

import pytest

from flows.report import _helped, _table, _weak


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
        ([0.1, 0.1, 0.2], "3 photographs are too few for a confidence interval"),
    ],
)
def test_a_stage_helped_only_where_photographs_can_tell(gains, verdict):
    """The interval holds zero or not; from fewer than five photographs there is none."""
    row = next(row for row in _helped(scores(gains)) if "fine-tune against" in row["title"])
    assert row["gain"] == pytest.approx(sum(gains) / len(gains))
    assert row["verdict"] == verdict
    assert (row["interval"] is None) == (len(gains) < 5)


def test_a_level_at_which_a_filter_is_better_is_said():
    """The better of the two filters is named with its lead; where the model leads, nothing is said."""
    psnr = {"blur": (24.0, 23.0), "nlm": (25.5, 22.0), "final": (25.0, 26.0)}
    systems = {name: {"sigma_15": {"psnr": low}, "sigma_50": {"psnr": high}} for name, (low, high) in psnr.items()}
    (sentence,) = _weak(systems)
    assert "sigma 15" in sentence
    assert "OpenCV non-local means (given sigma) is better by 0.50 dB" in sentence


def test_a_table_of_pairs_has_one_level_for_all():
    """Their levels are estimates, so the sentence on a better filter names none."""
    systems = {"noisy": {"all": {"psnr": 36.0}}, "blur": {"all": {"psnr": 37.0}}, "final": {"all": {"psnr": 36.5}}}
    table = _table(systems)
    assert table["levels"] == ["all"]
    assert [row["cells"][0]["best"] for row in table["rows"]] == [False, True, False]
    assert _weak(systems) == ["This model is not for such images: Gaussian blur (given sigma) is better by 0.50 dB."]
