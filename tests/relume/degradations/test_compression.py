"""JPEG against OpenCV's encoder and the published figures of Classic5."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from relume.degradations import compress_jpeg
from relume.images import read_image

CLASSIC5 = Path(__file__).parents[4] / "shared" / "data" / "test" / "classic5"


@pytest.mark.parametrize("quality", [10, 40, 90])
def test_gray_jpeg_is_what_opencv_makes(quality):
    """Pillow's and OpenCV's encoders and decoders agree within one level."""
    pixels = data.camera()[100:213, 80:211]
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).astype(int)
    ours = compress_jpeg(pixels[None].astype(np.float32) / 255, quality)
    assert ours.shape == (1, *pixels.shape)
    assert ours.dtype == np.float32
    assert np.abs(np.rint(ours[0] * 255).astype(int) - expected).max() <= 1


def test_colour_jpeg_is_what_opencv_makes():
    """With colour at half resolution the two agree in RGB, within the rounding of the colour conversion."""
    pixels = np.ascontiguousarray(data.astronaut()[:120, 100:260])
    encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    ours = compress_jpeg(pixels.transpose(2, 0, 1).astype(np.float32) / 255, 50).transpose(1, 2, 0) * 255
    assert np.abs(ours - expected).mean() < 0.2
    assert np.abs(ours - expected).max() <= 4


def test_shifted_blocks_are_those_of_a_crop():
    """A crop of a compressed image and the crop compressed at its place on the grid of blocks are the same inside."""
    image = data.camera()[None, :96, :96].astype(np.float32) / 255
    whole = compress_jpeg(image, 30)[:, 8 + 3 :, 16 + 5 :]
    crop = compress_jpeg(image[:, 8 + 3 :, 16 + 5 :], 30, shift=(3, 5))
    # The cut blocks at the crop's upper and left side hold other pixels.
    assert np.array_equal(crop[:, 5:80, 3:72], whole[:, 5:80, 3:72])
    assert not np.array_equal(compress_jpeg(image[:, 8 + 3 :, 16 + 5 :], 30)[:, 5:80, 3:72], whole[:, 5:80, 3:72])


def test_full_colour_resolution_keeps_more_of_the_colour():
    """4:4:4 is nearer to a colourful image than 4:2:0 at the same quality."""
    clean = data.astronaut()[:120, 100:260].transpose(2, 0, 1).astype(np.float32) / 255
    errors = [
        np.square(compress_jpeg(clean, 90, subsampling=kind) - clean).mean() for kind in ("4:4:4", "4:2:2", "4:2:0")
    ]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.skipif(not CLASSIC5.is_dir(), reason="the Classic5 photographs are not on this machine")
@pytest.mark.parametrize(("quality", "published"), [(10, 27.82), (20, 30.12), (30, 31.48), (40, 32.43)])
def test_compressed_classic5_has_the_published_psnr(quality, published):
    """The JPEG row of the deblocking tables (Dong et al., ARCNN, ICCV 2015), within 0.01 dB."""
    values = []
    for path in sorted(CLASSIC5.iterdir()):
        clean = read_image(path).pixels[..., :1].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        values.append(-10 * math.log10(np.square(compress_jpeg(clean, quality) - clean, dtype=np.float64).mean()))
    assert abs(np.mean(values) - published) < 0.01
