"""Noise of developed photographs against its stated law, and what in-camera processing keeps and takes away."""

import numpy as np
import pytest

from relume.degradations import add_developed_noise, correlated_field, denoise_in_camera, sharpen_in_camera
from relume.degradations.developed import LUMA

GRAY = np.full((3, 400, 400), 0.5, dtype=np.float32)
LAW = {"spread": 1.0, "wide_spread": 3.0, "wide_share": 0.2, "chroma": 0.5, "chroma_spread": 2.0, "signal": 0.0}


def split(noise):
    """Y, Cb and Cr of RGB noise (BT.601, full range)."""
    y = np.tensordot(LUMA, noise, axes=1)
    return y, (noise[2] - y) / 1.772, (noise[0] - y) / 1.402


def at_distance(field, distance):
    """The correlation of values `distance` columns apart."""
    left, right = field[:, :-distance].ravel(), field[:, distance:].ravel()
    return float(np.corrcoef(left, right)[0, 1])


@pytest.mark.parametrize("spread", [0.7, 1.5, 3.0])
def test_field_has_unit_variance_and_the_closed_form_correlation(spread):
    """Standard deviation 1 up to the border; correlation exp(-d² / (4 · spread²)) at distances 1 and 3."""
    field = correlated_field(500, 500, spread, np.random.default_rng(0))
    assert field.std() == pytest.approx(1, abs=0.03)
    assert field[:, :8].std() == pytest.approx(1, abs=0.12)
    for distance in (1, 3):
        assert at_distance(field, distance) == pytest.approx(np.exp(-(distance**2) / (4 * spread**2)), abs=0.04)


def test_noise_has_the_stated_luma_and_chroma():
    """Sigma in Y as asked for, the stated share of it in Cb and Cr, which are independent and wider spread."""
    noisy = add_developed_noise(GRAY, 10.0, np.random.default_rng(1), **LAW)
    y, cb, cr = split(noisy - GRAY)
    assert y.std() * 255 == pytest.approx(10, rel=0.02)
    assert cb.std() * 255 == pytest.approx(5, rel=0.05)
    assert cr.std() * 255 == pytest.approx(5, rel=0.05)
    assert abs(np.corrcoef(cb.ravel(), cr.ravel())[0, 1]) < 0.05
    expected = 0.8 * np.exp(-1 / (4 * 1.0**2)) + 0.2 * np.exp(-1 / (4 * 3.0**2))
    assert at_distance(y, 1) == pytest.approx(expected, abs=0.03)
    assert at_distance(cb, 2) == pytest.approx(np.exp(-4 / (4 * 2.0**2)), abs=0.05)


@pytest.mark.parametrize(("brightness", "factor"), [(0.0, 0.0), (0.5, 1.0), (1.0, np.sqrt(2))])
def test_noise_grows_with_the_signal(brightness, factor):
    """With full dependence there is none at black, sigma at middle gray, and the square root of two of it at white."""
    clean = np.full((1, 200, 200), brightness, dtype=np.float32)
    noisy = add_developed_noise(clean, 10.0, np.random.default_rng(2), **LAW | {"signal": 1.0})
    assert (noisy - clean).std() * 255 == pytest.approx(10 * factor, rel=0.04, abs=1e-6)


def test_in_camera_denoising_smooths_noise_and_keeps_edges():
    """Luma noise falls where it is flat, an edge of half the range stays, and chroma is smoothed."""
    rng = np.random.default_rng(3)
    step = GRAY.copy()
    step[:, :, 200:] = 1.0
    noisy = add_developed_noise(step, 4.0, rng, **LAW)
    settings = {"luma": 1.0, "chroma": 1.0, "tolerance": 20.0, "spread": 2.0}
    smooth = denoise_in_camera(noisy, **settings)
    half = denoise_in_camera(noisy, **settings | {"luma": 0.5, "chroma": 0.5})
    left, half_left, before = (split((image - step)[:, :, :190]) for image in (smooth, half, noisy))
    assert left[0].std() < half_left[0].std() < before[0].std()
    assert left[1].std() < half_left[1].std() < before[1].std()
    assert smooth[:, :, 198].mean() == pytest.approx(0.5, abs=0.01)
    assert smooth[:, :, 202].mean() == pytest.approx(1.0, abs=0.01)
    assert np.array_equal(denoise_in_camera(noisy[:1], **settings | {"luma": 0.0}), noisy[:1])


def test_in_camera_sharpening_steepens_edges_and_keeps_flat_areas():
    """An edge overshoots by the amount's share of the closed form; a flat image stays as it is."""
    assert np.allclose(sharpen_in_camera(GRAY, amount=1.0, radius=1.0), GRAY, atol=1e-6)
    edge = GRAY[:, :50, :50].copy()
    edge[:, :, 25:] = 0.7
    sharpened = sharpen_in_camera(edge, amount=0.8, radius=1.0)
    # Right of an edge the blur has taken the share of the kernel that lies left of it: half without the middle tap.
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2.0)
    share = kernel[:3].sum() / kernel.sum()
    assert sharpened[0, 20, 25] == pytest.approx(0.7 + 0.8 * 0.2 * share, abs=1e-4)
