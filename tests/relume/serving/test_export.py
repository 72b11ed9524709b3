"""The exported file computes what PyTorch computes, and is the same file each time."""

from dataclasses import astuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from relume.errors import ModelFormatError
from relume.evaluation.networks import at_level, tiled
from relume.inference.plan import Inference
from relume.models.artifact import ModelCard
from relume.models.registry import build, variants
from relume.serving.export import (
    ServedNetwork,
    export_level_estimator,
    export_onnx,
    levels_of,
    measure_parity,
    parity_report,
    to_onnx,
)
from relume.serving.in_process import open_level_estimator
from relume.serving.levels import LevelRange
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.served_model import Serving, onnx_path, write_served_model

TILE = 32
INFERENCE = Inference(tile=TILE, halo=4, overlap=2)
LEVELS = LevelRange(kind="sigma", lowest=15, highest=75, default=45)


@pytest.fixture(scope="module")
def network():
    """A small ensemble of both base families with random weights that change images visibly."""
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


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_simplifying_is_the_exporters_own():
    """Without the rule that pairs slices, the nodes and their connections are those of the exporter's `optimize`."""
    network = build("nafnet", {"width": 4, "encoder_blocks": [1], "middle_blocks": 0, "decoder_blocks": [0]}).eval()
    image = torch.rand(1, 3, 16, 16)

    def nodes(program):
        return [(node.op_type, list(node.input), list(node.output)) for node in program.model_proto.graph.node]

    theirs = torch.onnx.export(
        network,
        (image,),
        dynamo=True,
        opset_version=20,
        input_names=["image"],
        output_names=["restored"],
        verbose=False,
    )
    ours = to_onnx(network, (image,), ["image"], batched=())
    plain = to_onnx(network, (image,), ["image"], batched=(), simplify=False)
    assert nodes(ours) == nodes(theirs)
    assert len(nodes(ours)) < len(nodes(plain))


FAMILIES = ["adafm", "cfsnet", "cresmd", "dni", "drunet", "ffdnet", "hyperres"]


@pytest.fixture(scope="module", params=FAMILIES)
def adjustable(request, tmp_path_factory):
    """A random network that takes a level, its output spread over the gray values, and its served model."""
    torch.manual_seed(2)
    variant = variants()[f"{request.param}-demo"]
    network = build(variant.architecture, variant.arguments).eval()
    calls = []
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        hook = torch.nn.modules.module.register_module_forward_hook(
            lambda module, inputs, output: calls.append((module, output)) if hasattr(module, "kernel_size") else None
        )
        network(torch.rand(1, 3, TILE, TILE), torch.tensor([25.0]))
        hook.remove()
        last, output = calls[-1]
        mean = output.mean(dim=(0, 2, 3))
        gain = 0.3 / output.std() * mean.sign()  # without a bias, the mean at least is not black
        last.weight *= gain.view(-1, 1, 1, 1)
        if last.bias is not None:
            last.bias.copy_(0.5 + gain * (last.bias - mean))
    folder = tmp_path_factory.mktemp("adjustable")
    export_onnx(network, folder / "model.onnx", tile=TILE)
    write_served_model(folder / "model.onnx", folder, Serving(inference=INFERENCE, levels=LEVELS))
    return network, OnnxRestorer(folder, threads=1)


def test_a_network_with_a_level_is_served_with_a_second_input(adjustable, exported):
    """`level` is float (batch, 1) beside the uint8 `image`, in one batch; without a level it is not there."""
    image, level = onnxruntime.InferenceSession(onnx_path(adjustable[1].folder)).get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [3, TILE, TILE])
    assert (level.name, level.type, level.shape) == ("level", "tensor(float)", [image.shape[0], 1])
    assert isinstance(image.shape[0], str)
    assert [value.name for value in onnxruntime.InferenceSession(exported).get_inputs()] == ["image"]


@pytest.mark.parametrize("levels", [[40.0], [5.0, 60.0, 25.0]])
def test_each_tile_is_restored_at_its_own_level(adjustable, levels):
    """Tiles of different levels in one batch each equal PyTorch alone at that level, within one 8-bit level."""
    network, restorer = adjustable
    tiles = np.random.default_rng(len(levels)).integers(0, 256, (len(levels), 3, TILE, TILE), np.uint8)
    restored = restorer.restore_batch(tiles, np.array(levels, np.float32))
    for tile, sigma, actual in zip(tiles, levels, restored, strict=True):
        with torch.inference_mode():
            output = network(torch.from_numpy(tile[None]).float() / 255, torch.tensor([sigma]))[0].numpy()
        expected = np.rint(np.clip(output, 0, 1) * 255)
        assert np.abs(actual - expected).max() <= 1
        assert expected.std() > 30  # gray values all over the scale: saturated tiles would prove nothing


def test_the_level_changes_the_served_output(adjustable):
    """The same tile at two levels gives two results."""
    tile = np.random.default_rng(7).integers(0, 256, (3, TILE, TILE), np.uint8)
    weak, strong = adjustable[1].restore_batch(np.stack([tile, tile]), np.array([5, 75], np.float32))
    assert np.abs(weak.astype(int) - strong).max() > 1


@pytest.mark.parametrize("level", [15.0, 60.0])
def test_a_served_photograph_equals_pytorch(adjustable, level):
    """A photograph of several tiles at a level is what PyTorch computes tile by tile, within one 8-bit level."""
    network, restorer = adjustable
    photograph = np.random.default_rng(5).integers(0, 256, (TILE + 20, TILE + 9, 3), np.uint8)
    expected = tiled(at_level(network, level), INFERENCE, batch=2)(photograph)
    difference = np.abs(restorer.restore(photograph, level=level).image.astype(int) - expected)
    assert difference.max() <= 1
    assert expected.std() > 30


def test_the_file_of_an_adjustable_network_is_the_same_each_time_and_names_no_place(adjustable, tmp_path):
    """A second export has the same bytes, and no graph in it, that of a loop neither, holds a source path."""
    network, restorer = adjustable
    export_onnx(network, tmp_path / "again.onnx", tile=TILE)
    assert (tmp_path / "again.onnx").read_bytes() == onnx_path(restorer.folder).read_bytes()
    assert b".py" not in (tmp_path / "again.onnx").read_bytes()


def test_levels_come_from_the_card_then_from_the_network():
    """The card's sigma and default count; the middle stands in for a default, the network's two levels for a sigma."""
    network = build("adafm", {"width": 4, "blocks": 1, "levels": (10, 60)})
    assert astuple(levels_of(network, card(levels=[15, 75], default_level=25))) == ("sigma", 15, 75, 25)
    assert astuple(levels_of(network, card(levels=[0, 55]))) == ("sigma", 0, 55, 27.5)
    assert astuple(levels_of(network, card())) == ("sigma", 10, 60, 35)


def test_levels_that_nobody_knows():
    """A network without level has none; one with a level of which neither card nor network knows a range is refused."""
    assert levels_of(build("dncnn", {"width": 4, "layers": 3}), card(levels=[0, 55])) is None
    with pytest.raises(ModelFormatError, match="trained_for"):
        levels_of(build("ffdnet", {"width": 4, "layers": 3}), card())


def card(**trained_for):
    """A model card that says only what the model was trained for."""
    return ModelCard(architecture="any", arguments={}, trained_for=trained_for, provenance={})


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


@pytest.mark.parametrize("classes", [(), (15.0, 35.0, 55.0, 75.0)])
def test_a_level_estimator_is_exported(tmp_path, classes):
    """A number or the mean of classes: what it estimates of 8-bit tiles is what PyTorch does."""
    torch.manual_seed(0)
    network = build("level_estimator", {"width": 4, "classes": list(classes)}).eval()
    export_level_estimator(network, tmp_path / "level.onnx")
    tiles = np.random.default_rng(0).integers(0, 256, (3, 3, 128, 128), np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(tiles).float() / 255).numpy()
    found = open_level_estimator(tmp_path / "level.onnx")(tiles)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-3)
    assert len(set(expected.round(4))) == 3
