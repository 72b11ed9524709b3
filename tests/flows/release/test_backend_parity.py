"""The parity of a backend: what each limit refuses, and that the shipped network keeps them."""

import numpy as np
import pytest
import skimage.data

from flows.release.backend_parity import measure_backend, prove_backend, worst_images
from flows.release.served_parity import meeting
from relume import products
from relume.errors import ParityError
from relume.inference.plan import Inference
from relume.params import PrecisionLimits, load_params
from relume.serving.backends import open_backend
from relume.serving.openvino_restorer import fastest_precision
from tests.flows.release.synthetic import make_package, make_photographs
from tests.flows.release.test_gate import settings

PLAN = Inference(tile=64, halo=8, overlap=8)
LIMITS = PrecisionLimits(min_psnr=50, difference=2, within=0.999)
PHOTOGRAPH = skimage.data.astronaut()[:96, :96]


def changed(image, *, where, by):
    """Some values moved."""
    result = image.astype(int)
    result[where] += by
    return np.clip(result, 0, 255).astype(np.uint8)


def problems(image, found):
    """What the limits refuse of a result."""
    (measured,) = measure_backend(lambda _: image, lambda _: found, {"it": image}, PLAN, LIMITS)
    return " ".join(measured.problems(LIMITS))


def test_equal_results_have_no_problem():
    """On all images."""
    for image in worst_images(PHOTOGRAPH, side=96).values():
        assert problems(image, image) == ""


def test_each_limit_refuses_what_it_is_for():
    """One level everywhere shifts the colour; a few pixels are far off; errors along tile borders or in flat areas."""
    image = np.random.default_rng(0).integers(50, 200, (96, 96, 3), np.uint8)
    assert "mean error" in problems(image, image + 1)
    far = changed(image, where=np.s_[:5, :5], by=3)
    assert "of the pixels" in problems(image, far)
    assert "mean error" not in problems(image, far)
    signs = np.where(np.indices(image.shape).sum(axis=0) % 2, 1, -1)
    bands = meeting(image.shape, PLAN)
    assert 0 < bands.mean() < 0.5
    along = changed(image, where=bands, by=signs[bands])
    assert "tile borders" in problems(image, along)
    assert "flat" not in problems(image, along)
    half = image.copy()
    half[:48] = 117
    assert "flat areas" in problems(half, changed(half, where=np.s_[:48], by=signs[:48]))


def test_the_default_limits_are_those_of_the_issue():
    """float32: 60 dB and one level; bf16: 50 dB and 99.9 % within two levels; a mean error below 0.1."""
    limits = load_params().release.precision_parity
    assert (limits["f32"].min_psnr, limits["f32"].difference, limits["f32"].within) == (60, 1, 1)
    assert (limits["bf16"].min_psnr, limits["bf16"].difference, limits["bf16"].within) == (50, 2, 0.999)
    assert {each.mean_error for each in limits.values()} == {0.1}


@pytest.fixture(scope="module")
def by_pytorch():
    """Natural, dark, saturated, flat and noisy images larger than a tile, and what PyTorch makes of them by `photo`."""
    restorer = open_backend("torch", products.shipped("photo") / "serving")
    images = worst_images(skimage.data.astronaut(), side=528)
    return images, {image.tobytes(): restorer.restore(image).image for image in images.values()}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino_f32", "openvino_bf16"])
def test_photo_keeps_the_limits_against_pytorch(backend, by_pytorch):
    """Each image by itself, with the limits of params.yaml."""
    if backend == "openvino_bf16" and fastest_precision() == "f32":
        pytest.skip("this CPU does not compute in bfloat16")
    serving = products.shipped("photo") / "serving"
    limits = load_params().release.precision_parity["bf16" if backend == "openvino_bf16" else "f32"]
    restorer, (images, expected) = open_backend(backend, serving), by_pytorch
    found = measure_backend(
        lambda image: expected[image.tobytes()],
        lambda image: restorer.restore(image).image,
        images,
        restorer.inference,
        limits,
    )
    for measured in found:
        assert not measured.problems(limits), measured


def test_a_backend_outside_of_its_limits_is_refused(tmp_path):
    """The message names the backend, the image and the limit, and what serves instead."""
    package = make_package(tmp_path / "p")
    photographs = make_photographs(tmp_path / "held_out")
    assert len(prove_backend(package.folder / "serving", "openvino_f32", photographs, settings())) == 5
    strict = {"f32": PrecisionLimits(min_psnr=121, difference=1, within=1)}
    with pytest.raises(ParityError, match="openvino_f32") as refused:
        prove_backend(package.folder / "serving", "openvino_f32", photographs, settings(precision_parity=strict))
    assert "121" in str(refused.value.why)
    assert "release.backend" in refused.value.next_step
