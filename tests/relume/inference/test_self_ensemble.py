"""The orientations are undone exactly, and a turned image gives the turned result."""

import numpy as np
import pytest
from scipy.ndimage import correlate

from relume.inference.self_ensemble import orient, orient_back, orientations, self_ensemble

ALL = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


@pytest.fixture
def picture():
    """An image whose sides differ, with no symmetry."""
    return np.random.default_rng(2).random((2, 3, 5, 8), np.float32)


def convolution(kernel):
    """A network that is a convolution of each channel; a kernel without symmetry tells the orientations apart."""
    return lambda image: correlate(image, kernel[None, None], mode="constant")


def test_the_eight_orientations_differ(picture):
    """No two orientations of an image without symmetry are equal, so the eight are the whole group."""
    oriented = [orient(picture[..., :5], *orientation) for orientation in ALL]
    assert not any(np.array_equal(oriented[i], oriented[j]) for i in range(8) for j in range(i))


@pytest.mark.parametrize("orientation", ALL)
def test_each_orientation_is_undone(picture, orientation):
    """Turning back gives the image bit for bit."""
    np.testing.assert_array_equal(orient_back(orient(picture, *orientation), *orientation), picture)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_orientations_of_each_count_are_a_group(picture, count):
    """Of two of them, one after the other gives a third; the first leaves the image as it is. Four keep its sides."""
    chosen = orientations(count)
    assert len(set(chosen)) == count
    square = picture[..., :5]
    images = [orient(square, *orientation) for orientation in chosen]
    np.testing.assert_array_equal(images[0], square)
    for image in images:
        for orientation in chosen:
            assert any(np.array_equal(orient(image, *orientation), other) for other in images)
    assert (count == 8) == any(turns % 2 for turns, _ in chosen)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 6), (9, 4), (13, 21)])
def test_identity_stays_the_identity(size, count):
    """With a network that returns its input, the output is the input bit for bit, at any sides."""
    image = np.random.default_rng(0).random((2, 3, *size), np.float32)
    np.testing.assert_array_equal(self_ensemble(lambda x: x, count)(image), image)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_result_is_the_mean_over_the_group(picture, count):
    """With a convolution the result is that of the kernel averaged over its orientations."""
    kernel = np.random.default_rng(3).random((3, 3), np.float32)
    mean = np.mean([orient(kernel, *orientation) for orientation in orientations(count)], axis=0)
    result = self_ensemble(convolution(kernel), count)(picture)
    np.testing.assert_allclose(result, convolution(mean)(picture), atol=1e-6)
    assert np.abs(result - convolution(kernel)(picture)).max() > 0.01


@pytest.mark.parametrize("count", [2, 4, 8])
def test_a_turned_image_gives_the_turned_result(picture, count):
    """The self-ensemble commutes with every orientation of its group, whatever the network."""
    kernel = np.random.default_rng(4).random((3, 3), np.float32) - 0.5
    network = self_ensemble(lambda image: np.maximum(convolution(kernel)(image), 0), count)
    for orientation in orientations(count):
        turned = network(np.ascontiguousarray(orient(picture, *orientation)))
        np.testing.assert_allclose(turned, orient(network(picture), *orientation), atol=1e-6)


def test_mean_is_taken_before_clipping(picture):
    """Values outside [0, 1] are averaged as they are."""
    image = 3 * picture - 1
    np.testing.assert_array_equal(self_ensemble(lambda x: x, 8)(image), image)
