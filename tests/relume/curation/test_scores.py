"""Further figures of a photograph, against closed forms, scikit-image and files of known quality."""

import cv2
import numpy as np
import pytest
from skimage.measure import blur_effect, shannon_entropy

from relume.curation.naturalness import brisque, niqe
from relume.curation.quality import gray, sharpness
from relume.curation.scores import blockiness, blur, entropy, jpeg_quality, scores
from relume.images import decode, encode
from tests.relume.curation.photographs import skimage_photograph


@pytest.mark.parametrize("name", ["coffee", "chelsea", "brick"])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90])
def test_the_quality_of_a_jpeg_is_seen_in_its_pixels(name, quality):
    """A photograph saved at a quality shows it within 1."""
    pixels = decode(encode(skimage_photograph(f"{name}.png"), ".jpg", quality=quality)).pixels
    assert jpeg_quality(gray(pixels)) == pytest.approx(quality, abs=1)


@pytest.mark.parametrize("name", ["astronaut", "camera", "chelsea", "coffee", "grass", "brick"])
def test_a_photograph_without_a_trace_of_jpeg_has_quality_100(name):
    """No quality is read into photographs that are not from a JPEG, nor into a flat image."""
    assert jpeg_quality(gray(skimage_photograph(f"{name}.png"))) == 100
    assert jpeg_quality(np.full((64, 64), 100, np.float32)) == 100


def test_blockiness_is_seen_at_any_place_of_the_grid():
    """It grows as the quality falls, a cropped JPEG shows it as well, and a clean photograph has about 1."""
    photograph = skimage_photograph("chelsea.png")
    figures = [blockiness(gray(photograph))]
    for quality in (40, 10):
        luma = gray(decode(encode(photograph, ".jpg", quality=quality)).pixels)
        figures.append(blockiness(luma))
        assert blockiness(luma[3:, 5:]) == pytest.approx(figures[-1], rel=0.03)
    assert figures[0] < 1.1 < figures[1] < figures[2]
    assert blockiness(np.zeros((40, 40), np.float32)) == 1


@pytest.mark.parametrize("sigma", [0, 1, 3])
def test_blur_is_that_of_scikit_image(sigma):
    """scikit-image's blur_effect, an independent implementation, agrees within 2 %."""
    luma = gray(skimage_photograph("astronaut.png"))
    luma = cv2.GaussianBlur(luma, (0, 0), sigma) if sigma else luma
    assert blur(luma) == pytest.approx(blur_effect(luma), rel=0.02)


def test_entropy_is_that_of_scikit_image():
    """scikit-image's entropy agrees; even noise has 8 bits, a flat image none."""
    luma = gray(skimage_photograph("coffee.png"))
    assert entropy(luma) == pytest.approx(shannon_entropy(luma))
    assert entropy(np.arange(256, dtype=np.float32).reshape(16, 16)) == 8
    assert entropy(np.full((8, 8), 3, np.float32)) == 0


def test_each_figure_is_of_its_scale():
    """A photograph of six times the size has other native figures, and the same normalised ones as at half of that."""
    photograph = skimage_photograph("coffee.png")
    large = cv2.resize(photograph, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    figures, small = scores(large), gray(cv2.resize(large, (1024, 683), interpolation=cv2.INTER_AREA))
    assert (figures.niqe, figures.brisque, figures.blur) == (niqe(small), brisque(small), blur(small))
    luma = gray(large)
    assert (figures.niqe_native, figures.brisque_native) == (niqe(luma), brisque(luma))
    assert (figures.sharpness_native, figures.entropy) == (sharpness(luma), entropy(luma))


def test_clipped_is_the_share_of_black_and_white_values():
    """A quarter of white in one of three channels is a twelfth."""
    pixels = np.full((64, 64, 3), 100, np.uint8)
    pixels[:32, :32, 1] = 255
    assert scores(pixels).clipped == pytest.approx(1 / 12)
