"""The models that ship: whole, small, documented, computed alike by every runtime, and worth something."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from reference import ship
from relume import products
from relume.errors import ModelMissingError
from relume.files import sha256_file
from relume.images import decode, read_image
from relume.ingestion.debian import read_catalogue
from relume.metrics import psnr
from relume.models.artifact import load_card
from relume.reading import read_json
from relume.serving.openvino_restorer import OpenVinoRestorer
from relume.serving.served_model import onnx_path

SETS = Path(__file__).parents[4] / "shared" / "data" / "test"
POLYU = ("Canon5D2_5_200_3200_fruit_11", "Canon80D_8_8_6400_comproom_13", "Canon600D_4-5_125_1600_book_11")


@pytest.mark.parametrize("name", products.names())
def test_a_product_is_whole_and_small(name):
    """At most 5 MB of weights; a card that names its photographs; the last run has these weights."""
    folder, weights = products.shipped(name), products.shipped(name) / "model.safetensors"
    assert weights.stat().st_size <= 5e6
    card = (folder / "README.md").read_text()
    assert all(photograph.title in card for photograph in read_catalogue())
    runs = sorted((Path(ship.__file__).parent / "runs").glob(f"{name}-*.json"))
    last = read_json(runs[-1])
    assert last["data_sha256"] == load_card(folder).provenance["data_sha256"]
    assert last["weights_sha256"] == sha256_file(weights)


@pytest.mark.parametrize("name", products.names())
def test_every_runtime_computes_the_same(name):
    """ONNX Runtime and OpenVINO in f32 are within one 8-bit level of PyTorch, bf16 within its own limits."""
    assert set(ship.parity(products.shipped(name))) == set(ship.LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize("name", products.names())
def test_the_served_model_is_that_of_the_weights(name, tmp_path):
    """Exporting the weights again gives the ONNX file that ships, byte for byte."""
    ship.ship(products.shipped(name), tmp_path / name)
    assert (
        onnx_path(tmp_path / name / "serving").read_bytes()
        == onnx_path(products.FOLDER / name / "serving").read_bytes()
    )


def test_an_unknown_product_names_its_neighbour():
    """The error names the nearest product and all that there are."""
    with pytest.raises(ModelMissingError, match="did you mean photo"):
        products.shipped("phot")


@pytest.mark.skipif(not SETS.is_dir(), reason="the benchmark sets are not on this machine")
def test_photo_gains_on_real_noise_and_keeps_clean_images():
    """At least +1 dB in the mean of three PolyU pairs that chose nothing, none lost; clean Kodak images keep 35 dB."""
    restorer = OpenVinoRestorer(products.shipped("photo") / "serving")
    gains = []
    for name in POLYU:
        noisy, clean = (read_image(SETS / "polyu_dev" / side / f"{name}.jpg").pixels for side in ("noisy", "clean"))
        gains.append(psnr(restorer.restore(noisy).image, clean) - psnr(noisy, clean))
    assert min(gains) > 0
    assert np.mean(gains) > 1
    for path in sorted((SETS / "kodak24").iterdir())[:3]:
        clean = read_image(path).pixels
        assert psnr(restorer.restore(clean).image, clean) > 35


@pytest.mark.skipif(not SETS.is_dir(), reason="the benchmark sets are not on this machine")
def test_denoise_adjustable_denoises_at_the_stated_level():
    """On three Kodak images at sigma 25 at least 30 dB; given a tenth of the level it takes 3 dB less noise away."""
    restorer = OpenVinoRestorer(products.shipped("denoise_adjustable") / "serving")
    stated, understated = [], []
    for number, path in enumerate(sorted((SETS / "kodak24").iterdir())[:3]):
        clean = read_image(path).pixels
        noise = np.random.default_rng(number).normal(0, 25, clean.shape)
        noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
        stated.append(psnr(restorer.restore(noisy, level=25).image, clean))
        understated.append(psnr(restorer.restore(noisy, level=2.5).image, clean))
    assert np.mean(stated) > 30
    assert np.mean(understated) < np.mean(stated) - 3


@pytest.mark.skipif(not SETS.is_dir(), reason="the benchmark sets are not on this machine")
def test_base_is_better_than_the_smaller_network():
    """On three Kodak images at sigma 15 and 50, by 0.03 dB at least."""
    gains: dict[int, list[float]] = {15: [], 50: []}
    restorers = [OpenVinoRestorer(products.shipped(name) / "serving") for name in ("base", "denoise_adjustable")]
    for number, path in enumerate(sorted((SETS / "kodak24").iterdir())[:3]):
        clean = read_image(path).pixels
        for sigma, values in gains.items():
            noise = np.random.default_rng(number).normal(0, sigma, clean.shape)
            noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
            larger, smaller = (psnr(each.restore(noisy, level=sigma).image, clean) for each in restorers)
            values.append(larger - smaller)
    assert np.mean(gains[15]) > 0.03
    assert np.mean(gains[50]) > 0.03


@pytest.mark.skipif(not SETS.is_dir(), reason="the benchmark sets are not on this machine")
def test_denoise_needs_no_level():
    """On three Kodak images at sigma 15, 25 and 50, blind, at least 32, 30 and 26.5 dB; a clean image keeps 35 dB."""
    restorer = OpenVinoRestorer(products.shipped("denoise") / "serving")
    found: dict[int, list[float]] = {0: [], 15: [], 25: [], 50: []}
    for number, path in enumerate(sorted((SETS / "kodak24").iterdir())[:3]):
        clean = read_image(path).pixels
        for sigma, values in found.items():
            noise = np.random.default_rng(number).normal(0, sigma, clean.shape)
            noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
            values.append(psnr(restorer.restore(noisy).image, clean))
    assert np.mean(found[15]) > 32
    assert np.mean(found[25]) > 30
    assert np.mean(found[50]) > 26.5
    assert np.mean(found[0]) > 35


@pytest.mark.skipif(not SETS.is_dir(), reason="the benchmark sets are not on this machine")
def test_dejpeg_gains_at_every_quality():
    """On three Kodak images at quality 10, 50 and 90 at least 0.8, 0.6 and 0.3 dB; at 95 nothing is lost."""
    restorer = OpenVinoRestorer(products.shipped("dejpeg") / "serving")
    gains: dict[int, list[float]] = {10: [], 50: [], 90: [], 95: []}
    for path in sorted((SETS / "kodak24").iterdir())[:3]:
        clean = read_image(path).pixels
        for quality, values in gains.items():
            saved = decode(
                cv2.imencode(".jpg", clean[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            ).pixels
            values.append(psnr(restorer.restore(saved).image, clean) - psnr(saved, clean))
    assert np.mean(gains[10]) > 0.8
    assert np.mean(gains[50]) > 0.6
    assert np.mean(gains[90]) > 0.3
    assert np.mean(gains[95]) > 0
