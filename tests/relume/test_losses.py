"""Losses against closed forms."""

import math

import torch

from relume.losses import charbonnier_loss, l1_loss, psnr_loss


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
