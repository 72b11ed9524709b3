"""The baselines on gray and colour, and which sigma they are given."""

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from relume.curation.quality import image_noise
from relume.evaluation.baselines import best_filters, filters, non_local_means
from relume.evaluation.benchmark.measure import Asking, measure
from relume.evaluation.benchmark.protocols import PROTOCOLS
from relume.evaluation.benchmark.sets import ImageSet
from relume.evaluation.benchmark.systems import baseline
from relume.images import save_image
from relume.metrics import psnr

CAMERA = skimage.data.camera()[100:228, 150:278, np.newaxis]
INPUT, NLM = 0, 1


@pytest.fixture
def gray(tmp_path):
    """A gray set of one image."""
    save_image(tmp_path / "gray" / "camera.png", np.repeat(CAMERA, 3, axis=2))
    return ImageSet(name="gray", about="", protocol="awgn-clipped", gray=True, folder=tmp_path / "gray")


def measured(images, sigma, system, **asking):
    """What is measured on the only image."""
    protocol = PROTOCOLS["awgn-clipped"]
    (found,) = measure(images, protocol, sigma, [system], asking=Asking(**asking), seed=3)
    return found


@pytest.mark.parametrize("sigma", [15, 25, 50])
def test_gray_non_local_means_is_near_its_best(sigma):
    """On the seven images that the docstring tells of, neither a weaker nor a stronger filter gains 0.1 dB."""
    data = skimage.data
    photographs = [data.camera, data.moon, data.coins, data.astronaut, data.chelsea, data.coffee, data.rocket]
    found: dict[str, list[float]] = {"ours": [], "weaker": [], "stronger": []}
    for number, read in enumerate(photographs):
        clean = np.asarray(Image.fromarray(read()).convert("L"))[:320, :320]
        noise = np.random.default_rng([7, number]).normal(0, sigma, clean.shape)
        noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
        found["ours"].append(psnr(non_local_means(noisy[..., np.newaxis], sigma)[..., 0], clean))
        for name, factor in (("weaker", 0.8), ("stronger", 1.0)):
            found[name].append(psnr(cv2.fastNlMeansDenoising(noisy, None, factor * sigma, 7, 21), clean))
    means = {name: np.mean(values) for name, values in found.items()}
    assert max(means["weaker"], means["stronger"]) < means["ours"] + 0.1


def test_gray_non_local_means_is_not_that_of_colour(gray):
    """Three equal channels at the strength for colour lose more than a decibel."""
    found = measured(gray, 25, baseline("nlm"))
    colour = baseline("nlm").run(np.repeat(found.results[INPUT], 3, axis=2) / np.float32(255), 25.0)
    assert found.rows[NLM].psnr > psnr(np.rint(colour.mean(axis=2, keepdims=True) * 255), CAMERA) + 1


@pytest.mark.parametrize("sigma", [25, 50])
def test_gray_bm3d_beats_non_local_means(gray, sigma):
    """By a decibel, as in the literature; on three equal channels it would return no image at all."""
    pytest.importorskip("bm3d", reason="BM3D is an extra with a non-commercial licence")
    block_matching, means = (measured(gray, sigma, baseline(name)).rows[1].psnr for name in ("bm3d", "nlm"))
    assert block_matching > means + 1


def test_baselines_are_told_what_adjustable_models_are_told(gray):
    """The true sigma; the levels that are asked for; the estimate, whatever the true one is."""

    def told(**asking):
        return [row.asked for row in measured(gray, 25, baseline("nlm"), **asking).rows[1:]]

    assert told() == [25]
    assert told(levels=(10.0, 40.0)) == [10, 40]
    assert told(estimate=lambda _: 33.0) == [33]


def test_filters_are_at_their_best_on_real_pairs():
    """On noise as a camera's, which is correlated, the estimate for white noise is far too low for a filter."""
    clean = skimage.data.astronaut()[:192, 100:292]
    noise = np.random.default_rng(3).normal(0, 30, clean.shape)
    noisy = np.clip(np.rint(clean + cv2.GaussianBlur(noise, (0, 0), 1.2)), 0, 255).astype(np.uint8)
    found = best_filters([(noisy, clean)])
    assert found.keys() == {"blur", "nlm"}
    for name, settings in filters().items():
        values = {setting: psnr(restore(noisy), clean) for setting, restore in settings.items()}
        assert values[found[name]] == max(values.values())
    best = psnr(filters()["nlm"][found["nlm"]](noisy), clean)
    assert best > psnr(non_local_means(noisy, image_noise(noisy)), clean) + 0.3
