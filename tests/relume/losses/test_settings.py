"""Losses by settings: short and long forms, weighted sums, half precision."""

import pytest
import torch
from pydantic import BaseModel, ValidationError

from relume.losses.pixel import charbonnier_loss, gradient_l1_loss, psnr_loss
from relume.losses.registry import LOSSES, build_loss
from relume.losses.settings import LossSettings


def pair(dtype=torch.float32):
    """A restored and a clean batch, (2, 3, 24, 20)."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 24, 20, generator=generator)
    restored = clean + 0.05 * torch.randn(clean.shape, generator=generator)
    return restored.to(dtype), clean.to(dtype)


def test_every_loss_has_its_settings():
    """The names in a parameter file are those of the functions."""
    assert set(LossSettings.model_fields) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_is_the_loss_with_its_own_defaults(name):
    """Bit for bit what the function gives when nothing is said, so both places state the same defaults."""
    assert torch.equal(build_loss(name)(*pair()), LOSSES[name](*pair()))


def test_a_mapping_is_a_weighted_sum():
    """0.8 Charbonnier + 0.2 gradient-weighted L1, with options of one beside the plain weight of the other."""
    spec = {"charbonnier": {"weight": 0.8, "epsilon": 1e-9, "epsilon_squared": False}, "gradient_l1": 0.2}
    expected = 0.8 * charbonnier_loss(*pair(), epsilon=1e-9, epsilon_squared=False) + 0.2 * gradient_l1_loss(*pair())
    torch.testing.assert_close(build_loss(spec)(*pair()), expected)
    settings = LossSettings.model_validate(spec)
    assert settings.describe() == str(settings) == "0.8 charbonnier + 0.2 gradient_l1"
    assert LossSettings.model_validate("psnr").describe() == "psnr"


def test_settings_survive_a_round_trip_and_stand_in_other_settings():
    """As a field of a stage they are read from the same short forms."""

    class Stage(BaseModel):
        loss: LossSettings

    stage = Stage.model_validate({"loss": {"l1": 1, "mse": 0.5, "high_frequency": {"weight": 0.1, "form": "fourier"}}})
    assert Stage.model_validate_json(stage.model_dump_json()) == stage
    assert Stage.model_validate(stage.model_dump(exclude_none=True)) == stage
    assert Stage.model_validate({"loss": "psnr"}).loss == LossSettings.model_validate({"psnr": 1})


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("perceptual", "perceptual"),
        ({}, "must be, or name with weights"),
        ({"l1": 0}, "greater than 0"),
        ({"l1": {"epsilon": 1}}, "Extra inputs"),
        ({"charbonnier": {"epsilon": -1}}, "greater than 0"),
        ({"wavelet": {"wavelet": "db9"}}, "haar"),
        (3, "valid dictionary"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, complaint):
    """Each mistake is named."""
    with pytest.raises(ValidationError, match=complaint):
        LossSettings.model_validate(spec)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    """bfloat16 batches give what their values give in float32, with autocast on as well, gradients in bfloat16."""
    restored, clean = pair(torch.bfloat16)
    expected = LOSSES[name](restored.float(), clean.float())
    restored.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](restored, clean)
        wide = LOSSES[name](restored.float(), clean.float())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.equal(wide, expected)
    loss.backward()
    assert restored.grad.dtype == torch.bfloat16
    assert torch.isfinite(restored.grad).all()


def test_the_weighted_sum_of_one_keeps_the_bits_of_its_gradient():
    """A stage of plain `psnr` trains as the function alone does."""
    gradients = []
    for loss in (build_loss("psnr"), psnr_loss):
        restored, clean = pair()
        loss(restored.requires_grad_(), clean).backward()
        gradients.append(restored.grad)
    assert torch.equal(*gradients)
