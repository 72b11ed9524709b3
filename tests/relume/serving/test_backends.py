"""The backends by name, and the probe for the fastest."""

import json

import numpy as np
import onnxruntime
import pytest

from relume import products
from relume.errors import BackendUnavailableError, BrokenFileError, ModelMissingError
from relume.serving.backends import RECORD, fastest_backends, measure_backends, open_backend
from tests.tiny_onnx import BLUR, SHARPEN, convolve, write_tiny_model

IMAGE = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino_f32"])
def test_a_backend_restores(backend, tmp_path):
    """What the model does, in numpy."""
    restored = open_backend(backend, write_tiny_model(tmp_path), release="tiny").restore(IMAGE)
    assert restored.release == "tiny"
    np.testing.assert_array_equal(restored.image, convolve(IMAGE, BLUR))


def test_pytorch_restores_from_the_weights(tmp_path):
    """Within one level of ONNX Runtime for 8 bits, within 1e-4 for float; without weights it says so."""
    serving = products.shipped("photo") / "serving"
    torch, onnx = open_backend("torch", serving), open_backend("onnxruntime", serving)
    assert np.abs(torch.restore(IMAGE).image.astype(int) - onnx.restore(IMAGE).image).max() <= 1
    deep = IMAGE / np.float32(255)
    np.testing.assert_allclose(torch.restore(deep).image, onnx.restore(deep).image, atol=1e-4)
    with pytest.raises(ModelMissingError, match="no weights"):
        open_backend("torch", write_tiny_model(tmp_path))


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it has CUDA")
@pytest.mark.parametrize(("backend", "needed"), [("cuda", "onnxruntime-gpu"), ("tensorrt", "tensorrt-cu12")])
def test_without_a_gpu_its_backends_are_refused(backend, needed, tmp_path):
    """They do not compute on the CPU without a word; the message says what there is here, and what to install."""
    with pytest.raises(BackendUnavailableError, match="CPUExecutionProvider") as caught:
        open_backend(backend, write_tiny_model(tmp_path))
    assert needed in str(caught.value)


def test_the_fastest_is_measured_once(tmp_path):
    """The record names the machine and the times of those that compute the same; a second call only reads it; another
    model is measured for itself; a damaged record is named."""
    served, home = write_tiny_model(tmp_path / "blur"), tmp_path / "home"
    home.mkdir()
    fastest, *others = fastest_backends(served, home)
    record = json.loads((home / RECORD).read_text())
    ((key, found),) = record.items()
    assert {"cpu", "cores", "versions", "model"} <= found.keys()
    assert {"onnxruntime", "openvino_f32"} <= found["milliseconds"].keys()
    assert found["milliseconds"][fastest] == min(found["milliseconds"].values())
    now = found["milliseconds"] | {others[-1]: 0.001}
    (home / RECORD).write_text(json.dumps({key: found | {"milliseconds": now}}))
    assert fastest_backends(served, home)[:2] == [others[-1], fastest]
    fastest_backends(write_tiny_model(tmp_path / "sharpen", kernel=SHARPEN), home)
    assert len(json.loads((home / RECORD).read_text())) == 2
    (home / RECORD).write_text("{")
    with pytest.raises(BrokenFileError):
        fastest_backends(served, home)


def test_a_backend_that_differs_is_not_chosen(tmp_path):
    """However fast it is: it has no time that could be the shortest."""
    blur = open_backend("onnxruntime", write_tiny_model(tmp_path / "blur"))
    sharpen = open_backend("openvino_f32", write_tiny_model(tmp_path / "sharpen", kernel=SHARPEN))
    assert measure_backends({"onnxruntime": blur, "openvino_f32": sharpen}).keys() == {"onnxruntime"}
