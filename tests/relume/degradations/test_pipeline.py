"""Chains of degradations: draws, order, levels, and samples that depend on their number alone."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from relume.degradations import (
    Degradation,
    add_gaussian_noise,
    as_8_bits,
    blur_gaussian,
    compress_jpeg,
    counter_rng,
    degrade,
    degrade_at,
    downscale_bicubic,
    upscale_bicubic,
)
from relume.errors import ConfigError

NOISE = {"kind": "gaussian_noise", "sigma": [0, 55], "clipped": 0.5}
JPEG = {"kind": "jpeg", "quality": [10, 40]}
EVERY_KIND = [
    NOISE,
    {"kind": "poisson_gaussian_noise", "gain": [0.001, 0.01], "sigma": [0, 5]},
    {"kind": "poisson_noise"},
    {"kind": "speckle_noise", "variance": [0.01, 0.03]},
    {"kind": "rendering_noise", "rays": [16, 64]},
    {"kind": "salt_and_pepper", "density": [0.001, 0.01]},
    {"kind": "correlated_noise", "sigma": [5, 25], "width": [0.5, 2]},
    {"kind": "camera_noise", "electrons": [80, 10000], "read_noise": [1, 5]},
    JPEG,
    {"kind": "gaussian_blur", "sigma_x": [0.2, 3], "sigma_y": [0.2, 3]},
    {"kind": "motion_blur", "size": 15, "length": [3, 12]},
    {"kind": "bicubic", "scale": [2, 4]},
    {"kind": "rain", "density": [0.002, 0.01], "length": [8, 20], "angle": [-30, 30], "width": [0.5, 1]},
    {"kind": "haze", "beta": [0.6, 1.8], "airlight": [0.7, 1]},
    {"kind": "degraded_areas", "cell": 8},
    {"kind": "one_of", "of": [[JPEG], [NOISE, JPEG]], "weights": [1, 3]},
    {"kind": "shuffled", "of": [JPEG, NOISE | {"probability": 0.5}]},
    {"kind": "developed_noise", "sigma": [0.7, 20]},
    {"kind": "camera_denoising", "luma": [0.1, 1], "chroma": [0.1, 1]},
    {"kind": "camera_sharpening", "amount": [0.2, 1]},
    JPEG | {"subsampling": ["4:2:0", "4:4:4"], "shifted": 0.5},
]
SHARED_IMAGE = np.random.default_rng(0).random((3, 37, 30), dtype=np.float32)


def settings(*steps, level=None):
    """Settings of some steps."""
    return Degradation.model_validate({"steps": steps, "level": level})


def sample(number, seed=3):
    """The fingerprint of sample `number` of a chain that draws everything."""
    chain = settings(*(EVERY_KIND[i] for i in (5, 6, 9, 14, 15, 10)))
    return hashlib.sha256(degrade(SHARED_IMAGE, chain, counter_rng(seed, "sample", number)).image.tobytes()).hexdigest()


@hypothesis_settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_gaussian_noise_alone_draws_sigma_then_protocol_then_noise(seed, share):
    """The order in which trainings have always drawn: their bits depend on it."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(0, 55)
    clipped = rng.random() < share
    expected = add_gaussian_noise(SHARED_IMAGE, sigma, rng, clipped=clipped)
    result = degrade(SHARED_IMAGE, settings(NOISE | {"clipped": share}, level="sigma"), np.random.default_rng(seed))
    assert np.array_equal(result.image, expected)
    assert result.level == sigma


@pytest.mark.parametrize("step", EVERY_KIND, ids=lambda step: step["kind"])
def test_every_kind_gives_an_image_of_the_same_shape_and_leaves_the_clean_one(step):
    """float32, finite, changed, packed; the input is not written to."""
    clean = SHARED_IMAGE.copy()
    result = degrade(clean, settings(step), counter_rng(1, "sample", 0)).image
    assert result.dtype == np.float32
    assert result.shape == clean.shape
    assert result.flags.c_contiguous
    assert np.isfinite(result).all()
    assert not np.array_equal(result, clean)
    assert np.array_equal(clean, SHARED_IMAGE)


def test_a_sample_is_the_same_in_any_order_and_process():
    """Samples 0 to 5 drawn forwards, backwards and number 4 in another process have the same bytes."""
    forwards = [sample(number) for number in range(6)]
    backwards = [sample(number) for number in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 6
    code = f"from {__name__} import sample; print(sample(4))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert other.stdout.strip() == forwards[4]


def test_steps_follow_their_order():
    """Noise before JPEG is not JPEG before noise, and each equals the functions called by hand."""
    noise, jpeg = {"kind": "gaussian_noise", "sigma": [20, 20], "clipped": 1}, {"kind": "jpeg", "quality": [10, 10]}
    first = degrade(SHARED_IMAGE, settings(noise, jpeg), np.random.default_rng(1)).image
    rng = np.random.default_rng(1)
    rng.random(2)  # sigma, protocol
    assert np.array_equal(first, compress_jpeg(add_gaussian_noise(SHARED_IMAGE, 20, rng, clipped=True), 10))
    assert not np.array_equal(first, degrade(SHARED_IMAGE, settings(jpeg, noise), np.random.default_rng(1)).image)


def test_bicubic_is_down_and_up_to_the_same_size():
    """For a factor that does not divide the sides too."""
    result = degrade(SHARED_IMAGE, settings({"kind": "bicubic", "scale": [3, 3]}), np.random.default_rng(0)).image
    np.testing.assert_array_equal(result, upscale_bicubic(downscale_bicubic(SHARED_IMAGE, 3), 3)[:, :37, :30])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrinking_leaves_an_8_bit_file(scale):
    """MATLAB's bicubic, clipped and rounded; the settings say how much smaller images become."""
    shrinking = settings({"kind": "shrink", "scale": scale})
    clean = SHARED_IMAGE[:, :36, :24]
    result = degrade(clean, shrinking, np.random.default_rng(0)).image
    assert result.shape == (3, 36 // scale, 24 // scale)
    expected = np.rint(np.clip(downscale_bicubic(clean, scale), 0, 1) * 255) / 255
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert (shrinking.scale, settings({"kind": "jpeg", "quality": [9, 9]}).scale) == (scale, 1)


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6])
def test_clipped_noise_holds_8_bit_levels(kind):
    """With clipped 1 every noise ends on whole levels in [0, 1], with clipped 0 it does not."""
    clipped = degrade(SHARED_IMAGE, settings(EVERY_KIND[kind] | {"clipped": 1}), counter_rng(1, "sample", 1)).image
    free = degrade(SHARED_IMAGE, settings(EVERY_KIND[kind] | {"clipped": 0}), counter_rng(1, "sample", 1)).image
    assert np.array_equal(as_8_bits(clipped), clipped)
    assert not np.array_equal(as_8_bits(free), free)


def test_one_of_chooses_by_weight():
    """Untouched in a share of weight 1 of 4, within five standard errors."""
    chain = settings({"kind": "one_of", "of": [[], [{"kind": "jpeg", "quality": [5, 5]}]], "weights": [1, 3]})
    clean = SHARED_IMAGE[:, :8, :8]
    same = [np.array_equal(degrade(clean, chain, counter_rng(1, "sample", n)).image, clean) for n in range(400)]
    assert abs(np.mean(same) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)


def test_shuffled_takes_every_order_and_each_step_by_its_probability():
    """Of white and black fog, what came last shows; with probability 1/2 a step is left out half of the time."""
    black, white = ({"kind": "haze", "beta": [99, 99], "airlight": [a, a]} for a in (0, 1))
    clean, draws = SHARED_IMAGE[:, :8, :8], 1000
    for second, share in ((white, 1 / 2), (white | {"probability": 0.5}, 1 / 4)):
        chain = settings({"kind": "shuffled", "of": [black, second]})
        is_white = [degrade(clean, chain, counter_rng(1, "sample", n)).image.mean() > 0.75 for n in range(draws)]
        assert abs(np.mean(is_white) - share) < 5 * np.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize(
    ("step", "level", "low", "high"),
    [(NOISE, "sigma", 0, 55), (JPEG, "quality", 10, 40), ({"kind": "bicubic", "scale": [2, 4]}, "scale", 2, 4)],
)
def test_the_level_is_the_number_that_was_drawn(step, level, low, high):
    """Fixing it at what was drawn gives the same image bit for bit; levels fill their range."""
    chain = settings(step, level=level)
    levels = []
    for number in range(60):
        drawn = degrade(SHARED_IMAGE[:, :16, :16], chain, counter_rng(1, "sample", number))
        fixed = degrade_at(SHARED_IMAGE[:, :16, :16], chain, counter_rng(1, "sample", number), drawn.level)
        assert np.array_equal(drawn.image, fixed.image)
        assert fixed.level == drawn.level
        levels.append(drawn.level)
    assert low <= min(levels) < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < max(levels) <= high


def test_levels_differ_in_the_strength_of_the_same_noise():
    """From the same generator, sigma 15 and 75 give noise whose ratio is 5 at every pixel."""
    chain = settings(NOISE | {"clipped": 0}, level="sigma")
    weak, strong = (degrade_at(SHARED_IMAGE, chain, counter_rng(1, "sample", 2), level) for level in (15, 75))
    assert (weak.level, strong.level) == (15, 75)
    np.testing.assert_allclose(strong.image - SHARED_IMAGE, 5 * (weak.image - SHARED_IMAGE), rtol=0, atol=1e-5)


def test_every_jpeg_quality_is_drawn_equally_often():
    """Qualities 10 to 12 in thirds, both ends included."""
    chain = settings(JPEG | {"quality": [10, 12]}, level="quality")
    clean = SHARED_IMAGE[:, :8, :8]
    levels = [degrade(clean, chain, counter_rng(1, "sample", n)).level for n in range(300)]
    assert set(levels) == {10, 11, 12}
    assert max(abs(levels.count(q) / 300 - 1 / 3) for q in (10, 11, 12)) < 5 * np.sqrt(2 / 9 / 300)


def test_without_a_level_there_is_none():
    """Nothing is handed to a network, and no level can be fixed."""
    assert degrade(SHARED_IMAGE, settings(NOISE), counter_rng(1, "sample", 3)).level is None
    with pytest.raises(ConfigError, match="has no level"):
        degrade_at(SHARED_IMAGE, settings(NOISE), counter_rng(1, "sample", 3), 25)


def test_conditions_are_what_was_done_to_the_image():
    """Blur, noise and JPEG in the order that is asked for; what is skipped is 0; the image is that of no conditions."""
    steps = [
        {"kind": "gaussian_blur", "sigma_x": [0.5, 4], "probability": 0.5},
        {"kind": "gaussian_noise", "sigma": [0, 50], "clipped": 1.0},
        {"kind": "jpeg", "quality": [8, 90], "probability": 0.5},
    ]
    plain, asked = settings(*steps, level="sigma"), ["blur", "sigma", "jpeg"]
    wanted = Degradation.model_validate({"steps": steps, "level": "sigma", "conditions": asked})
    found = [degrade(SHARED_IMAGE, wanted, counter_rng(3, "sample", number)) for number in range(60)]
    for number, one in enumerate(found):
        same = degrade(SHARED_IMAGE, plain, counter_rng(3, "sample", number))
        np.testing.assert_array_equal(one.image, same.image)
        assert one.level[1] == same.level
    blur, noise, jpeg = np.array([one.level for one in found]).T
    for values, low, high in ((blur, 5, 40), (jpeg, 10, 92)):
        assert 0.25 < (values == 0).mean() < 0.75
        assert low <= values[values > 0].min() < values.max() <= high
    assert (noise > 0).all()
    at = {
        "steps": [steps[0] | {"probability": 1, "sigma_x": [2, 2]}, steps[1] | {"sigma": [0, 0], "clipped": 0.0}],
        "level": "sigma",
        "conditions": ["blur", "sigma"],
    }
    blurred = degrade(SHARED_IMAGE, Degradation.model_validate(at), counter_rng(0, "sample", 0))
    assert blurred.level == (20, 0)
    np.testing.assert_allclose(blurred.image, blur_gaussian(SHARED_IMAGE, 2, 2, 0), atol=1e-6)
