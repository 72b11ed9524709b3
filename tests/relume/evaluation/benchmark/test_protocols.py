"""What each protocol does to an image, against closed forms."""

import numpy as np
import pytest
from scipy.stats import binom

from relume.degradations import compress_jpeg, downscale_bicubic, upscale_bicubic
from relume.errors import ConfigError
from relume.evaluation.benchmark.protocols import PROTOCOLS, make_input, parse_protocol
from relume.evaluation.benchmark.sets import Example


def example(clean, name="picture", degraded=None):
    """An image to be measured on."""
    return Example(image_id=name, clean=clean, degraded=degraded)


def made(name, level, clean, image="picture"):
    """The input that a protocol makes, float32 (H, W, C)."""
    return make_input(PROTOCOLS[name], level, example(clean, image), seed=5)[0]


@pytest.mark.parametrize("text", ["awgn:15,25", "awgn: 15, 25"])
def test_levels_may_be_given(text):
    """After a colon, between commas."""
    assert parse_protocol(text) == (PROTOCOLS["awgn"], (15, 25))


def test_electrons_are_more_than_255():
    """All other levels end there."""
    assert parse_protocol("camera:300,20000")[1] == (300, 20000)
    with pytest.raises(ConfigError, match="from 0 to 255 between"):
        parse_protocol("awgn:300")


def test_levels_are_the_published_ones_by_default():
    """Sigma 15, 25 and 50; none for the pairs."""
    assert parse_protocol("awgn")[1] == (15, 25, 50)
    assert parse_protocol("paired")[1] == (None,)


@pytest.mark.parametrize(
    "text",
    ["gaussian", "awgn:", "awgn:high", "awgn:-1", "jpeg:0", "jpeg:12.5", "paired:3", "sr:0.5"]
    + [f"{name}:{level}" for name in ("poisson", "awgn", "jpeg", "sr") for level in ("inf", "-inf", "nan", "1e39")],
)
def test_what_cannot_be_is_refused(text):
    """Unknown protocols, no numbers, and levels that are not finite or out of range."""
    with pytest.raises(ConfigError):
        parse_protocol(text)


def test_noise_belongs_to_the_image_and_scales_with_the_level(photograph):
    """The same image has the same noise at any level up to its strength; another name has other noise."""
    clean = photograph / np.float32(255)
    at_15, at_50 = (made("awgn", sigma, photograph) - clean for sigma in (15, 50))
    np.testing.assert_allclose(at_15 * (50 / 15), at_50, atol=1e-5)
    assert at_50.std() * 255 == pytest.approx(50, rel=0.02)
    assert np.abs(made("awgn", 50, photograph, "other") - clean - at_50).max() > 0.1


@pytest.mark.parametrize("quality", [85, 95])
def test_noise_that_was_saved_as_jpeg(photograph, quality):
    """The input is the clipped noise of the same image, through JPEG of the quality in the name."""
    noisy = made("awgn-clipped", 25, photograph)
    expected = compress_jpeg(noisy.transpose(2, 0, 1), quality).transpose(1, 2, 0)
    np.testing.assert_allclose(made(f"awgn-jpeg{quality}", 25, photograph), expected, atol=1e-6)


def test_only_the_published_gaussian_protocol_is_unclipped(photograph):
    """All other inputs are whole 8-bit levels in [0, 1]."""
    for name, protocol in PROTOCOLS.items():
        if protocol.steps:
            values = made(name, protocol.levels[-1], photograph) * 255
            whole = np.abs(values - np.rint(values)).max() < 1e-3 and values.min() >= 0 and values.max() <= 255
            assert whole == (name != "awgn")


GRAY = np.float64(128 / 255)
# E (b^(1/2.2) · gray - gray)² over b, a binomial of 64 and 0.1 over its mean, and what is above white cut off.
FOUND = np.arange(65)
RENDERED = binom.pmf(FOUND, 64, 0.1) @ (np.minimum(GRAY * (FOUND / 6.4) ** (1 / 2.2), 1) - GRAY) ** 2
PARAMETERS = [
    ("poisson", 2, 2**2 * GRAY / 256),
    ("speckle", 0.024, GRAY**2 * 0.024),
    ("salt-and-pepper", 0.002, 0.002 * (GRAY**2 + (1 - GRAY) ** 2) / 2),
    ("rendering", 64, RENDERED),
    ("correlated", 25, (25 / 255) ** 2),
    ("mixture", 25, 0.998 * (GRAY**2 * 0.024 + (25 / 255) ** 2) + 0.002 * (GRAY**2 + (1 - GRAY) ** 2) / 2),
]


@pytest.mark.parametrize(("name", "level", "variance"), PARAMETERS)
def test_out_of_distribution_noise_has_its_variance(name, level, variance):
    """On mid gray the mean square error is that of the law; beside it all gray levels, which Poisson noise counts."""
    clean = np.full((400, 400, 3), 128, np.uint8)
    clean[:2] = np.resize(np.arange(256), (2, 400, 3))
    error = (made(name, level, clean) - clean / 255)[4:]
    assert np.square(error).mean() == pytest.approx(variance, rel=0.05)


def test_correlated_noise_is_shared_by_neighbours():
    """At distance 1 pixel the correlation of a filter of 1 pixel is exp(-1/4)."""
    noise = made("correlated", 25, np.full((300, 300, 1), 128, np.uint8))[..., 0] - GRAY
    assert np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1] == pytest.approx(np.exp(-0.25), abs=0.03)


def test_super_resolution_keeps_the_size(photograph):
    """The image is cut to a multiple of the scale, and comes back bicubic down and up; the border is the scale."""
    given, measured = make_input(PROTOCOLS["sr"], 3.0, example(photograph[:47, :59]), seed=0)
    assert measured.clean.shape == given.shape == (45, 57, 3)
    image = measured.clean.transpose(2, 0, 1).astype(np.float32) / 255
    expected = np.clip(upscale_bicubic(downscale_bicubic(image, 3), 3), 0, 1).transpose(1, 2, 0)
    assert np.abs(given - expected).max() <= 0.51 / 255
    assert PROTOCOLS["sr"].border_at(3.0) == 3


def test_pairs_are_taken_as_they_are(photograph):
    """And a set without them is refused."""
    degraded = 255 - photograph
    given, _ = make_input(PROTOCOLS["paired"], None, example(photograph, degraded=degraded), seed=0)
    assert np.array_equal(np.rint(given * 255), degraded)
    with pytest.raises(ConfigError, match="no degraded"):
        make_input(PROTOCOLS["paired"], None, example(photograph), seed=0)
