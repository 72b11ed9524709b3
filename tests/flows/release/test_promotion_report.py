"""The page about a candidate, from packages whose results are known."""

import base64
import re

import numpy as np
import pytest
from markupsafe import escape

from flows.release.gate import measure
from flows.release.licences import SourceLicence
from flows.release.promotion_report import _chosen, write_promotion_report
from relume.evaluation.settings import EvaluateSettings
from relume.images import decode
from relume.params import ReleaseSettings
from tests.flows.release.synthetic import make_package, make_photographs
from tests.real.releases import SETTINGS

EVALUATE = EvaluateSettings.model_validate({"levels": {"sigma": [25, 50]}, "seed": 7, "threads": 1})


@pytest.mark.parametrize("has_champion", [True, False])
def test_the_page_shows_checks_images_licences_and_key(tmp_path, has_champion):
    """Three photographs, each before, restored by both, the difference and clean; no address leads out of the file."""
    held_out = tmp_path / "held_out"
    make_photographs(held_out, count=3)
    candidate = make_package(tmp_path / "candidate", blur=0.8)
    champion = make_package(tmp_path / "champion", blur=0.9) if has_champion else None
    settings = ReleaseSettings.model_validate(SETTINGS)
    report = measure(candidate, champion, settings, EVALUATE, held_out)
    terms = SourceLicence(source="own=<photos>", photographs=3, licence="research only", commercial=False)
    write_promotion_report(
        tmp_path / "page.html",
        report,
        candidate,
        champion,
        settings=settings,
        evaluate=EVALUATE,
        held_out=held_out,
        licences=[terms],
        key="0123456789abcdef",
    )
    text = (tmp_path / "page.html").read_text()
    assert all(escape(check.name) in text and f"{check.value:.2f}" in text for check in report.checks)
    assert "signed by the key 0123456789abcdef" in text
    assert "<td>own=&lt;photos&gt;" in text
    assert "not allowed" in text
    assert ("against the champion" in text) == has_champion
    images = re.findall(r'src="([^"]*)"', text)
    assert len(images) == 3 * (5 if has_champion else 4)
    assert all(image.startswith("data:image/webp;base64,") for image in images)
    assert not re.search(r"https?://|<script|@import|href", text)
    before, *_, clean = (
        decode(base64.b64decode(image.partition(",")[2])).pixels for image in images[: len(images) // 3]
    )
    assert before.shape == clean.shape
    assert not np.array_equal(before, clean)


def test_the_photographs_are_the_worst_the_median_and_the_most_changed():
    """By the gain over the champion, and by the difference of the two results."""
    gray = np.full((4, 4, 3), 100, np.uint8)
    found = {
        name: [(gray, 20.0), (gray + change, 30.0 + gain), (gray, 30.0)]
        for name, gain, change in (("a", -2.0, 1), ("b", 0.5, 9), ("c", 0.25, 2), ("d", 1.0, 3), ("e", -0.5, 0))
    }
    assert _chosen(found) == [("worst, -2.00 dB", "a"), ("median, +0.25 dB", "c"), ("most changed", "b")]
