"""Releases for several backends, served side by side by one real Triton server."""

import numpy as np
import pytest
import skimage.data

from relume import products
from relume.errors import ReleaseError
from relume.serving.backends import open_backend
from relume.serving.levels import LevelRange
from relume.serving.openvino_restorer import fastest_precision
from relume.serving.repository import backend_of_release, publish_release
from relume.serving.triton_client import TritonRestorer
from tests.tiny_onnx import BLUR, convolve, write_onnx, write_tiny_model

BACKENDS = ["onnxruntime", "openvino_f32", *(["openvino_bf16"] if fastest_precision() == "bf16" else [])]


def test_backends_serve_side_by_side(server, control):
    """A shipped model, released for each backend: each answer is that of the same backend in process within one level,
    and bf16 is another than f32."""
    image, serving = skimage.data.astronaut()[:200, :300], products.shipped("photo") / "serving"
    for backend in BACKENDS:
        publish_release(serving, server.repository, f"photo-{backend}", backend=backend)
        assert backend_of_release(server.repository, f"photo-{backend}") == backend
        control.load_release(f"photo-{backend}")
    found = {}
    for backend in BACKENDS:
        with TritonRestorer(server.grpc, f"photo-{backend}", timeout=60) as restorer:
            found[backend] = restorer.restore(image).image
        here = open_backend(backend, serving).restore(image).image
        assert np.abs(found[backend].astype(int) - here).max() <= 1
    assert np.abs(found["openvino_f32"].astype(int) - found["onnxruntime"]).max() <= 1
    if "openvino_bf16" in found:
        assert (found["openvino_bf16"] != found["openvino_f32"]).mean() > 0.01


def test_tiles_of_a_request_keep_their_levels(server, control, tmp_path):
    """Of an adjustable model each tile of a batch is restored at its own level by OpenVINO."""
    levels = LevelRange(kind="sigma", lowest=0, highest=50, default=10)
    publish_release(
        write_tiny_model(tmp_path, levels=levels), server.repository, "levels-openvino", backend="openvino_f32"
    )
    control.load_release("levels-openvino")
    image = np.random.default_rng(1).integers(60, 200, (70, 40, 3), np.uint8)
    with TritonRestorer(server.grpc, "levels-openvino") as restorer:
        for level in (0, 30):
            np.testing.assert_array_equal(restorer.restore(image, level=level).image, convolve(image, BLUR, level))


def test_other_tensors_than_the_configuration_says_are_refused(server, control, tmp_path):
    """OpenVINO's model is compared with config.pbtxt as ONNX Runtime's is, and the load is refused with both."""
    served = write_tiny_model(tmp_path)
    write_onnx(served / "triton" / "model" / "1" / "model.onnx", tile=48, kernel=BLUR)
    publish_release(served, server.repository, "wrong-tile", backend="openvino_f32")
    with pytest.raises(ReleaseError, match=r"config\.pbtxt says"):
        control.load_release("wrong-tile")
