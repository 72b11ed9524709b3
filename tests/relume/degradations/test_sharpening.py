"""Unsharp masking against an independent computation."""

import numpy as np
from scipy import ndimage
from skimage import data

from relume.degradations import sharpen_usm


def test_it_is_the_published_recipe():
    """Gaussian of 51 taps and sigma 8, threshold of 10 levels, half of the residual, blurred mask, by SciPy."""
    image = data.astronaut()[40:140, 120:230].transpose(2, 0, 1).astype(np.float64) / 255

    def blur(x):
        return ndimage.gaussian_filter(x, (0, 8, 8), mode="mirror", radius=(0, 25, 25))

    residual = image - blur(image)
    soft = blur((np.abs(residual) * 255 > 10).astype(float))
    expected = soft * np.clip(image + 0.5 * residual, 0, 1) + (1 - soft) * image
    ours = sharpen_usm(image.astype(np.float32))
    assert ours.dtype == np.float32
    # A residual at the threshold may fall on either side in float32, which moves the mask by 1/400 at most.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    assert np.abs(ours - image).max() > 0.05


def test_what_is_nearly_flat_stays():
    """Differences below the threshold of 10 levels are left alone."""
    image = np.full((1, 60, 60), 0.5, np.float32)
    image[0, ::7, ::5] += 5 / 255
    np.testing.assert_allclose(sharpen_usm(image), image, rtol=0, atol=1e-7)
