"""The graph's evaluation: which input each protocol gives, and what the summary means."""

import sys

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from relume.degradations import downscale_bicubic
from relume.errors import ConfigError
from relume.evaluation.baselines import gaussian_blur, non_local_means
from relume.evaluation.held_out import Score, evaluate_held_out, noisy_photograph, summarize
from relume.evaluation.settings import EvaluateSettings
from relume.inference.plan import EdgeFusion, Inference
from relume.metrics import psnr, to_8_bit
from relume.models.fusion.edges import edges_of
from relume.serving.levels import LevelRange

IMAGE_ID = "00ff"


SETTINGS = EvaluateSettings(seed=3, threads=1, levels={"sigma": (25,)})
INFERENCE = Inference(tile=64, halo=8, overlap=4)


@pytest.fixture(scope="module")
def clean():
    """A small photograph."""
    return skimage.data.chelsea()[100:180, 150:250]


class Identity(torch.nn.Module):
    """Gives back what it gets, so that every figure must be that of the input."""

    def forward(self, image):
        return image


@pytest.fixture(scope="module")
def scores(clean):
    """All scores of two identities as base models and as the final model."""
    networks = {"base:a": Identity(), "base:b": Identity(), "final": Identity()}
    runs = evaluate_held_out({IMAGE_ID: clean}, networks, SETTINGS, INFERENCE)
    return {(score.protocol, score.system): score for row, _ in runs for score in row}


def test_an_identity_scores_what_the_noisy_input_scores(scores):
    """Through tiles and 8-bit tensors nothing is lost: base, average and final equal the noisy input."""
    for system in ("base:a", "average", "final"):
        assert scores["clipped", system].psnr == pytest.approx(scores["clipped", "noisy"].psnr, abs=1e-4)
    assert scores["clipped", "final"].ssim == scores["clipped", "noisy"].ssim


def test_the_protocols_differ_as_they_must(scores, clean):
    """Unclipped noise has exactly its own PSNR; clipping takes error away, so the clipped input scores higher."""
    expected = 20 * np.log10(255 / 25)
    assert scores["unclipped", "noisy"].psnr == pytest.approx(expected, abs=0.15)
    assert scores["clipped", "noisy"].psnr > scores["unclipped", "noisy"].psnr
    # Only the output of the literature's protocol is clamped, not its input.
    assert scores["unclipped", "final"].psnr > scores["unclipped", "noisy"].psnr


def test_an_adjustable_network_is_told_the_sigma_of_the_noise(clean):
    """One that answers its level in every pixel answers the sigma, in both protocols; others are told nothing."""

    class Told(torch.nn.Module):
        def forward(self, image, level):
            return torch.ones_like(image) * (level / 255).view(-1, 1, 1, 1)

    networks = {"final": Told(), "base:identity": Identity()}
    settings = EvaluateSettings(seed=3, threads=1, levels={"sigma": (15, 50)})
    levels = LevelRange(kind="sigma", lowest=0, highest=55, default=25)
    runs = evaluate_held_out({IMAGE_ID: clean}, networks, settings, INFERENCE, levels=levels)
    answers = [(row[0].protocol, row[0].level, np.unique(images["final"]).tolist()) for row, images in runs]
    assert answers == [
        (protocol, s, [s]) for s in (15, 50) for protocol in ("clipped", "unclipped", "jpeg85", "jpeg95")
    ]


def test_finished_images_are_fused_for_the_final_model_alone(clean):
    """Under every protocol; the ensemble, which is the same network, is the mean."""

    class Darker(torch.nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, image):
            return image - self.by / 255

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bases = torch.nn.ModuleList([Darker(0), Darker(20)])

        def forward(self, image):
            return sum(base(image) for base in self.bases) / 2

    plan = INFERENCE.model_copy(update={"fusion": EdgeFusion(smooth="b", detail="a")})
    network = Mean()
    for _, images in evaluate_held_out({IMAGE_ID: clean}, {"final": network, "ensemble": network}, SETTINGS, plan):
        noisy = images["noisy"].astype(int)
        darker = noisy - images["final"]
        assert set(darker[noisy > 20].tolist()) >= {0, 10}
        edges = edges_of(images["noisy"] / 255) | edges_of((noisy - 20).clip(0) / 255)
        if "ensemble" in images:  # under the product's protocol
            assert set((noisy - images["ensemble"])[noisy > 20].tolist()) == {10}
            assert set(darker[edges][noisy[edges] > 20].tolist()) == {0}
            assert set(darker[~edges][noisy[~edges] > 20].tolist()) == {10}


def test_a_level_estimator_is_measured_beside_the_true_level(clean):
    """The system `blind` gets what is estimated, within the trained levels; its accuracy is that of the level."""

    class Told(torch.nn.Module):
        def forward(self, image, level):
            return torch.ones_like(image) * (level / 255).view(-1, 1, 1, 1)

    settings = EvaluateSettings(seed=3, threads=1, levels={"sigma": (15, 50)})
    levels = LevelRange(kind="sigma", lowest=0, highest=40, default=25)
    for estimated, held in ((12.34, 12.3), (60, 40)):
        runs = evaluate_held_out(
            {IMAGE_ID: clean}, {"final": Told()}, settings, INFERENCE, levels=levels, estimate=lambda _, e=estimated: e
        )
        scores = []
        for row, images in runs:
            assert np.unique(images["blind"]).tolist() == [round(held)]
            assert np.unique(images["final"]).tolist() == [row[0].level]
            assert [score.estimated for score in row] == [held if score.system == "blind" else None for score in row]
            scores += row
        summary = summarize(scores)["clipped"]
        assert summary["blind"]["sigma_50"]["accuracy"] == pytest.approx(100 * held / 50, abs=1e-3)
        assert "accuracy" not in summary["final"]["sigma_50"]


def test_non_local_means_denoises(clean):
    """The baseline gains at least 3 dB at sigma 25: it is run at a sensible strength."""
    noisy = to_8_bit(noisy_photograph(clean, IMAGE_ID, 25, "clipped", 3))
    assert psnr(non_local_means(noisy, 25), clean) > psnr(noisy, clean) + 3


def test_a_blur_denoises(clean):
    """At sigma 25 the baseline gains at least 3 dB, and no other width of a grid gains 0.3 dB more."""
    noisy = to_8_bit(noisy_photograph(clean, IMAGE_ID, 25, "clipped", 3))
    gained = psnr(gaussian_blur(noisy, 25), clean)
    assert gained > psnr(noisy, clean) + 3
    assert gained > max(psnr(cv2.GaussianBlur(noisy, (0, 0), width), clean) for width in (0.6, 0.8, 1.2, 1.6)) - 0.3


def test_a_blur_at_level_0_changes_nothing(clean):
    """An estimator may find no noise at all."""
    assert np.array_equal(gaussian_blur(clean, 0), clean)


def test_noise_saved_as_jpeg_is_what_the_decoder_reads(clean, scores, tmp_path):
    """The input is the clipped noise as written and read by another library, and systems are measured on it."""
    path = tmp_path / "noisy.jpg"
    clipped = to_8_bit(noisy_photograph(clean, IMAGE_ID, 25, "clipped", 3))
    cv2.imwrite(str(path), clipped[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    expected = cv2.imread(str(path))[..., ::-1].astype(int)
    given = to_8_bit(noisy_photograph(clean, IMAGE_ID, 25, "jpeg85", 3))
    assert np.abs(given - expected).max() <= 8  # both are libjpeg; the conversion of colours may be rounded otherwise
    assert np.abs(given - expected).mean() < 0.5
    assert scores["jpeg85", "final"].psnr == pytest.approx(psnr(given, clean), abs=1e-4)
    # The colour is stored at half resolution, which averages its noise.
    assert min(scores[jpeg, "final"].psnr for jpeg in ("jpeg85", "jpeg95")) > scores["clipped", "final"].psnr


def test_noise_belongs_to_the_photograph_and_level(clean):
    """The same photograph has the same noise wherever it is met; another level or photograph has other noise."""
    first = noisy_photograph(clean, IMAGE_ID, 25, "clipped", 3)
    assert np.array_equal(first, noisy_photograph(clean, IMAGE_ID, 25, "clipped", 3))
    unclipped = noisy_photograph(clean, IMAGE_ID, 25, "unclipped", 3)
    assert np.array_equal(to_8_bit(first), to_8_bit(unclipped))
    assert not np.array_equal(first, noisy_photograph(clean, "0100", 25, "clipped", 3))
    other = noisy_photograph(clean, IMAGE_ID, 50, "unclipped", 3) - clean / np.float32(255)
    assert not np.allclose(other, 2 * (unclipped - clean / np.float32(255)), atol=1e-3)


def test_the_summary_is_the_mean_over_photographs():
    """Two photographs of 30 and 32 dB make 31."""
    rows = [
        Score(system="final", image_id=name, level=25, protocol="clipped", psnr=value, ssim=value / 100)
        for name, value in [("a", 30.0), ("b", 32.0)]
    ]
    assert summarize(rows) == {"clipped": {"final": {"sigma_25": {"psnr": 31.0, "ssim": 0.31}}}}


def test_bm3d_is_an_extra_that_says_how_to_get_it(clean, monkeypatch):
    """Without the package its name in the settings is refused with the command that installs it."""
    monkeypatch.setitem(sys.modules, "bm3d", None)
    runs = evaluate_held_out({IMAGE_ID: clean}, {}, SETTINGS.model_copy(update={"bm3d": True}), INFERENCE)
    with pytest.raises(ConfigError, match=r"\.\[bm3d\]"):
        next(runs)


def test_a_photograph_smaller_than_the_tile_is_not_continued_by_mirroring(clean):
    """The tile is cut down to what the photograph holds, so that a network sees its pixels alone."""
    seen = []

    class Sees(Identity):
        def forward(self, image):
            seen.append(tuple(image.shape[2:]))
            return image

    inference = Inference(tile=256, halo=16, overlap=8)
    runs = evaluate_held_out({IMAGE_ID: clean}, {"final": Sees()}, SETTINGS, inference)
    protocols = [row[0].protocol for row, _ in runs]
    assert clean.shape[:2] == (80, 100)
    assert protocols[0] == "clipped"
    assert seen[0] == (80, 80)
    assert max(side for sides in seen for side in sides) <= 100


class Nearest(torch.nn.Module):
    """Makes images twice as large by doubling each pixel."""

    def forward(self, image):
        return image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


TO_SCALE_2 = EvaluateSettings(seed=3, threads=1, task="super-resolution", levels={"scale": (2,)})
TWICE = Inference(tile=32, halo=4, overlap=4, scale=2)


def test_a_network_that_enlarges_is_given_the_small_photograph(clean):
    """Its result has the photograph's size and is measured beside the bicubic enlargement: on luma, less two pixels."""
    from skimage.color import rgb2ycbcr

    photograph = clean[:79, :99]
    ((row, images),) = evaluate_held_out({IMAGE_ID: photograph}, {"final": Nearest()}, TO_SCALE_2, TWICE)
    even = photograph[:78, :98]
    small = downscale_bicubic(even.transpose(2, 0, 1) / np.float32(255), 2)
    small = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    doubled = small.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(images["final"], doubled)
    y, reference = (rgb2ycbcr(image)[2:-2, 2:-2, 0] for image in (doubled, even))
    found = {score.system: score.psnr for score in row}
    assert found["final"] == pytest.approx(10 * np.log10(255**2 / np.square(y - reference).mean()), abs=1e-3)
    assert found["bicubic"] > found["final"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (SETTINGS, "2 times as large, but denoise keeps their size"),
        (TO_SCALE_2.model_copy(update={"levels": {"scale": (2, 3)}}), "evaluate.levels has scale 2, 3"),
    ],
)
def test_a_network_that_enlarges_is_measured_at_its_scale_alone(clean, settings, problem):
    """At another scale, or on a task that keeps the size, there is nothing to compare it with."""
    with pytest.raises(ConfigError, match=problem):
        next(evaluate_held_out({IMAGE_ID: clean}, {"final": Nearest()}, settings, TWICE))
