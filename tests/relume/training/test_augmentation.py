"""Augmentation: flips, sharpening and mixtures, and that what is off draws nothing."""

import numpy as np
import pytest
from pydantic import ValidationError

from relume.degradations import Degradation, counter_rng, degrade, sharpen_usm
from relume.training.augmentation import (
    Augmentation,
    augment,
    degrade_and_mix,
    dihedral,
    is_gray,
    resize,
    source_side,
)

CROP = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
CLEAN = CROP.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
NOISE = Degradation.model_validate({"steps": [{"kind": "gaussian_noise", "sigma": [25, 25], "clipped": 0}]})


def rng(number):
    """The generator of one sample."""
    return counter_rng(1, "sample", number)


def test_the_eight_modes_are_the_symmetries_of_the_square():
    """They differ, mode 0 is the image itself, and any two in a row are again one of the eight."""
    image = np.arange(12).reshape(2, 2, 3)
    images = {dihedral(image, mode).tobytes() for mode in range(8)}
    assert len(images) == 8
    assert np.array_equal(dihedral(image, 0), image)
    assert {dihedral(dihedral(image, a), b).tobytes() for a in range(8) for b in range(8)} == images


def test_flips_draw_one_of_the_eight_evenly():
    """One integer is drawn, as trainings have always done, and every mode comes up."""
    modes = []
    for number in range(200):
        mode = int(rng(number).integers(8))
        expected = dihedral(CROP, mode).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        assert np.array_equal(augment(CROP, Augmentation(), rng(number)), expected)
        modes.append(mode)
    assert min(np.bincount(modes)) > 5


def test_without_augmentation_nothing_is_drawn():
    """The crop comes back as it is, the degradation's own draws alone are made, and the generators agree after."""
    off, used, fresh = Augmentation(flips=False), rng(0), rng(0)
    clean = augment(CROP, off, used)
    assert np.array_equal(clean, CLEAN)
    assert clean.flags.c_contiguous
    assert np.array_equal(degrade_and_mix(clean, NOISE, off, used).image, degrade(CLEAN, NOISE, fresh).image)
    assert used.random() == fresh.random()


def test_sharpening_comes_in_its_share_and_before_the_degradation():
    """About 30 % of the targets are the sharpened crop, the others the crop."""
    settings = Augmentation(flips=False, usm=0.3)
    sharpened = sharpen_usm(CLEAN)
    assert not np.array_equal(sharpened, CLEAN)
    results = [augment(CROP, settings, rng(number)) for number in range(200)]
    is_sharp = [np.array_equal(result, sharpened) for result in results]
    assert all(sharp or np.array_equal(result, CLEAN) for sharp, result in zip(is_sharp, results, strict=True))
    assert abs(np.mean(is_sharp) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 200)


def test_a_mixture_is_a_convex_combination_of_two_degradations():
    """It is w · first + (1 - w) · second of the same crop with 0 < w < 1, recovered from the two."""
    for number in range(20):
        generator = rng(number)
        first = degrade(CLEAN, NOISE, generator).image
        generator.random()
        second = degrade(CLEAN, NOISE, generator).image
        mixed = degrade_and_mix(CLEAN, NOISE, Augmentation(mixup=1), rng(number)).image
        weight = float(((mixed - second) * (first - second)).sum() / np.square(first - second).sum())
        assert 0 < weight < 1
        np.testing.assert_allclose(mixed, weight * first + (1 - weight) * second, rtol=0, atol=1e-6)


def test_mixtures_have_less_noise_in_the_known_measure():
    """With weights of Beta(a, a) the noise's variance falls by E[w² + (1 - w)²] = (a + 1) / (2a + 1), a = 1.2."""
    clean = np.full((1, 16, 16), 0.5, np.float32)
    noise = [degrade_and_mix(clean, NOISE, Augmentation(mixup=1), rng(n)).image - clean for n in range(600)]
    ratio = np.var(noise) / (25 / 255) ** 2
    # w² + (1 - w)² lies in [1/2, 1], so its standard deviation is at most 1/4.
    assert abs(ratio - 2.2 / 3.4) < 5 * 0.25 / np.sqrt(600)


def test_the_others_are_the_first_degradation():
    """With mixup 0.4 about 60 % are what `degrade` gives, bit for bit."""
    plain = [
        np.array_equal(
            degrade_and_mix(CLEAN, NOISE, Augmentation(mixup=0.4), rng(n)).image, degrade(CLEAN, NOISE, rng(n)).image
        )
        for n in range(200)
    ]
    assert abs(np.mean(plain) - 0.6) < 5 * np.sqrt(0.6 * 0.4 / 200)


def test_a_mixture_has_no_level():
    """Settings that ask for both are refused before (test_rules.py), and no mixture gets past them."""
    adjustable = NOISE.model_copy(update={"level": "sigma"})
    with pytest.raises(AssertionError):
        degrade_and_mix(CLEAN, adjustable, Augmentation(mixup=0.5), rng(0))
    assert degrade_and_mix(CLEAN, adjustable, Augmentation(), rng(0)).level == 25


@pytest.mark.parametrize("wrong", [{"usm": 1.5}, {"mixup": -0.1}, {"rotate": True}])
def test_impossible_settings_are_refused(wrong):
    """Shares lie in [0, 1], and unknown keys are mistakes."""
    with pytest.raises(ValidationError):
        Augmentation.model_validate(wrong)


def test_enlarged_crops_are_cut_from_a_smaller_area():
    """The side of the source is the crop's over the factor, at most the patch's, and draws nothing when it is off."""
    settings = Augmentation(resized=1.0, resize=(0.5, 2.0))
    sides = {source_side(60, 96, settings, rng(number)) for number in range(300)}
    assert min(sides) in range(30, 33)
    assert max(sides) == 96
    drawn = rng(1)
    assert source_side(60, 96, Augmentation(), drawn) == 60
    assert drawn.random() == rng(1).random()


def test_resizing_keeps_a_plane():
    """A ramp that is enlarged or shrunk is the same ramp, up to the border and the rounding to 8 bits."""
    ramp = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None] * 4, 40, axis=0).repeat(3, axis=2)
    for side in (20, 80):
        found = resize(ramp, side)
        expected = (np.arange(side) + 0.5) * 40 / side * 4 - 2
        assert found.shape == (side, side, 3)
        assert np.abs(found[5, 3:-3, 0] - expected[3:-3]).max() <= 1
    assert resize(ramp, 40) is ramp


def test_gray_crops_are_degraded_as_one_channel():
    """Target and degraded crop are gray, with the luma of the colour crop; a coloured crop stays coloured."""
    settings = Augmentation(flips=False, gray=1.0)
    clean = augment(CROP, settings, rng(0))
    assert np.allclose(clean[1], CROP @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)
    degraded = degrade_and_mix(clean, NOISE, settings, rng(1)).image
    assert is_gray(degraded)
    assert not np.array_equal(degraded, clean)
    assert not is_gray(degrade_and_mix(CLEAN, NOISE, settings, rng(1)).image)
