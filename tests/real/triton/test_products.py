"""Two products side by side on a real Triton server: each is released, judged, served and rolled back by itself."""

import numpy as np
import pytest

from flows.platform.status import read_status, render
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from flows.release.rollback import roll_back
from flows.release.served_product import serve_champions
from relume.errors import GateRefusedError, ModelMissingError
from relume.serving import repository as models
from relume.serving.route import Route
from tests.real.releases import BLURS, expected, make_checkout, release, served, use_task

IMAGE = np.random.default_rng(3).integers(0, 256, (90, 110, 3), np.uint8)
pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path, home, monkeypatch):
    """A checkout of the task denoise, with a registry in the home."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_checkout(tmp_path / "checkout")


def test_two_products_side_by_side(home, checkout, tmp_path):
    """Each has its releases, its aliases and its lines in the ledger; a rollback of one leaves the other as it is, and
    requests to both are answered by their own release, before and after it."""
    first = release(checkout, home, blur=BLURS[0]).release
    denoised = expected(checkout, IMAGE)
    before = Ledger(home).entries()
    second = release(checkout, home, blur=BLURS[1]).release
    denoised_better = expected(checkout, IMAGE)

    use_task(checkout, "dejpeg", "dejpeg", quality=[10])
    jpeg = release(checkout, home, blur=0.5, product="dejpeg").release
    decoded = expected(checkout, IMAGE)
    assert not np.array_equal(denoised_better, decoded)
    assert np.array_equal(served(home, IMAGE, "denoise"), denoised_better)
    assert np.array_equal(served(home, IMAGE, "dejpeg"), decoded)

    ledger = Ledger(home)
    assert ledger.entries()[: len(before)] == before
    assert ledger.products() == ["dejpeg", "denoise"]
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (second, first)
    assert (ledger.current("dejpeg"), ledger.previous("dejpeg")) == (jpeg, None)
    assert [entry.release.product for entry in ledger.entries()[-3:]] == ["dejpeg"] * 3
    shown = render(read_status(checkout, home))
    assert f"Product dejpeg\n  champion  {jpeg.model}" in shown
    assert f"Product denoise\n  champion  {second.model}" in shown

    # The checkout is of dejpeg, which has nothing to go back to; the other is chosen by its name.
    with pytest.raises(ModelMissingError, match="no earlier release"):
        roll_back(checkout, home)
    with pytest.raises(ModelMissingError, match=r"with --product: dejpeg, denoise"):
        roll_back(checkout, home, product="denoised")
    assert roll_back(checkout, home, product="denoise") == first
    assert np.array_equal(served(home, IMAGE, "denoise"), denoised)
    assert np.array_equal(served(home, IMAGE, "dejpeg"), decoded)
    registry = Registry(home)
    assert registry.by_alias("denoise", "champion").number == first.version
    assert registry.by_alias("denoise", "previous") is None
    assert registry.by_alias("dejpeg", "champion").number == jpeg.version
    assert models.products(home / "triton" / "models") == {
        "dejpeg": Route(champion=jpeg.model),
        "denoise": Route(champion=first.model),
    }

    # A refused candidate of one product says nothing of the other.
    with pytest.raises(GateRefusedError, match="gain over the champion, quality 10"):
        release(checkout, home, blur=2.0, product="dejpeg")
    assert ledger.candidate("dejpeg").event == "refused"
    assert ledger.candidate("denoise") is None
    assert {each.model for each in serve_champions(home)} == {jpeg.model, first.model}
    assert np.array_equal(served(home, IMAGE, "denoise"), denoised)
    assert np.array_equal(served(home, IMAGE, "dejpeg"), decoded)
    assert read_status(checkout, home).problems == []
