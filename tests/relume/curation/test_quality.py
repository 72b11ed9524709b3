"""Figures of quality, against closed forms and known changes."""

import cv2
import numpy as np
import pytest

from relume.curation.quality import flat_fraction, gray, noise_sigma, quality, sharpness
from tests.relume.curation.photographs import skimage_photograph


def test_luma_is_that_of_bt601():
    """Gray values are 0.299 R + 0.587 G + 0.114 B, rounded."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.abs(gray(pixels) - pixels @ [0.299, 0.587, 0.114]).max() <= 0.51


def test_sharpness_of_white_noise_is_twenty_times_its_variance():
    """The Laplacian 1, 1, -4, 1, 1 has square sum 20, so noise of variance v gives 20 v."""
    noise = np.random.default_rng(0).normal(128, 5, (400, 500)).astype(np.float32)
    assert sharpness(noise) == pytest.approx(20 * 25, rel=0.03)


def test_sharpness_falls_with_blur():
    """The more a photograph is blurred, the less sharp it is."""
    luma = gray(skimage_photograph("coffee.png"))
    figures = [sharpness(luma)] + [sharpness(cv2.GaussianBlur(luma, (0, 0), sigma)) for sigma in (0.7, 1.5, 4)]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 20 * figures[-1]


def test_a_photograph_is_as_sharp_at_any_size():
    """Enlarged as a camera's file is, its neighbouring pixels have hardly any contrast; it is not blurred for that."""
    photograph = skimage_photograph("coffee.png")
    large = cv2.resize(photograph, None, fx=6, fy=6, interpolation=cv2.INTER_CUBIC)
    half = cv2.resize(photograph, (1024, 683), interpolation=cv2.INTER_CUBIC)
    assert sharpness(gray(large)) < 0.05 * sharpness(gray(half))
    assert quality(large).sharpness == pytest.approx(sharpness(gray(half)), rel=0.35)
    assert quality(photograph).sharpness == sharpness(gray(photograph))


@pytest.mark.parametrize("sigma", [2, 5, 15, 30])
def test_noise_is_found_on_a_ramp(sigma):
    """Gaussian noise on a plane is estimated within 8 percent: the operator is blind to planes."""
    ramp = np.add.outer(np.linspace(60, 120, 400), np.linspace(0, 60, 500))
    noisy = ramp + np.random.default_rng(1).normal(0, sigma, ramp.shape)
    assert noise_sigma(noisy.astype(np.float32)) == pytest.approx(sigma, rel=0.08)


@pytest.mark.parametrize("name", ["coffee.png", "motorcycle_left.png", "camera.png", "chelsea.png"])
def test_noise_added_to_a_photograph_is_found(name):
    """Noise of sigma 15 on a textured photograph is estimated within 15 percent, the clean one below 2."""
    luma = gray(skimage_photograph(name))
    noisy = np.clip(np.rint(luma + np.random.default_rng(2).normal(0, 15, luma.shape)), 0, 255).astype(np.float32)
    assert noise_sigma(luma) < 2
    assert noise_sigma(noisy) == pytest.approx(15, rel=0.15)


def test_clipped_parts_do_not_hide_noise():
    """A night sky of pure black around a noisy image leaves the estimate as it is."""
    noisy = np.random.default_rng(3).normal(120, 10, (256, 256)).astype(np.float32)
    framed = np.zeros((768, 768), np.float32)
    framed[256:512, 256:512] = noisy
    assert noise_sigma(framed) == pytest.approx(10, rel=0.1)
    assert noise_sigma(np.zeros((64, 64), np.float32)) == 0


def test_flat_fraction_counts_the_blocks_without_structure():
    """Of an image with one quarter of strong noise, three quarters are flat."""
    luma = np.full((128, 128), 90, np.float32)
    luma[:64, :64] += np.random.default_rng(4).normal(0, 20, (64, 64))
    assert flat_fraction(luma) == 0.75


def test_quality_holds_all_three():
    """The figures of a photograph are those of its luma."""
    pixels = skimage_photograph("chelsea.png")
    figures, luma = quality(pixels), gray(pixels)
    assert (figures.sharpness, figures.noise_sigma, figures.flat_fraction) == (
        sharpness(luma),
        noise_sigma(luma),
        flat_fraction(luma),
    )
