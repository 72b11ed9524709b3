"""What is measured of a result, and which level a system is given."""

from dataclasses import replace

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from relume.degradations import downscale_bicubic
from relume.errors import ConfigError
from relume.evaluation.benchmark.measure import Asking, measure, measured_on_luma
from relume.evaluation.benchmark.protocols import PROTOCOLS
from relume.evaluation.benchmark.sets import SETS, open_set
from relume.evaluation.benchmark.systems import System
from relume.images import save_image
from relume.metrics import luma
from relume.serving.levels import LevelRange

IDENTITY = System(name="identity", run=lambda image, level: image)
ADJUSTABLE = System(
    name="adjustable",
    run=lambda image, level: image,
    level="sigma",
    trained=LevelRange(kind="sigma", lowest=10, highest=50, default=30),
)


def run(images, protocol, level, systems, **asking):
    """All that is measured."""
    return list(measure(images, PROTOCOLS[protocol], level, systems, asking=Asking(**asking), seed=1))


@pytest.mark.parametrize(("protocol", "level"), [("awgn-clipped", 25), ("jpeg", 10), ("sr", 2), ("speckle", 0.024)])
def test_an_identity_scores_what_its_input_scores(own_images, protocol, level):
    """In every figure."""
    for measured in run(open_set(str(own_images), None), protocol, level, [IDENTITY]):
        given, result = measured.rows
        assert replace(result, system="input") == given


def test_only_the_unclipped_input_is_measured_unrounded(own_images):
    """Unclipped noise has the PSNR of its sigma, 20.17 dB; an identity's result is clipped and scores higher."""
    rows = [row for measured in run(open_set(str(own_images), None), "awgn", 25, [IDENTITY]) for row in measured.rows]
    given, result = (np.mean([row.psnr for row in rows if row.system == name]) for name in ("input", "identity"))
    assert given == pytest.approx(20 * np.log10(255 / 25), abs=0.1)
    assert result > given + 0.02


def test_the_border_is_not_measured(own_images):
    """A system that spoils the outermost two pixels alone equals the input at scale 2, and not at sigma 25."""

    def spoil(image, level):
        spoiled = np.zeros_like(image)
        spoiled[2:-2, 2:-2] = image[2:-2, 2:-2]
        return spoiled

    images, spoiler = open_set(str(own_images), None), System(name="spoiler", run=spoil)
    given, result = run(images, "sr", 2, [spoiler])[0].rows
    assert result.psnr == given.psnr
    given, result = run(images, "awgn-clipped", 25, [spoiler])[0].rows
    assert result.psnr < given.psnr - 1


def test_luma_figures_are_those_of_the_luma(own_images):
    """PSNR-Y against scikit-image on the luma of the 8-bit result."""
    measured = run(open_set(str(own_images), None), "awgn-clipped", 25, [IDENTITY])[0]
    expected = peak_signal_noise_ratio(luma(measured.clean), luma(measured.results[1]), data_range=255)
    assert measured.rows[1].psnr_y == pytest.approx(expected, abs=1e-3)


def test_equal_images_score_120(own_images, photograph):
    """An infinite PSNR would spoil every mean."""
    rows = run(open_set(str(own_images), None), "awgn-clipped", 0, [])[0].rows
    assert (rows[0].psnr, rows[0].psnr_y, rows[0].ssim) == (120, 120, 1)


def test_which_figure_is_published():
    """The luma for super-resolution, out-of-distribution noise and rain; all values for the others."""
    assert measured_on_luma(SETS["set5"], PROTOCOLS["sr"])
    assert measured_on_luma(SETS["rain100h_dev"], PROTOCOLS["paired"])
    assert not measured_on_luma(SETS["rain100h_dev"], PROTOCOLS["awgn"])
    assert not measured_on_luma(SETS["gopro_dev"], PROTOCOLS["paired"])
    assert not measured_on_luma(SETS["classic5"], PROTOCOLS["jpeg"])


def test_the_level_that_a_system_is_told():
    """The true one; the default under another parameter; each asked one; the estimate, held in range."""
    image = np.zeros((4, 4, 3), np.float32)

    def told(asking, protocol="awgn", level=15.0, system=ADJUSTABLE):
        return asking.of(system, PROTOCOLS[protocol], level, image)

    assert told(Asking()) == [15]
    assert told(Asking(), "jpeg", 40.0) == [30]
    assert told(Asking(levels=(5, 60))) == [5, 60]
    assert told(Asking(estimate=lambda _: 99.0)) == [50]
    assert told(Asking(), system=IDENTITY) == [None]
    with pytest.raises(ConfigError, match="--ask"):
        told(Asking(), "paired", None, replace(ADJUSTABLE, trained=None))


def test_an_image_too_small_to_measure_is_refused(tmp_path):
    """SSIM needs 11 pixels inside the border."""
    save_image(tmp_path / "small.png", np.zeros((14, 40, 3), np.uint8))
    with pytest.raises(ConfigError, match="too small"):
        run(open_set(str(tmp_path), None), "sr", 2, [])


DOUBLING = System(name="doubling", run=lambda image, level: image.repeat(2, axis=0).repeat(2, axis=1), scale=2)


def test_a_system_that_enlarges_is_given_the_small_image(own_images):
    """Beside a system that keeps the size, which is given the enlarged one; both are measured at the same size."""
    measured = run(open_set(str(own_images), None), "sr", 2, [IDENTITY, DOUBLING])[0]
    small = downscale_bicubic(measured.clean.transpose(2, 0, 1) / np.float32(255), 2)
    small = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(measured.results[2], small.repeat(2, axis=0).repeat(2, axis=1))
    given, identity, doubling = measured.rows
    assert identity.psnr_y == given.psnr_y > doubling.psnr_y > 20
