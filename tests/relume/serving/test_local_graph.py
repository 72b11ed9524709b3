"""Graphs of convolutions take tiles of any side, with the same pixels; others keep theirs."""

import logging

import numpy as np
import onnx
import pytest
import skimage.data
from onnx import TensorProto, helper

import relume.serving.in_process
from relume import products
from relume.errors import ConfigError
from relume.inference.plan import Inference
from relume.models.artifact import ModelCard, save_model
from relume.models.registry import build
from relume.serving.export import export_onnx
from relume.serving.levels import LevelRange
from relume.serving.local_graph import read_local_graph
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.openvino_restorer import OpenVinoRestorer
from relume.serving.served_model import Serving, onnx_path, write_served_model
from relume.serving.torch_restorer import TorchRestorer
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

NOISY = skimage.data.chelsea()[:150, :200]


def whole_tile(runtime, folder):
    """A restorer that does not know that its graph is local."""
    restorer = runtime(folder)
    restorer._graph = None
    return restorer


@pytest.mark.parametrize("product", ["photo", "denoise_adjustable"])
def test_a_small_image_has_the_pixels_that_a_whole_tile_gives(product):
    """Of models that ship: in a tile around the image alone all values are those of the tile of the file."""
    folder = products.shipped(product) / "serving"
    small, large = OnnxRestorer(folder), whole_tile(OnnxRestorer, folder)
    assert small.plan_for(*NOISY.shape[:2]).tile in (256, 320)
    assert large.plan_for(*NOISY.shape[:2]).tile == 512
    difference = np.abs(small.restore(NOISY).image.astype(int) - large.restore(NOISY).image)
    assert difference.max() <= 1  # where a sum in another order is rounded to the other side
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("runtime", [OnnxRestorer, OpenVinoRestorer])
@pytest.mark.parametrize("levels", [None, LevelRange(kind="sigma", lowest=0, highest=75, default=20)])
def test_tiles_of_a_size_that_is_asked_for(runtime, levels, tmp_path):
    """Larger and smaller ones give what numpy gives, for 8 bits and for 16."""
    write_tiny_model(tmp_path, kernel=BLUR, levels=levels)
    expected = convolve(NOISY, BLUR, 20 if levels else 0)
    for tile in (16, 64):
        restorer = runtime(tmp_path, tile=tile)
        assert restorer.inference.tile == tile
        np.testing.assert_array_equal(restorer.restore(NOISY).image, expected)
        deep = restorer.restore(NOISY.astype(np.uint16) * 257).image
        assert np.abs(deep / 257 - expected).max() <= 0.51


def test_which_tiles_there_can_be(tmp_path):
    """Of a multiple of 16 pixels that halo and overlap leave something of."""
    write_tiny_model(tmp_path, halo=20, tile=64)
    for tile in (40, 32):
        with pytest.raises(ConfigError, match="a multiple of 16 above 41"):
            OnnxRestorer(tmp_path, tile=tile)
    assert OnnxRestorer(tmp_path, tile=48).inference.tile == 48


@pytest.fixture(scope="module")
def attentive(tmp_path_factory):
    """A model whose channels look at the whole tile, with its weights."""
    folder = tmp_path_factory.mktemp("attentive")
    arguments = {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]}
    network = build("nafnet", arguments).eval()
    card = ModelCard(architecture="nafnet", arguments=arguments, trained_for={}, provenance={})
    save_model(folder / "model", network, card)
    export_onnx(network, folder / "model.onnx", tile=64)
    serving = Serving(inference=Inference(tile=64, halo=8, overlap=4))
    write_served_model(folder / "model.onnx", folder / "serving", serving)
    return folder / "serving"


def test_what_looks_at_the_whole_tile_keeps_its_side(attentive):
    """Its graph has one, which PyTorch alone can do without."""
    assert read_local_graph(onnx_path(attentive)) is None
    assert OnnxRestorer(attentive).plan_for(10, 10).tile == 64
    with pytest.raises(ConfigError, match="choose the backend torch"):
        OnnxRestorer(attentive, tile=128)
    restorer = TorchRestorer(attentive, tile=160)
    assert restorer.plan_for(1000, 1000).tile == 160
    assert restorer.restore(NOISY).image.shape == NOISY.shape


def test_a_tile_for_which_there_is_no_memory_is_split(tmp_path, monkeypatch, caplog):
    """It is halved until it fits, which is said once, and the result is the same."""
    write_tiny_model(tmp_path, kernel=BLUR)
    needed = read_local_graph(onnx_path(tmp_path)).memory(64)
    monkeypatch.setattr(relume.serving.in_process, "available_memory", lambda: needed)
    with caplog.at_level(logging.WARNING):
        restorer = OnnxRestorer(tmp_path, tile=256)
        np.testing.assert_array_equal(restorer.restore(NOISY).image, convolve(NOISY, BLUR))
        restorer.restore(NOISY)
    assert restorer.inference.tile == 64
    assert caplog.messages == [
        "There is no memory for tiles of 256 pixels, so images are restored in tiles of 64 pixels."
    ]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_the_reach_is_that_of_the_convolutions(tmp_path, kernel):
    """Of two after each other the sum of theirs, and one pixel; no runtime takes part."""
    shape = ["n", 3, 32, 32]
    weights = np.zeros((3, 3, kernel, kernel), np.float32)
    pads = [kernel // 2] * 4
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "weights"], ["once"], pads=pads),
        helper.make_node("Conv", ["once", "weights"], ["twice"], pads=pads),
        helper.make_node("Cast", ["twice"], ["restored"], to=TensorProto.UINT8),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("image", "restored")]
    constants = [onnx.numpy_helper.from_array(weights, "weights")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "two", ends[:1], ends[1:], constants)), tmp_path / "m.onnx")
    graph = read_local_graph(tmp_path / "m.onnx")
    assert graph.reach == 2 * (kernel // 2) + 1
    assert graph.bytes_per_pixel == 4 * 2 * 3
