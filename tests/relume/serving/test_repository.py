"""The model repository: releases that never change and products that point to one."""

import dataclasses
import shutil

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from relume.errors import EngineError, ModelMissingError, ReleaseError
from relume.files import sha256_folder
from relume.serving import tensorrt_engine
from relume.serving.levels import LevelRange
from relume.serving.repository import (
    backend_of_release,
    products,
    publish_release,
    releases,
    remove_product,
    remove_release,
    write_product,
)
from relume.serving.route import Route
from relume.serving.served_model import triton_model
from relume.serving.tensorrt_engine import GRAPH, Machine, engine_key, write_engine
from tests.tiny_onnx import SHARPEN, write_tiny_model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A served model."""
    return write_tiny_model(tmp_path_factory.mktemp("served"))


@pytest.fixture
def repository(tmp_path, served):
    """A repository with the releases denoise-1 and denoise-2."""
    for release in ("denoise-1", "denoise-2"):
        publish_release(served, tmp_path / "models", release)
    return tmp_path / "models"


def test_publish(repository, served):
    """A published release holds the bytes of the served model and an empty file that keeps byte code away; nothing else
    is left in the repository."""
    assert (repository / "denoise-1" / "1" / "__pycache__").read_bytes() == b""
    published = sha256_folder(repository / "denoise-1", exclude=("1/__pycache__",))
    assert published == sha256_folder(triton_model(served))
    assert sorted(path.name for path in repository.iterdir()) == ["denoise-1", "denoise-2"] == releases(repository)


@pytest.mark.parametrize("backend", ["openvino_f32", "openvino_bf16", "triton_onnxruntime", "triton_tensorrt"])
def test_publish_for_another_backend(repository, served, backend):
    """The ONNX file is the served model's; Triton's own parser reads the configuration, which names the same tensors
    and parameters and no warm-up; there is a model.py only for the python backend. The name keeps its backend."""
    folder = publish_release(served, repository, "denoise-3", backend=backend)
    usual = text_format.Parse((repository / "denoise-1" / "config.pbtxt").read_text(), ModelConfig())
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    python = backend.startswith("openvino")
    assert config.backend == ("python" if python else "onnxruntime")
    assert (folder / "1" / "model.py").exists() == python
    assert (folder / "1" / "model.onnx").read_bytes() == (triton_model(served) / "1" / "model.onnx").read_bytes()
    kind = {"triton_onnxruntime": ModelInstanceGroup.KIND_AUTO, "triton_tensorrt": ModelInstanceGroup.KIND_GPU}
    assert [group.kind for group in config.instance_group] == [kind.get(backend, ModelInstanceGroup.KIND_CPU)]
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [each.name for each in accelerators] == (["tensorrt"] if backend == "triton_tensorrt" else [])
    assert not config.model_warmup
    for field in ("input", "output", "max_batch_size"):
        assert getattr(config, field) == getattr(usual, field)
    assert config.HasField("dynamic_batching") == (not python)
    assert set(usual.parameters) == set(config.parameters) - {"precision"}
    assert backend_of_release(repository, "denoise-3") == backend
    assert (backend_of_release(repository, "denoise-1"), backend_of_release(repository, "none")) == ("onnxruntime",) * 2
    publish_release(served, repository, "denoise-3", backend=backend)
    with pytest.raises(ReleaseError, match="never changed, neither its model nor its backend"):
        publish_release(served, repository, "denoise-3")


def test_a_plan_is_published_where_its_engine_ran(repository, served, tmp_path, monkeypatch):
    """Triton's own parser reads its configuration, which names the engine for its compute capability and the tensors of
    the model; without an engine, or on another GPU, nothing is written."""
    here = Machine(tensorrt="11.4", gpu="NVIDIA H100", compute_capability="9.0")
    monkeypatch.setattr(tensorrt_engine, "machine", lambda: here)
    with pytest.raises(EngineError, match="There is no engine"):
        publish_release(served, repository, "denoise-3", backend="tensorrt_plan", engine=tmp_path / "engine")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / GRAPH).write_bytes(b"graph")
    write_engine(tmp_path / "engine", b"engine", engine_key(served, b"graph", here), milliseconds=1)
    folder = publish_release(served, repository, "denoise-3", backend="tensorrt_plan", engine=tmp_path / "engine")
    usual = text_format.Parse((repository / "denoise-1" / "config.pbtxt").read_text(), ModelConfig())
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    assert dict(config.cc_model_filenames) == {"9.0": "model.plan"}
    assert [(each.kind, list(each.profile)) for each in config.instance_group] == [(ModelInstanceGroup.KIND_GPU, ["0"])]
    for field in ("input", "output", "max_batch_size", "parameters"):
        assert getattr(config, field) == getattr(usual, field)
    assert (folder / "1" / "model.plan").read_bytes() == b"engine"
    assert not (folder / "1" / "model.py").exists()
    assert backend_of_release(repository, "denoise-3") == "tensorrt_plan"
    monkeypatch.setattr(tensorrt_engine, "machine", lambda: dataclasses.replace(here, gpu="NVIDIA H200"))
    with pytest.raises(EngineError, match="gpu is NVIDIA H100, needed is NVIDIA H200"):
        publish_release(served, repository, "denoise-4", backend="tensorrt_plan", engine=tmp_path / "engine")
    assert releases(repository) == ["denoise-1", "denoise-2", "denoise-3"]


def test_publish_again(repository, served):
    """The same release published again changes nothing, but byte code, which Python would run, is not kept."""
    before = (repository / "denoise-1" / "1" / "model.onnx").stat().st_mtime_ns
    place = repository / "denoise-1" / "1" / "__pycache__"
    place.unlink()
    place.mkdir()  # of a relume before there was the empty file
    (place / "model.pyc").write_bytes(b"left by the server, or planted")
    publish_release(served, repository, "denoise-1")
    assert (repository / "denoise-1" / "1" / "model.onnx").stat().st_mtime_ns == before
    assert place.read_bytes() == b""
    elsewhere = repository / "denoise-1" / "__pycache__"
    elsewhere.mkdir()
    (elsewhere / "model.pyc").write_bytes(b"planted")
    with pytest.raises(ReleaseError, match="never changed"):
        publish_release(served, repository, "denoise-1")


def test_publish_another_model_under_a_used_name(repository, tmp_path):
    """A release's name is never given to other bytes."""
    other = write_tiny_model(tmp_path / "other", kernel=SHARPEN)
    before = sha256_folder(repository / "denoise-1")
    with pytest.raises(ReleaseError, match="never changed"):
        publish_release(other, repository, "denoise-1")
    assert sha256_folder(repository / "denoise-1") == before


@pytest.mark.parametrize("name", ["../denoise", ".hidden", "", "De noise"])
def test_publish_under_an_impossible_name(repository, served, name):
    """A name that is no plain folder name is refused."""
    with pytest.raises(ReleaseError):
        publish_release(served, repository, name)


def test_interrupted_publish(repository, served, monkeypatch):
    """A copy that breaks off leaves neither the release nor anything that Triton would take for one."""

    def breaks_off(source, target, **options):
        shutil.copyfile(served / "serving.json", target / "half")
        raise OSError("disk full")

    monkeypatch.setattr(shutil, "copytree", breaks_off)
    with pytest.raises(OSError, match="disk full"):
        publish_release(served, repository, "denoise-3")
    assert sorted(path.name for path in repository.iterdir()) == ["denoise-1", "denoise-2"]


def test_product_points_to_a_release(repository):
    """A product points to the release written last, and is no release itself."""
    write_product(repository, "denoise", Route(champion="denoise-1"))
    write_product(repository, "denoise", Route(champion="denoise-2"))
    assert products(repository) == {"denoise": Route(champion="denoise-2")}
    assert releases(repository) == ["denoise-1", "denoise-2"]


def test_a_product_with_a_candidate(repository):
    """What it was given is read back; the candidate cannot be removed, nor be one that is not there."""
    route = Route(champion="denoise-1", candidate="denoise-2", canary=2.5, shadow=10)
    write_product(repository, "denoise", route)
    assert products(repository) == {"denoise": route}
    with pytest.raises(ReleaseError, match="in use"):
        remove_release(repository, "denoise-2")
    with pytest.raises(ModelMissingError, match="denoise-9"):
        write_product(repository, "denoise", Route(champion="denoise-1", candidate="denoise-9"))
    write_product(repository, "denoise", Route(champion="denoise-1"))
    assert products(repository) == {"denoise": Route(champion="denoise-1")}


def test_product_of_an_adjustable_release(repository, tmp_path):
    """A product asks for a level while its release does."""
    levels = LevelRange(kind="sigma", lowest=0, highest=50, default=25)
    publish_release(write_tiny_model(tmp_path / "adjustable", levels=levels), repository, "denoise-3")
    for release, inputs in [("denoise-3", ["image", "level"]), ("denoise-1", ["image"])]:
        write_product(repository, "denoise", Route(champion=release))
        config = text_format.Parse((repository / "denoise" / "config.pbtxt").read_text(), ModelConfig())
        assert [tensor.name for tensor in config.input] == inputs
        assert sorted(config.ensemble_scheduling.step[0].input_map) == inputs


def test_product_of_a_missing_release(repository):
    """A product cannot point to a release that is not there; it goes on pointing to what it did."""
    write_product(repository, "denoise", Route(champion="denoise-1"))
    with pytest.raises(ModelMissingError, match="denoise-9"):
        write_product(repository, "denoise", Route(champion="denoise-9"))
    assert products(repository) == {"denoise": Route(champion="denoise-1")}


def test_product_with_the_name_of_a_release(repository):
    """A product cannot overwrite a release."""
    with pytest.raises(ReleaseError):
        write_product(repository, "denoise-1", Route(champion="denoise-2"))


def test_remove(repository):
    """A release in use stays; out of use it goes, whole."""
    write_product(repository, "denoise", Route(champion="denoise-1"))
    with pytest.raises(ReleaseError, match="in use"):
        remove_release(repository, "denoise-1")
    remove_product(repository, "denoise")
    remove_release(repository, "denoise-1")
    assert sorted(path.name for path in repository.iterdir()) == ["denoise-2"]
