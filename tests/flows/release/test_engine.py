"""`relume export --backend tensorrt`: what is proved on any machine, and the engine where there is a GPU."""

import importlib.util
import json

import onnx
import pytest
import torch
from click.testing import CliRunner

from flows.release import engine
from relume import products
from relume.cli import main
from relume.errors import ParityError
from relume.params import PRECISION_LIMITS, PrecisionLimits
from relume.serving.levels import LevelRange
from relume.serving.tensorrt_engine import RECORD
from tests.tiny_onnx import BLUR, write_tiny_model

GPU = importlib.util.find_spec("tensorrt") is not None and torch.cuda.is_available()
ELSEWHERE = pytest.mark.skipif(GPU, reason="this machine has TensorRT and a GPU")


@ELSEWHERE
def test_without_tensorrt_the_graph_its_plan_and_its_proof_are_written(tmp_path):
    """Then the command says that TensorRT is missing, with exit code 2, and the report says no more than `emulated`."""
    levels = LevelRange(kind="sigma", lowest=0, highest=50, default=10)
    served = write_tiny_model(tmp_path / "served", levels=levels)
    command = ["export", "--backend", "tensorrt", "--model", str(served), "-o", str(tmp_path / "engine")]
    ended = CliRunner().invoke(main, command)
    assert ended.exit_code == 2
    assert "TensorRT is not installed here" in ended.output
    assert "it is the last one before the image" in ended.output
    report = json.loads((tmp_path / "engine" / "parity.json").read_text())
    assert (report["precision"], report["evidence"], len(report["pictures"])) == ("fp16", "emulated", 10)
    assert json.loads((tmp_path / "engine" / "precision_plan.json").read_text())["precision"] == "fp16"
    onnx.checker.check_model(str(tmp_path / "engine" / "model.onnx"), full_check=True)
    assert not (tmp_path / "engine" / RECORD).exists()


def test_a_graph_outside_of_its_limits_is_not_written(tmp_path):
    """The message names precision and evidence, and the other precision."""
    strict = PrecisionLimits(min_psnr=121, difference=0, within=1)
    served = write_tiny_model(tmp_path / "served", kernel=BLUR)
    with pytest.raises(ParityError, match="bf16, emulated") as refused:
        engine.export_engine(served, tmp_path / "engine", "bf16", strict, print)
    assert "--precision fp16" in refused.value.next_step
    assert not (tmp_path / "engine").exists()


@pytest.mark.skipif(not GPU, reason="needs TensorRT and a GPU")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_engine_runs_here_and_is_kept(precision, tmp_path):
    """It keeps the limits on the GPU, is not built a second time, and is built again when its file is another."""
    serving, lines = products.shipped("photo") / "serving", []
    first = engine.export_engine(serving, tmp_path, precision, PRECISION_LIMITS[precision], lines.append)
    assert json.loads((tmp_path / "parity.json").read_text())["evidence"] == f"run on {torch.cuda.get_device_name()}"
    assert first.ran
    assert engine.export_engine(serving, tmp_path, precision, PRECISION_LIMITS[precision], lines.append) == first
    assert "kept" in lines[-1]
    (tmp_path / "model.plan").write_bytes(b"another")
    engine.export_engine(serving, tmp_path, precision, PRECISION_LIMITS[precision], lines.append)
    assert any("not the file that was built" in line for line in lines)
