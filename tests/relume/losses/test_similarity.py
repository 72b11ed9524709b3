"""SSIM loss against scikit-image."""

import math

import pytest
import torch
from skimage import data
from skimage.metrics import structural_similarity

from relume.losses.similarity import ssim_loss


@pytest.mark.parametrize("sigma", [5, 50])
def test_it_is_one_minus_scikit_images_mean(sigma):
    """Colour, Gaussian weights of sigma 1.5, population covariance, data range 1."""
    clean = data.astronaut()[:64, 100:170] / 255
    restored = (
        clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(sigma)).double().numpy() * sigma / 255
    )
    expected = structural_similarity(
        restored, clean, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
    )
    batch = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in (restored, clean)]
    assert math.isclose(ssim_loss(*batch).item(), 1 - expected, rel_tol=1e-9)
    # In float32 the variances are differences of nearly equal numbers.
    assert math.isclose(ssim_loss(*(image.float() for image in batch)).item(), 1 - expected, rel_tol=1e-3)


def test_equal_images_lose_nothing():
    """SSIM of an image with itself is 1."""
    clean = torch.rand(2, 3, 16, 20, dtype=torch.float64)
    assert abs(ssim_loss(clean, clean).item()) < 1e-12


def test_derivatives_are_the_numerical_ones():
    """gradcheck in float64."""
    restored = torch.rand(1, 2, 12, 13, dtype=torch.float64, requires_grad=True)
    clean = torch.rand(1, 2, 12, 13, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ssim_loss(x, clean), (restored,))
