"""Camera noise: the sensor against its closed forms, the development against independent ones."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve

from relume.degradations import add_camera_noise, counter_rng
from relume.degradations.camera import demosaic_rggb, expose, from_linear, to_linear
from relume.errors import ConfigError


@settings(deadline=None)
@given(st.floats(0, 1))
def test_development_undoes_its_inverse(value):
    """Gamma and tone curve bring every linear value back to the brightness it came from."""
    assert math.isclose(from_linear(to_linear(np.array(value))), value, abs_tol=1e-7)


def test_tone_curve_and_gamma_at_known_points():
    """Middle gray stays under the tone curve and is 0.21404 in linear sRGB; black and white are fixed."""
    np.testing.assert_allclose(to_linear(np.array([0.0, 0.5, 1.0])), [0, 0.2140411, 1], atol=1e-6)
    np.testing.assert_allclose(from_linear(np.array([0.0031308])), [(3 - 2 * 0.040449936) * 0.040449936**2], rtol=1e-6)


@pytest.mark.parametrize("light", [0.0, 0.05, 0.6])
def test_a_sensor_has_shot_read_and_rounding_noise(light):
    """In electrons the variance is light · electrons + read² + a twelfth of a converter step squared."""
    electrons, read, bits = 2000, 4.0, 12
    numbers = expose(
        np.full((300, 300), light), counter_rng(1, "sample", 0), electrons=electrons, read_noise=read, bits=bits
    )
    step = electrons / (2**bits - 1 - 2**bits // 16)
    counted = (numbers.astype(np.float64) - 2**bits // 16) * step
    variance = light * electrons + read**2 + step**2 / 12
    assert abs(counted.mean() - light * electrons) < 5 * math.sqrt(variance / counted.size)
    assert abs(counted.var() / variance - 1) < 5 * math.sqrt(2 / counted.size)


def test_a_sensor_saturates():
    """Light of 1 and more fills the converter to its top."""
    full = expose(np.full((8, 8), 1.5), counter_rng(1, "sample", 1), electrons=1e6, read_noise=0, bits=10)
    assert (full == 1023).all()


@pytest.mark.parametrize("shape", [(16, 18), (17, 15)])
def test_bilinear_demosaicing_averages_neighbours(shape):
    """It equals the classical convolution of each colour's samples, borders and odd sizes included."""
    mosaic = np.random.default_rng(0).integers(0, 2**16, shape, dtype=np.uint16)
    rows, columns = np.mgrid[: shape[0], : shape[1]] % 2
    sites = [(rows == 0) & (columns == 0), rows != columns, (rows == 1) & (columns == 1)]
    corners = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    expected = [
        convolve(np.where(site, mosaic, 0).astype(float), kernel, mode="mirror")
        for site, kernel in zip(sites, [corners, cross, corners], strict=True)
    ]
    assert np.abs(demosaic_rggb(mosaic, "bilinear") - np.stack(expected, axis=-1)).max() <= 1  # its own rounding


def test_edge_aware_demosaicing_keeps_an_edge_that_bilinear_blurs():
    """Green of a sharp horizontal edge is nearer to the truth when it is interpolated along the edge."""
    truth = np.zeros((20, 20), np.uint16)
    truth[9:] = 40_000
    errors = {m: np.abs(demosaic_rggb(truth, m)[..., 1].astype(int) - truth).mean() for m in ("edge_aware", "bilinear")}
    assert errors["edge_aware"] < 0.2 * errors["bilinear"]


@pytest.mark.parametrize("method", ["edge_aware", "bilinear"])
def test_a_flat_colour_survives_a_camera_without_noise(method):
    """White balance, mosaic and curves cancel; only the converter's step is left."""
    clean = np.broadcast_to(np.array([0.7, 0.4, 0.2], np.float32)[:, None, None], (3, 15, 20))
    camera = {"electrons": 1e10, "read_noise": 0, "red_gain": 2.2, "blue_gain": 1.6, "bits": 16}
    taken = add_camera_noise(clean, counter_rng(1, "sample", 2), **camera, demosaic=method)
    assert taken.dtype == np.float32
    np.testing.assert_allclose(taken, clean, rtol=0, atol=3e-4)


def test_noise_of_a_developed_photosite_follows_from_its_electrons():
    """At its own sites green has √(x / N) · f'(x) of noise, f being the development."""
    electrons, value = 20_000, 0.5
    clean = np.full((3, 400, 400), value, np.float32)
    taken = add_camera_noise(clean, counter_rng(1, "sample", 3), electrons=electrons, read_noise=0, demosaic="bilinear")
    green = taken[1, ::2, 1::2].astype(np.float64)
    light, h = float(to_linear(np.array(value))), 1e-5
    slope = float(from_linear(np.array(light + h)) - from_linear(np.array(light - h))) / (2 * h)
    expected = slope * math.sqrt(light / electrons)
    assert abs(green.std() / expected - 1) < 5 / math.sqrt(2 * green.size) + 0.002  # the curve's second order


def test_neighbours_share_the_noise_of_a_demosaiced_image():
    """What distinguishes camera noise from white noise: red is correlated from pixel to pixel."""
    taken = add_camera_noise(
        np.full((3, 64, 64), 0.5, np.float32), counter_rng(1, "sample", 4), electrons=500, read_noise=2
    )
    assert np.corrcoef(taken[0, :, 1:].ravel(), taken[0, :, :-1].ravel())[0, 1] > 0.3


def test_gray_images_are_refused():
    """The message names the noise to use instead."""
    with pytest.raises(ConfigError, match="poisson_gaussian_noise"):
        add_camera_noise(np.zeros((1, 8, 8), np.float32), counter_rng(1, "sample", 5), electrons=100, read_noise=1)
