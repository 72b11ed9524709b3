"""The inputs of the benchmark sets against the figures that are published for them; skipped where the sets are not."""

import numpy as np
import pytest

from relume.evaluation.benchmark.measure import Asking, measure
from relume.evaluation.benchmark.protocols import PROTOCOLS
from relume.evaluation.benchmark.sets import ImageSet, open_set
from relume.images import save_image
from relume.metrics import luma


def inputs(images, protocol, level):
    """The rows of the inputs themselves."""
    results = measure(images, PROTOCOLS[protocol], level, [], asking=Asking(), seed=0)
    return [row for measured in results for row in measured.rows]


def mean(rows, figure):
    """The mean of a figure over the images."""
    return float(np.mean([getattr(row, figure) for row in rows]))


@pytest.mark.parametrize(("protocol", "psnr"), [("awgn", 20 * np.log10(255 / 25)), ("awgn-clipped", 20.543)])
def test_noisy_input(benchmark_sets, protocol, psnr):
    """CBSD68 at sigma 25: the closed form unclipped, and what others measured clipped, within a seed's 0.02 dB."""
    rows = inputs(open_set("cbsd68", benchmark_sets), protocol, 25)
    assert len(rows) == 68
    assert mean(rows, "psnr") == pytest.approx(psnr, abs=0.02)


@pytest.mark.parametrize(
    ("quality", "psnr", "ssim"), [(10, 27.82, 0.7595), (20, 30.12, 0.8344), (30, 31.48, 0.8666), (40, 32.43, 0.8849)]
)
def test_jpeg_input(benchmark_sets, quality, psnr, ssim):
    """Classic5, gray: the figures of the compressed images in the tables of deblocking, to their last digit."""
    rows = inputs(open_set("classic5", benchmark_sets), "jpeg", quality)
    assert round(mean(rows, "psnr"), 2) == psnr
    assert round(mean(rows, "ssim"), 4) == ssim


BICUBIC = [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)]


@pytest.mark.parametrize(("scale", "psnr", "ssim"), BICUBIC)
def test_bicubic_of_luma(benchmark_sets, tmp_path, scale, psnr, ssim):
    """Set5 with the luma alone resampled, as the tables of super-resolution do: their figures, to the last digit."""
    for example in open_set("set5", benchmark_sets).examples():
        gray = np.rint(luma(example.clean)).astype(np.uint8)
        save_image(tmp_path / f"{example.image_id}.png", np.repeat(gray[..., None], 3, axis=2))
    images = ImageSet(name="luma", about="", protocol="sr", gray=True, folder=tmp_path)
    rows = inputs(images, "sr", scale)
    assert round(mean(rows, "psnr"), 2) == psnr
    assert round(mean(rows, "ssim"), 4) == ssim


@pytest.mark.parametrize(("scale", "psnr"), [(scale, psnr) for scale, psnr, _ in BICUBIC])
def test_bicubic_of_colour(benchmark_sets, scale, psnr):
    """Set5 as it is measured here, resampled in RGB, of which the luma is taken after: 0.03 dB at most above them."""
    figure = mean(inputs(open_set("set5", benchmark_sets), "sr", scale), "psnr_y")
    assert psnr < figure < psnr + 0.03


def test_paired_inputs(benchmark_sets):
    """The figures that are documented for these pairs, on RGB."""
    polyu = inputs(open_set("polyu_dev", benchmark_sets), "paired", None)
    assert round(mean(polyu, "psnr"), 2) == 36.14
    assert [round(end([row.psnr for row in polyu]), 2) for end in (min, max)] == [32.75, 40.61]
    gopro = inputs(open_set("gopro_dev", benchmark_sets), "paired", None)
    assert sorted(round(row.psnr, 2) for row in gopro) == [23.82, 24.10]
    rain = inputs(open_set("rain100h_dev", benchmark_sets), "paired", None)
    assert round(mean(rain, "psnr"), 2) == 8.62


def test_gray_sets_are_one_channel(benchmark_sets):
    """Set12 is measured on one channel, whose luma figure is the same."""
    example = next(open_set("set12", benchmark_sets).examples(1))
    assert example.clean.shape == (256, 256, 1)
    row = inputs(open_set("set12", benchmark_sets), "awgn", 25)[0]
    assert row.psnr == pytest.approx(row.psnr_y, abs=1e-4)
