"""Systems behind one call: each gives what its parts give when they are run by hand."""

import numpy as np
import pytest
import torch

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.evaluation.baselines import non_local_means
from relume.evaluation.benchmark.measure import Asking
from relume.evaluation.benchmark.protocols import PROTOCOLS
from relume.evaluation.benchmark.systems import System, baseline, load_estimator, load_system
from relume.evaluation.networks import run_whole
from relume.inference.plan import EdgeFusion, Inference
from relume.metrics import to_8_bit
from relume.models.artifact import load_card, save_model
from relume.models.fusion.edges import fuse_edges
from relume.serving.levels import LevelRange
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

PICTURE = np.random.default_rng(6).normal(0.5, 0.3, (36, 44, 3)).astype(np.float32)
DNCNN = {"width": 8, "layers": 4}


def by_hand(network, *inputs):
    """A network on the image."""
    batch = torch.from_numpy(PICTURE.transpose(2, 0, 1).copy())[None]
    with torch.inference_mode():
        return network(batch, *inputs)[0].numpy().transpose(1, 2, 0)


@pytest.mark.parametrize("options", [{}, {"inference": Inference(tile=16, halo=2, overlap=1)}, {"self_ensemble": True}])
def test_an_identity_changes_nothing(tmp_path, save_network, options):
    """Whole, in tiles and in eight orientations, values beyond [0, 1] included but where served tiles have 8 bits."""
    save_network(tmp_path / "model", "dncnn", identity=True, **DNCNN)
    system = load_system(tmp_path / "model", **options)
    expected = PICTURE.clip(0, 1) if "inference" in options else PICTURE
    np.testing.assert_allclose(system.restore(PICTURE, None), expected, atol=1e-6)


def test_an_artifact_runs_as_its_network(tmp_path, save_network):
    """Also with the self-ensemble around it."""
    network = save_network(tmp_path / "model", "dncnn", **DNCNN)
    assert np.abs(by_hand(network) - PICTURE).max() > 0.01
    plain, ensemble = (load_system(tmp_path / "model", self_ensemble=on).restore(PICTURE, None) for on in (False, True))
    np.testing.assert_allclose(plain, by_hand(network), atol=1e-5)

    def turned(image, turns):
        return network(image.rot90(turns, (2, 3))).rot90(-turns, (2, 3))

    def mean(image):
        return sum(turned(image, turns) + turned(image.flip(3), turns).flip(3) for turns in range(4)) / 8

    np.testing.assert_allclose(ensemble, by_hand(mean), atol=1e-5)


def test_an_adjustable_artifact_is_told_its_level(tmp_path, save_network):
    """The card says which levels it was trained for, and what they mean."""
    trained_for = {"levels": [10, 40], "degradation": {"level": "quality"}}
    network = save_network(tmp_path / "model", "ffdnet", trained_for=trained_for, width=8, layers=3)
    system = load_system(tmp_path / "model")
    assert (system.level, system.trained) == ("quality", LevelRange(kind="quality", lowest=10, highest=40, default=25))
    np.testing.assert_allclose(system.restore(PICTURE, 30.0), by_hand(network, torch.tensor([30.0])), atol=1e-5)


def test_blind_restoration_is_that_of_the_library(tmp_path, save_network):
    """The estimated level, held to the trained ones, gives what network and estimator give by hand."""
    network = save_network(tmp_path / "model", "ffdnet", trained_for={"levels": [5, 30]}, width=8, layers=3)
    estimator = save_network(tmp_path / "estimator", "level_estimator", width=4)
    torch.nn.init.constant_(estimator.linear[-1].bias, 20.0)
    save_model(tmp_path / "estimator", estimator, load_card(tmp_path / "estimator"))
    system = load_system(tmp_path / "model")
    (level,) = Asking(estimate=load_estimator(tmp_path / "estimator")).of(system, PROTOCOLS["awgn"], 25, PICTURE)
    assert 5 < level < 30
    expected = by_hand(lambda image: network(image, estimator(image).clamp(5, 30)))
    np.testing.assert_allclose(system.restore(PICTURE, level), expected, atol=1e-5)


def test_a_served_model_runs_as_served(tmp_path):
    """By itself or inside a package, at a level where it has them; it rounds its input to 8 bits."""
    write_tiny_model(tmp_path / "serving", levels=LevelRange(kind="sigma", lowest=0, highest=50, default=10))
    for folder in (tmp_path, tmp_path / "serving"):
        system = load_system(folder)
        expected = convolve(to_8_bit(PICTURE), BLUR, 20)
        np.testing.assert_array_equal(to_8_bit(system.restore(PICTURE, 20)), expected)
    with pytest.raises(ConfigError, match="as its own plan says"):
        load_system(tmp_path, self_ensemble=True)


@pytest.mark.parametrize("kind", ["sigma", "quality"])
def test_a_served_model_is_told_levels_of_its_kind(tmp_path, kind):
    """One of JPEG quality is given the quality under `jpeg`, and its default under noise; one of sigma the reverse."""
    write_tiny_model(tmp_path, levels=LevelRange(kind=kind, lowest=10, highest=50, default=30))
    system = load_system(tmp_path)
    told = [Asking().of(system, PROTOCOLS[name], 15.0, PICTURE) for name in ("jpeg", "awgn")]
    assert told == ([[15], [30]] if kind == "quality" else [[30], [15]])


def test_a_folder_without_a_model_is_refused(tmp_path):
    """The message names what was looked for."""
    with pytest.raises(ModelMissingError, match=r"serving\.json"):
        load_system(tmp_path)


def test_a_network_that_restores_nothing_is_refused(tmp_path, save_network):
    """Neither a level estimator nor a network that enlarges is a system, and a denoiser is no estimator."""
    save_network(tmp_path / "estimator", "level_estimator", width=4)
    save_network(tmp_path / "larger", "cfsnet", width=8, blocks=1, scale=2)
    for name, level in [("estimator", None), ("larger", 25.0)]:
        with pytest.raises(ModelFormatError, match="not a restoration network"):
            load_system(tmp_path / name).restore(PICTURE, level)
    save_network(tmp_path / "denoiser", "dncnn", **DNCNN)
    with pytest.raises(ModelFormatError, match="dncnn"):
        load_estimator(tmp_path / "denoiser")


def test_gray_goes_through_colour_as_three_channels():
    """The mean of the three results counts; colour through a gray system is refused."""
    weights = np.array([0.5, 1.0, 3.0], np.float32)
    colour = System(name="colour", run=lambda image, level: image * weights)
    gray = PICTURE[..., :1]
    np.testing.assert_allclose(colour.restore(gray, None), gray * 1.5, rtol=1e-6)
    with pytest.raises(ConfigError, match="gray model"):
        System(name="gray", run=lambda image, level: image, channels=(1,)).restore(PICTURE, None)


def test_non_local_means_is_told_the_sigma():
    """The baseline on the 8-bit input."""
    expected = non_local_means(to_8_bit(PICTURE), 50)
    np.testing.assert_array_equal(to_8_bit(baseline("nlm").restore(PICTURE, 50)), expected)


def test_a_gray_estimator_refuses_colour(tmp_path, save_network):
    """On gray images it gives a level."""
    save_network(tmp_path / "estimator", "level_estimator", width=4, channels=1)
    estimate = load_estimator(tmp_path / "estimator")
    assert 0 <= estimate(PICTURE[..., :1]) <= 255
    with pytest.raises(ConfigError, match="gray estimator"):
        estimate(PICTURE)


def test_edge_fusion_takes_both_results(tmp_path, save_network):
    """Edges of the whole finished results of both decide, also where these are blended of tiles."""
    networks = [save_network(tmp_path / name, "dncnn", seed=seed, **DNCNN) for seed, name in enumerate("ab")]
    described = [{"architecture": "dncnn", "arguments": DNCNN}] * 2
    both = save_network(tmp_path / "both", "weighted_average", bases=described)
    for base, network in zip(both.bases, networks, strict=True):
        base.load_state_dict(network.state_dict())
    save_model(tmp_path / "both", both, load_card(tmp_path / "both"))
    fusion = EdgeFusion(smooth="b", detail="a", mask="xor", thresholds=(40, 90))
    plan = Inference(tile=32, halo=6, overlap=4, fusion=fusion)  # the halo is all that the networks see
    detail, smooth = map(by_hand, networks)
    expected = fuse_edges(smooth, detail, mask="xor", thresholds=(40, 90))
    np.testing.assert_allclose(run_whole(both, PICTURE, plan), expected, atol=1e-5)
    tiled = load_system(tmp_path / "both", inference=plan).restore(PICTURE, None)
    np.testing.assert_allclose(tiled, expected, atol=1e-5)
    assert np.abs(expected - (smooth + detail) / 2).max() > 0.01
