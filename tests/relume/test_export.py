"""The exported file computes what PyTorch computes, and is the same file each time."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from relume.export import ServedNetwork, export_onnx, measure_parity, parity_report
from relume.models.registry import build

TILE = 32


@pytest.fixture(scope="module")
def network():
    """A small ensemble of both base families with random weights that change pictures visibly."""
    torch.manual_seed(1)
    bases = [
        {
            "architecture": "nafnet",
            "arguments": {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]},
        },
        {
            "architecture": "restormer",
            "arguments": {"width": 4, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 1, 1, 1]},
        },
    ]
    network = build("ensemble", {"bases": bases, "head": {"width": 4, "blocks": 1}})
    for name, parameter in network.named_parameters():
        if any(part in name for part in ("beta", "gamma", "ending", "output")):
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The ONNX file."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(network, path, tile=TILE)
    return path


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_runtime_equals_pytorch(network, exported, batch):
    """For any batch the 8-bit results differ by at most one level, and they are no copy of the input."""
    tiles = np.random.default_rng(batch).integers(0, 256, (batch, 3, TILE, TILE), np.uint8)
    restored = onnxruntime.InferenceSession(exported).run(["restored"], {"image": tiles})[0]
    with torch.inference_mode():
        expected = ServedNetwork(network)(torch.from_numpy(tiles)).numpy()
    difference = np.abs(restored.astype(int) - expected)
    assert restored.dtype == np.uint8
    assert difference.max() <= 1
    assert difference.mean() < 0.01
    assert np.abs(restored.astype(int) - tiles).mean() > 1


def test_the_file_is_the_same_each_time_and_names_no_place(network, exported, tmp_path):
    """A second export has the same bytes; no node holds a source path, stack trace or metadata."""
    export_onnx(network, tmp_path / "again.onnx", tile=TILE)
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()
    model = onnx.load(exported)
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert b".py" not in exported.read_bytes()


def test_values_are_clamped_and_rounded_not_wrapped():
    """A network that brightens beyond white gives white, and 0.5 of a level rounds as in PyTorch."""

    class Brighten(torch.nn.Module):
        def forward(self, image):
            return image * 1.5 - 0.1

    tiles = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    restored = ServedNetwork(Brighten())(tiles).numpy().ravel()
    expected = np.rint(np.clip(np.arange(256, dtype=np.float32) / 255 * 1.5 - 0.1, 0, 1) * 255)
    assert np.abs(restored - expected).max() <= 1
    assert restored[-1] == 255
    assert restored[0] == 0


def test_parity_is_measured_in_levels_decibels_and_the_worst_tile():
    """One wrong pixel of 5 levels in the second of two tiles: all three figures follow by hand."""
    first = np.zeros((8, 16, 3), np.uint8)
    second = first.copy()
    second[2, 12] = 5
    parity = measure_parity("p", first, second, tile=8)
    assert parity.max_difference == 5
    assert parity.psnr == round(10 * np.log10(255**2 / (25 * 3 / (8 * 16 * 3))), 2)
    assert parity.worst_tile == round(5 / 64, 4)
    assert not parity_report([parity], min_psnr=10, max_difference=1)["passed"]
    assert parity_report([parity], min_psnr=10, max_difference=5)["passed"]
