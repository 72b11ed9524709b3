"""The exported file computes what PyTorch computes, and is the same file each time."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from relume.export import ServedNetwork, export_onnx, measure_parity, parity_report, to_onnx
from relume.models.registry import build, variants

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


@pytest.fixture(scope="module", params=["hyperres-demo", "adafm-demo", "cresmd-demo"])
def adjustable(request, tmp_path_factory):
    """A random network that takes a level, its output spread over the gray values, and its file in a session."""
    torch.manual_seed(2)
    variant = variants()[request.param]
    network = build(variant.architecture, variant.arguments).eval()
    last = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    seen = []
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        hook = last.register_forward_hook(
            lambda module, inputs, output: seen.append(output - module.bias.view(-1, 1, 1))
        )
        network(torch.rand(1, 3, TILE, TILE), torch.tensor([25.0]))
        hook.remove()
        gain = 0.3 / seen[0].std()
        last.weight *= gain
        last.bias.copy_(0.5 - gain * seen[0].mean(dim=(0, 2, 3)))
    path = tmp_path_factory.mktemp("adjustable") / "model.onnx"
    export_onnx(network, path, tile=TILE)
    return network, onnxruntime.InferenceSession(path)


def test_a_network_with_a_level_is_served_with_a_second_input(adjustable, exported):
    """`level` is float (batch, 1) beside the uint8 `image`, in one batch; without a level it is not there."""
    _, session = adjustable
    image, level = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [3, TILE, TILE])
    assert (level.name, level.type, level.shape) == ("level", "tensor(float)", [image.shape[0], 1])
    assert isinstance(image.shape[0], str)
    assert [value.name for value in onnxruntime.InferenceSession(exported).get_inputs()] == ["image"]


@pytest.mark.parametrize("levels", [[40.0], [5.0, 60.0, 25.0]])
def test_each_tile_is_restored_at_its_own_level(adjustable, levels):
    """Tiles of different levels in one batch each equal PyTorch alone at that level, within one 8-bit level."""
    network, session = adjustable
    tiles = np.random.default_rng(len(levels)).integers(0, 256, (len(levels), 3, TILE, TILE), np.uint8)
    level = np.array(levels, np.float32)[:, None]
    restored = session.run(["restored"], {"image": tiles, "level": level})[0]
    for tile, sigma, actual in zip(tiles, levels, restored, strict=True):
        with torch.inference_mode():
            output = network(torch.from_numpy(tile[None]).float() / 255, torch.tensor([sigma]))[0].numpy()
        expected = np.rint(np.clip(output, 0, 1) * 255)
        assert np.abs(actual - expected).max() <= 1
        assert expected.std() > 30  # gray values all over the scale: saturated tiles would prove nothing


def test_the_level_changes_the_served_output(adjustable):
    """The same tile at two levels gives two results."""
    _, session = adjustable
    tile = np.random.default_rng(7).integers(0, 256, (3, TILE, TILE), np.uint8)
    level = np.array([[5], [75]], np.float32)
    weak, strong = session.run(["restored"], {"image": np.stack([tile, tile]), "level": level})[0]
    assert np.abs(weak.astype(int) - strong).max() > 1


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
