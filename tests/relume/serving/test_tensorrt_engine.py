"""Engines: for what one is valid, and what is refused. What needs TensorRT is in tests/flows/release/test_engine.py."""

import dataclasses
import importlib.util

import pytest

from relume.errors import BackendUnavailableError, EngineError
from relume.files import write_json
from relume.serving.tensorrt_engine import (
    ENGINE,
    RECORD,
    EngineKey,
    Machine,
    engine_key,
    machine,
    read_engine,
    require_engine,
    write_engine,
)
from tests.tiny_onnx import SHARPEN, write_tiny_model

HERE = Machine(tensorrt="11.4.0.106", gpu="NVIDIA H100", compute_capability="9.0")
KEY = EngineKey(onnx="a" * 64, graph="b" * 64, tile=512, **dataclasses.asdict(HERE))


@pytest.fixture
def folder(tmp_path):
    """A folder with an engine for `KEY`."""
    write_engine(tmp_path, b"engine", KEY, milliseconds=1.5)
    return tmp_path


def test_an_engine_is_read_where_it_is_valid(folder):
    """With the key that it was written for, and the time that was measured."""
    assert read_engine(folder, KEY).milliseconds == 1.5


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"onnx": "c" * 64}, "onnx is a{16}, needed is c{16}"),
        ({"graph": "c" * 64}, "graph is b{16}, needed is c{16}"),
        ({"tile": 256}, "tile is 512, needed is 256"),
        ({"batches": (1, 1, 1)}, r"batches is \(1, 4, 8\), needed is \(1, 1, 1\)"),
        ({"tensorrt": "10.16.1"}, "tensorrt is 11.4.0.106, needed is 10.16.1"),
        ({"gpu": "NVIDIA L4", "compute_capability": "8.9"}, "gpu is NVIDIA H100, .* compute_capability is 9.0"),
    ],
)
def test_another_key_is_refused_with_the_reason(folder, changed, why):
    """Whatever of it differs."""
    with pytest.raises(EngineError, match=why):
        read_engine(folder, dataclasses.replace(KEY, **changed))


def test_what_did_not_run_or_is_damaged_is_refused(folder, tmp_path):
    """An engine that never ran, one whose file is another, a record that is damaged, and none at all."""
    record = read_engine(folder, KEY)
    write_json(folder / RECORD, dataclasses.asdict(dataclasses.replace(record, ran=False)))
    with pytest.raises(EngineError, match="never ran"):
        read_engine(folder, KEY)
    write_json(folder / RECORD, dataclasses.asdict(record))
    (folder / ENGINE).write_bytes(b"engin")
    with pytest.raises(EngineError, match="not the file that was built"):
        read_engine(folder, KEY)
    (folder / RECORD).write_text("{}")
    with pytest.raises(EngineError, match="damaged"):
        read_engine(folder, KEY)
    with pytest.raises(EngineError, match="There is no engine"):
        read_engine(tmp_path / "nothing", KEY)


def test_the_key_names_model_graph_and_machine(tmp_path):
    """Another model, another graph of it, and another machine each give another key."""
    served, other = write_tiny_model(tmp_path / "one"), write_tiny_model(tmp_path / "other", kernel=SHARPEN)
    key = engine_key(served, b"graph", HERE)
    assert (key.tile, key.gpu, key.tensorrt) == (32, HERE.gpu, HERE.tensorrt)
    assert key == engine_key(served, b"graph", HERE)
    elsewhere = dataclasses.replace(HERE, gpu="NVIDIA H200")
    others = [
        engine_key(other, b"graph", HERE),
        engine_key(served, b"g", HERE),
        engine_key(served, b"graph", elsewhere),
    ]
    assert len({key, *others}) == 4


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_nothing_is_valid(tmp_path):
    """The message says that it is not installed."""
    with pytest.raises(BackendUnavailableError, match="TensorRT is not installed"):
        machine()
    with pytest.raises(BackendUnavailableError, match="TensorRT is not installed"):
        require_engine(write_tiny_model(tmp_path), tmp_path)
