"""Images of more than 8 bits, restored by the float32 variant of the graph that is served."""

import numpy as np
import onnx
import pytest
import skimage.data
from onnx import TensorProto, helper

from relume import products
from relume.errors import ImageError, ModelFormatError
from relume.serving.float_graph import float_graph
from relume.serving.levels import LevelRange
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.openvino_restorer import OpenVinoRestorer
from tests.tiny_onnx import BLUR, IDENTITY, write_tiny_model

LEVELS = LevelRange(kind="sigma", lowest=0, highest=75, default=20)
RUNTIMES = pytest.mark.parametrize("runtime", [OnnxRestorer, OpenVinoRestorer])


@RUNTIMES
@pytest.mark.parametrize("product", products.names())
def test_rounded_to_8_bits_it_is_the_served_graph(runtime, product):
    """Of every model that ships: on a noisy 8-bit photograph the two graphs are within one level of each other."""
    clean = skimage.data.coffee()[:256, :256]
    noise = np.random.default_rng(0).normal(0, 15, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    restorer = runtime(products.shipped(product) / "serving")
    served = restorer.restore(noisy).image
    deep = restorer.restore(noisy / np.float32(255)).image
    assert (served.dtype, deep.dtype) == (np.uint8, np.float32)
    difference = np.abs(np.rint(deep * 255) - served)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@RUNTIMES
def test_all_16_bits_come_back(runtime, tmp_path):
    """A network that changes nothing gives back each of the 65,536 values, also where it computes 8 bits in bf16."""
    write_tiny_model(tmp_path, kernel=IDENTITY)
    image = np.random.default_rng(1).permutation(65536).astype(np.uint16)
    image = np.stack([image.reshape(256, 256)] * 3, axis=-1)
    options = {"precision": "bf16"} if runtime is OpenVinoRestorer else {}
    np.testing.assert_array_equal(runtime(tmp_path, **options).restore(image).image, image)


@RUNTIMES
@pytest.mark.parametrize("levels", [None, LEVELS])
def test_it_computes_between_the_8_bit_levels(runtime, levels, tmp_path):
    """A blur, darker by a level of 20 of 255, is that of numpy in float64: within 1 of 65,535, and not rounded."""
    write_tiny_model(tmp_path, kernel=BLUR, levels=levels)
    image = np.random.default_rng(2).integers(30_000, 40_000, (60, 50, 3), dtype=np.uint16)
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    mean = sum(padded[y : y + 60, x : x + 50] for y in range(3) for x in range(3)) / 9
    expected = mean - (20 * 257 if levels else 0)
    restorer = runtime(tmp_path)
    inner = slice(1, -1), slice(1, -1)  # at the border the network sees zeros, and its result is clipped
    assert np.abs(restorer.restore(image).image - expected)[inner].max() <= 1
    as_float = restorer.restore((image / 65535).astype(np.float32)).image
    np.testing.assert_allclose(as_float[inner], expected[inner] / 65535, atol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint16), np.zeros((8, 8), np.float32)])
def test_other_arrays_are_refused(image, tmp_path):
    """The error names the types that are restored."""
    write_tiny_model(tmp_path)
    with pytest.raises(ImageError, match="of one of: uint8, uint16, float32"):
        OnnxRestorer(tmp_path).restore(image)


def test_a_graph_that_does_not_cast_at_its_ends_is_refused(tmp_path):
    """Nothing is guessed of a graph that `export_onnx` did not write, nor of a file that is none."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.UINT8, [1]) for name in ("image", "restored")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["restored"])], "same", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph), tmp_path / "same.onnx")
    with pytest.raises(ModelFormatError, match="does not cast"):
        float_graph(tmp_path / "same.onnx")
    (tmp_path / "none.onnx").write_bytes(b"none")
    with pytest.raises(ModelFormatError, match=r"none\.onnx"):
        float_graph(tmp_path / "none.onnx")
