"""Image encoders given as ONNX files, with a small made one: the mean colour."""

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from relume.curation.curate import curate
from relume.curation.embedding import embedding
from relume.curation.settings import Encoder
from relume.errors import ConfigError
from relume.files import sha256_file
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings


def write(path, side=32, output=("n", 3)):
    """An encoder that gives the mean of each channel, beside its feature map as CLIP's exports do."""
    nodes = [
        helper.make_node("Identity", ["pixels"], ["map"]),
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
    ]
    shape = ["n", 3, side, side]
    outputs = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("vector", TensorProto.FLOAT, list(output)),
    ]
    graph = helper.make_graph(
        nodes, "mean colour", [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)], outputs
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return {"file": str(path), "sha256": sha256_file(path)}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Encoder(**write(tmp_path_factory.mktemp("encoder") / "encoder.onnx"))


def test_the_vector_is_that_of_the_centre_normalised(encoder):
    """Of a wide image of two colours only the centre counts, less CLIP's mean and over its deviation, of length 1."""
    pixels = np.full((64, 256, 3), 255, np.uint8)
    pixels[:, 96:160] = (200, 100, 50)
    expected = (np.array([200, 100, 50]) / 255 - encoder.mean) / encoder.std
    found = embedding(pixels[:, 100:156].repeat(2, axis=1), encoder)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)
    # Interpolation at the edges of the centre mixes in a little of the border.
    np.testing.assert_allclose(embedding(pixels, encoder), expected / np.linalg.norm(expected), atol=0.05)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda given: {**given, "sha256": "0" * 64}, "its SHA-256 is"),
        (lambda given: {**given, "file": given["file"] + ".missing"}, "No such file"),
        (lambda given: write(given["file"].replace("encoder.onnx", "odd.onnx"), side="side"), "should take"),
    ],
)
def test_what_is_no_such_encoder_is_refused(encoder, damage, why):
    """Another file, none, or one of any size: one message that says why."""
    with pytest.raises(ConfigError, match="The image encoder cannot be used") as refused:
        embedding(np.zeros((64, 64, 3), np.uint8), Encoder(**damage({"file": encoder.file, "sha256": encoder.sha256})))
    assert why in str(refused.value)


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    """A text is refused with ONNX Runtime's reason."""
    (tmp_path / "text.onnx").write_text("nothing")
    given = Encoder(file=str(tmp_path / "text.onnx"), sha256=sha256_file(tmp_path / "text.onnx"))
    with pytest.raises(ConfigError, match="The image encoder cannot be used"):
        embedding(np.zeros((64, 64, 3), np.uint8), given)


def test_the_cover_is_that_of_the_encoder(encoder, tmp_path):
    """Of eight photographs, two of each of four colours, one of each is kept, and the other is `covered`."""
    tints = {"red": (1, 0.3, 0.3), "green": (0.3, 1, 0.3), "blue": (0.3, 0.3, 1), "gray": (1, 1, 1)}
    photographs = ("astronaut", "chelsea", "coffee", "ihc", "camera", "brick", "grass", "moon")
    given = {}
    for number, name in enumerate(photographs):
        tint = list(tints)[number % 4]
        gray = cv2.cvtColor(skimage_photograph(f"{name}.png"), cv2.COLOR_RGB2GRAY)[:256, :256, None]
        given[f"{tint}-{name}.png"] = (gray * tints[tint]).astype(np.uint8)
    ingested = ingest_arrays(given, tmp_path)
    (tmp_path / "curated").mkdir()
    rules = {"embedding": encoder, "cover": 0.5, "min_test": 1, "min_sharpness": 0, "max_flat_fraction": 1, "patch": 96}
    curate(ingested, tmp_path / "curated", settings(**rules), progress=lambda *counted: None)
    rows = (tmp_path / "curated" / "images.csv").read_text().splitlines()[1:]
    kept = [row.split(",")[2].rpartition("/")[2].partition("-")[0] for row in rows if not row.endswith(",covered")]
    assert sorted(kept) == sorted(tints)
