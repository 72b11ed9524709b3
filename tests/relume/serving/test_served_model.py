"""The folder of a served model, its configuration, and running it in process."""

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.files import sha256_folder, write_json
from relume.serving.config_pbtxt import product_config, release_config
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.served_model import Serving, onnx_path, read_serving, write_served_model
from tests.tiny_onnx import BLUR, convolve, write_onnx, write_tiny_model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A served model that blurs."""
    return write_tiny_model(tmp_path_factory.mktemp("served"))


@pytest.mark.parametrize("size", [(32, 32), (5, 70), (100, 75)])
def test_restores_in_process(served, size):
    """The model in process gives what the same convolution in numpy gives; away from reflected borders, exactly."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    restored = OnnxRestorer(served, threads=1).restore(image)
    valid = tuple(slice(0, side if side >= 32 else side - 1) for side in size)
    np.testing.assert_array_equal(restored[valid], convolve(image, BLUR)[valid])


def test_files_are_deterministic(served, tmp_path):
    """The same ONNX file gives the same served model, byte for byte."""
    write_served_model(onnx_path(served), tmp_path, read_serving(served))
    assert sha256_folder(tmp_path) == sha256_folder(served, exclude=("source.onnx",))


def test_release_config_is_what_triton_reads():
    """Triton's own parser reads the configuration of a release: tensors, warm-up, queue policy, parameters."""
    config = text_format.Parse(release_config(tile=64, halo=8), ModelConfig())
    assert config.backend == "python"
    assert list(config.input[0].dims) == list(config.output[0].dims) == [3, 64, 64]
    assert config.max_batch_size == 8
    assert config.model_warmup[0].batch_size == 1
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    assert config.parameters["halo"].string_value == "8"
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert not config.name


def test_production_config_differs_in_its_backend_alone():
    """For production the same release runs in Triton's onnxruntime backend, with the same tensors and policies."""
    embedded = text_format.Parse(release_config(tile=64, halo=8), ModelConfig())
    production = text_format.Parse(release_config(tile=64, halo=8, backend="onnxruntime"), ModelConfig())
    assert production.backend == "onnxruntime"
    for field in ("backend", "instance_group"):
        embedded.ClearField(field)
        production.ClearField(field)
    assert production == embedded


def test_product_config_points_to_the_release():
    """A product is an ensemble of one step, whose tensors are passed through under their own names."""
    config = text_format.Parse(product_config(release="denoise-1", tile=64), ModelConfig())
    (step,) = config.ensemble_scheduling.step
    assert (step.model_name, dict(step.input_map), dict(step.output_map)) == (
        "denoise-1",
        {"image": "image"},
        {"restored": "restored"},
    )


@pytest.mark.parametrize("missing", ["serving.json", "config.pbtxt", "model.onnx", "model.py"])
def test_incomplete_model(served, tmp_path, missing):
    """A folder without one of a served model's files is refused, with the file and the command that makes it."""
    write_served_model(onnx_path(served), tmp_path, read_serving(served))
    next(tmp_path.rglob(missing)).unlink()
    with pytest.raises(ModelMissingError, match=rf"{missing} is missing[\s\S]*dvc repro export"):
        OnnxRestorer(tmp_path)


def test_unknown_serving_keys(served, tmp_path):
    """A serving.json with another key is refused and the key is named."""
    write_served_model(onnx_path(served), tmp_path, read_serving(served))
    write_json(tmp_path / "serving.json", {"tile": 32, "halo": 2, "stride": 7})
    with pytest.raises(ModelFormatError, match="stride"):
        read_serving(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an onnx file" * 20])
def test_broken_onnx_file(served, tmp_path, content):
    """An ONNX file that cannot be read is refused by name."""
    write_served_model(onnx_path(served), tmp_path, read_serving(served))
    onnx_path(tmp_path).write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"model\.onnx"):
        OnnxRestorer(tmp_path)


def test_tensors_of_another_size(tmp_path):
    """An ONNX file with other tensors than serving.json says is refused with both shapes."""
    write_onnx(tmp_path / "other.onnx", tile=48, kernel=BLUR)
    write_served_model(tmp_path / "other.onnx", tmp_path, Serving(tile=32, halo=2))
    with pytest.raises(ModelFormatError, match=r"48, 48.*32, 32"):
        OnnxRestorer(tmp_path)


def test_impossible_halo_is_not_written(tmp_path):
    """A model whose halo does not fit its tile is refused before a file is written."""
    with pytest.raises(ConfigError):
        write_served_model(tmp_path / "any.onnx", tmp_path / "served", Serving(tile=32, halo=15))
    assert not (tmp_path / "served").exists()
