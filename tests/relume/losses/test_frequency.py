"""Losses on frequency bands against SciPy, the full NumPy FFT and figures of PyWavelets."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from relume.losses.frequency import LOW_PASS, high_frequency_loss, stationary_bands, wavelet_loss
from relume.losses.pixel import l1_loss

# Mean absolute value of pywt.swt2(image, wavelet, 2, norm=True) of PyWavelets 1.8.0 for the image below:
# approximation, horizontal, vertical, diagonal of levels 1 and 2.
PYWAVELETS = {
    "haar": [
        [0.7672466861, 0.5509135368, 0.1599557435, 0.1267250707],
        [0.7009359841, 0.3362249105, 0.1858889426, 0.189058964],
    ],
    "sym2": [
        [0.7760118917, 0.5541120475, 0.1166199307, 0.094764332],
        [0.7047592318, 0.3173135489, 0.1755625079, 0.1980045849],
    ],
    "sym4": [
        [0.779266641, 0.5787119577, 0.0829105805, 0.0648256074],
        [0.7051347003, 0.2952722473, 0.1729260943, 0.199572377],
    ],
}


def image():
    """A 16 x 16 image without symmetry, float64 (1, 1, 16, 16)."""
    y, x = np.mgrid[:16, :16]
    return torch.from_numpy(np.cos(0.7 * x + 0.2 * y * y) * np.sin(0.3 * y + 1) + 0.1 * x * (y % 3))[None, None]


def pair(*shape, seed=0):
    """A restored and a clean batch of random pixels, float64."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("wavelet", LOW_PASS)
def test_bands_are_those_of_pywavelets(wavelet):
    """Both levels and all four bands have the magnitudes of its stationary transform."""
    band = image()
    for level, expected in enumerate(PYWAVELETS[wavelet]):
        band, vertical, horizontal, diagonal = stationary_bands(band, wavelet, level)
        ours = [x.abs().mean().item() for x in (band, horizontal, vertical, diagonal)]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wavelet", LOW_PASS)
def test_filters_are_orthonormal_and_see_no_polynomial(wavelet):
    """Even shifts are orthogonal, and the high-pass has as many vanishing moments as half its taps."""
    low = np.array(LOW_PASS[wavelet])
    for shift in range(0, len(low), 2):
        assert math.isclose(low[shift:] @ low[: len(low) - shift], float(shift == 0), abs_tol=1e-9)
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    for power in range(len(low) // 2):
        assert abs(high @ np.arange(len(low)) ** power) < 1e-6


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("wavelet", LOW_PASS)
def test_bands_keep_the_energy(wavelet, level):
    """The squares of the four bands sum to those of the image, at every level."""
    x, _ = pair(1, 2, 32, 28, seed=level)
    energy = sum(band.square().sum() for band in stationary_bands(x, wavelet, level))
    torch.testing.assert_close(energy, x.square().sum())


def test_wavelet_loss_sums_the_weighted_bands():
    """Level 1 gives three detail bands, level 2 four, each with its weight."""
    clean = pair(1, 1, 16, 16)[1]
    loss = wavelet_loss(
        clean + image(), clean, wavelet="sym2", levels=2, approximation=2, horizontal=3, vertical=5, diagonal=7
    )
    (_, h1, v1, d1), (a2, h2, v2, d2) = PYWAVELETS["sym2"]
    assert math.isclose(loss.item(), 2 * a2 + 3 * (h1 + h2) + 5 * (v1 + v2) + 7 * (d1 + d2), abs_tol=1e-8)


def test_the_residual_is_what_scipys_blur_takes_away():
    """Inside the window's reach it equals |d - blur(d)| with SciPy's Gaussian; a constant offset costs nothing."""
    restored, clean = pair(1, 1, 24, 31)
    difference = (restored - clean)[0, 0].numpy()
    ones = ndimage.gaussian_filter(np.ones_like(difference), 1.5, mode="constant", radius=5)
    blurred = ndimage.gaussian_filter(difference, 1.5, mode="constant", radius=5) / ones
    ours = high_frequency_loss(restored, clean, sigma=1.5)
    assert math.isclose(ours.item(), np.abs(difference - blurred).mean(), rel_tol=1e-9)
    assert abs(high_frequency_loss(clean + 0.3, clean).item()) < 1e-12


def test_a_fine_error_costs_more_than_a_coarse_one():
    """Of two errors of equal L1, the checkerboard costs its full size and the slow wave nearly nothing."""
    clean = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    fine = (0.1 * (-1.0) ** (x + y)).double()[None, None]
    slow = 0.1 * torch.cos(2 * math.pi * x / 32).double()[None, None]
    slow = slow * fine.abs().mean() / slow.abs().mean()
    for form in ("residual", "fourier", "wavelet"):
        assert high_frequency_loss(slow, clean, form=form) < 0.1 * high_frequency_loss(fine, clean, form=form)
    assert math.isclose(high_frequency_loss(fine, clean).item(), 0.1, rel_tol=0.02)


@pytest.mark.parametrize("shape", [(2, 3, 16, 12), (1, 1, 15, 16), (1, 2, 16, 15), (1, 1, 9, 13)])
@pytest.mark.parametrize("cutoff", [0.0, 0.23, 0.6])
def test_amplitudes_are_those_of_the_full_fft(shape, cutoff):
    """Even and odd sizes: the half spectrum with its weights gives the mean over all bins of NumPy's fft2."""
    restored, clean = pair(*shape)
    spectra = [np.abs(np.fft.fft2(x.numpy(), norm="ortho")) for x in (restored, clean)]
    radius = np.hypot(np.fft.fftfreq(shape[2])[:, None], np.fft.fftfreq(shape[3]))
    expected = np.abs(spectra[0] - spectra[1])[..., radius >= cutoff].mean()
    ours = high_frequency_loss(restored, clean, form="fourier", cutoff=cutoff)
    assert math.isclose(ours.item(), expected, rel_tol=1e-6)


def test_the_wavelet_form_leaves_out_the_approximation():
    """It is the wavelet loss without its low-pass band."""
    restored, clean = pair(1, 3, 16, 16)
    details = high_frequency_loss(restored, clean, form="wavelet")
    assert torch.equal(details, wavelet_loss(restored, clean, approximation=0))
    assert details < wavelet_loss(restored, clean)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: high_frequency_loss(x, y, sigma=0.8),
        lambda x, y: high_frequency_loss(x, y, form="fourier"),
        lambda x, y: high_frequency_loss(x, y, form="wavelet"),
        lambda x, y: wavelet_loss(x, y, wavelet="sym2", levels=2),
        l1_loss,
    ],
)
def test_derivatives_are_the_numerical_ones(loss):
    """gradcheck in float64, and finite for equal images."""
    restored, clean = pair(1, 1, 8, 9, seed=3)
    assert torch.autograd.gradcheck(lambda x: loss(x, clean), (restored.requires_grad_(),))
    same = clean.clone().requires_grad_()
    loss(same, clean).backward()
    assert torch.isfinite(same.grad).all()
