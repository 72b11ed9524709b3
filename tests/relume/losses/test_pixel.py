"""Losses pixel by pixel against closed forms, NumPy and numerical derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from relume.losses.pixel import charbonnier_loss, gradient_l1_loss, l1_loss, mse_loss, psnr_loss


def pair(*shape, seed=0, dtype=torch.float64):
    """A restored and a clean batch of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=dtype), torch.rand(shape, generator=generator, dtype=dtype)


def test_l1_of_a_constant_offset_is_the_offset():
    """|x + d - x| is d everywhere."""
    clean = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(l1_loss(clean + 0.25, clean), torch.tensor(0.25))


def test_charbonnier_of_a_constant_offset():
    """The mean of √(d² + ε²) is itself for a constant d, and ε at d = 0."""
    clean = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    expected = math.hypot(0.003, 1e-3)
    assert math.isclose(charbonnier_loss(clean + 0.003, clean).item(), expected, rel_tol=1e-9)
    assert math.isclose(charbonnier_loss(clean, clean).item(), 1e-3, rel_tol=1e-9)


def test_psnr_loss_is_minus_the_mean_psnr_of_the_images():
    """Two images with offsets 0.1 and 0.01 have 20 and 40 dB, whose mean is 30, not the PSNR of the mean error."""
    clean = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    offset = torch.tensor([0.1, 0.01], dtype=torch.float64).view(2, 1, 1, 1)
    assert math.isclose(psnr_loss(clean + offset, clean).item(), -30, abs_tol=1e-3)


def test_psnr_loss_of_equal_images_is_finite_with_finite_gradients():
    """The published 1e-8 bounds the loss at -80 dB and keeps gradients finite."""
    clean = torch.rand(1, 3, 8, 8)
    restored = clean.clone().requires_grad_()
    loss = psnr_loss(restored, clean)
    loss.backward()
    assert math.isclose(loss.item(), -80, abs_tol=1e-4)
    assert torch.isfinite(restored.grad).all()


def test_mse_is_numpys():
    """The mean of the squared differences."""
    restored, clean = pair(2, 3, 5, 7)
    assert math.isclose(mse_loss(restored, clean).item(), np.square(restored.numpy() - clean.numpy()).mean())


def test_charbonnier_without_square_bottoms_out_at_the_root_of_epsilon():
    """√(d² + ε): at d = 0 it is √ε, 0.0316 for ε = 1e-3, and for ε = 1e-12 it is L1."""
    restored, clean = pair(2, 3, 8, 8)
    least = charbonnier_loss(clean, clean, epsilon=1e-3, epsilon_squared=False)
    assert math.isclose(least.item(), 0.0316227766, rel_tol=1e-8)
    sharp = charbonnier_loss(restored, clean, epsilon=1e-12, epsilon_squared=False)
    assert math.isclose(sharp.item(), l1_loss(restored, clean).item(), rel_tol=1e-6)


def sobel(image, axis):
    """SciPy's Sobel along one axis, in brightness per pixel."""
    return ndimage.sobel(image, axis=axis, mode="nearest") / 8


def test_gradient_l1_weights_the_error_by_the_clean_gradient():
    """It equals mean |d| (1 + α |∇ clean|) with SciPy's Sobel."""
    restored, clean = pair(1, 1, 9, 11)
    x, y = restored[0, 0].numpy(), clean[0, 0].numpy()
    weight = 1 + 2.5 * np.hypot(sobel(y, 0), sobel(y, 1))
    ours = gradient_l1_loss(restored, clean, strength=2.5)
    assert math.isclose(ours.item(), (np.abs(x - y) * weight).mean(), rel_tol=1e-12)


def test_gradient_l1_weights_the_error_by_the_difference_of_gradients():
    """It equals mean |d| (1 + α Dx) (1 + α Dy) with SciPy's Sobel of both images."""
    restored, clean = pair(1, 1, 9, 11)
    x, y = restored[0, 0].numpy(), clean[0, 0].numpy()
    along = [np.abs(sobel(x, axis) - sobel(y, axis)) for axis in (0, 1)]
    expected = (np.abs(x - y) * (1 + 4 * along[0]) * (1 + 4 * along[1])).mean()
    assert math.isclose(gradient_l1_loss(restored, clean, weight_from="difference").item(), expected, rel_tol=1e-12)


def test_a_ramp_has_the_gradient_of_its_slope():
    """Where the clean image rises by 0.01 a pixel, an error of 0.1 weighs 1 + α · 0.01, as far as the border allows."""
    clean = (torch.arange(50, dtype=torch.float64) * 0.01).expand(1, 1, 40, 50)
    expected = 0.1 * (1 + 10 * 0.01 * 49 / 50)  # half the slope in each of the two border columns
    assert math.isclose(gradient_l1_loss(clean + 0.1, clean, strength=10).item(), expected, rel_tol=1e-9)


def test_no_gradient_flows_through_the_clean_weights():
    """The derivative is sign(d) times the weight over the count: the weights are constants."""
    restored, clean = pair(1, 1, 6, 6)
    restored.requires_grad_()
    clean.requires_grad_()
    gradient_l1_loss(restored, clean, strength=4).backward()
    torch.testing.assert_close(clean.grad, -restored.grad)


LOSSES = [
    mse_loss,
    charbonnier_loss,
    psnr_loss,
    gradient_l1_loss,
    lambda x, y: gradient_l1_loss(x, y, weight_from="difference"),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_derivatives_are_the_numerical_ones(loss):
    """gradcheck in float64."""
    restored, clean = pair(2, 2, 5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, clean), (restored.requires_grad_(),))


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_images_have_finite_derivatives(loss):
    """No root or absolute value makes NaN where nothing is left to restore."""
    restored, clean = pair(1, 2, 6, 6)[0].requires_grad_(), pair(1, 2, 6, 6)[0]
    loss(restored, clean).backward()
    assert torch.isfinite(restored.grad).all()
