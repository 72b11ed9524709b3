"""The folder of a served model, its configuration, and running it in process."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

import relume.products
from relume.errors import BrokenFileError, ConfigError, ModelFormatError, ModelMissingError, ReleaseError
from relume.files import sha256_folder, write_json
from relume.inference.plan import EdgeFusion, Inference, Tiling, Window
from relume.reading import read_json
from relume.serving.config_pbtxt import product_config, read_parameters, release_config
from relume.serving.levels import LevelRange
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.repository import publish_release, write_product
from relume.serving.route import Route
from relume.serving.served_model import Serving, onnx_path, read_serving, triton_model, write_served_model
from tests.tiny_onnx import (
    BLUR,
    IDENTITY,
    convolve,
    write_onnx,
    write_tiny_model,
    write_tiny_model_of_format_1,
    write_tiny_model_of_format_2,
)

INFERENCE = Inference(tile=64, halo=8, overlap=6, weight="cosine")
TINY = Inference(tile=32, halo=2, overlap=1)
LEVELS = LevelRange(kind="sigma", lowest=15, highest=75, default=37.25)
LEVELS_JSON = asdict(LEVELS)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A served model that blurs."""
    return write_tiny_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def adjustable(tmp_path_factory):
    """A served model that blurs and darkens by its level."""
    return write_tiny_model(tmp_path_factory.mktemp("adjustable"), levels=LEVELS)


@pytest.mark.parametrize("size", [(32, 32), (5, 70), (100, 75)])
def test_restores_in_process(served, size):
    """The model in process gives what the same convolution in numpy gives; away from reflected borders, exactly."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    restored = OnnxRestorer(served, threads=1).restore(image).image
    valid = tuple(slice(0, side if side >= 32 else side - 1) for side in size)
    np.testing.assert_array_equal(restored[valid], convolve(image, BLUR)[valid])


def test_files_are_deterministic(served, tmp_path):
    """The same ONNX file gives the same served model, byte for byte."""
    write_served_model(onnx_path(served), tmp_path, read_serving(served))
    assert sha256_folder(tmp_path) == sha256_folder(served, exclude=("source.onnx",))


def test_release_config_is_what_triton_reads():
    """Triton's own parser reads the configuration of a release: tensors, instances, parameters."""
    config = text_format.Parse(release_config(INFERENCE), ModelConfig())
    assert config.backend == "python"
    assert list(config.input[0].dims) == list(config.output[0].dims) == [3, 64, 64]
    assert config.max_batch_size == 8
    assert not config.model_warmup  # one that fails may end the whole server
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters == {"tile": "64", "halo": "8", "overlap": "6", "weight": "cosine", "orientations": "1"}
    assert read_parameters(parameters) == (INFERENCE, None)
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    assert not config.name


def test_requests_are_gathered_only_by_what_runs_them_at_once():
    """In the python backend Triton's batcher would make some wait for half a second: see
    `relume.serving.config_pbtxt`. Elsewhere no request waits for others, and a full queue refuses."""
    for backend in ("onnxruntime", "openvino_f32", "openvino_bf16"):
        config = text_format.Parse(release_config(INFERENCE, backend=backend), ModelConfig())
        assert not config.HasField("dynamic_batching")
        assert config.max_batch_size == 8
    for backend in ("triton_onnxruntime", "triton_tensorrt", "tensorrt_plan"):
        config = text_format.Parse(release_config(INFERENCE, backend=backend, compute_capability="9.0"), ModelConfig())
        assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
        assert not config.dynamic_batching.max_queue_delay_microseconds


def test_production_config_differs_in_its_backend_and_queue_alone():
    """For production the same release runs in Triton's onnxruntime backend, with the same tensors and parameters."""
    embedded = text_format.Parse(release_config(INFERENCE), ModelConfig())
    production = text_format.Parse(release_config(INFERENCE, backend="triton_onnxruntime"), ModelConfig())
    assert production.backend == "onnxruntime"
    for field in ("backend", "instance_group", "dynamic_batching"):
        embedded.ClearField(field)
        production.ClearField(field)
    assert production == embedded


def test_config_of_an_adjustable_model(adjustable):
    """Triton's own parser reads a level of one number for each tile, and what clients are told."""
    config = text_format.Parse((triton_model(adjustable) / "config.pbtxt").read_text(), ModelConfig())
    image, level = config.input
    assert (image.name, list(image.dims)) == ("image", [3, 32, 32])
    assert (level.name, level.data_type, list(level.dims)) == ("level", DataType.Value("TYPE_FP32"), [1])
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["level_kind"] == "sigma"
    assert read_parameters(parameters) == (TINY, LEVELS)
    told = {name: float(value) for name, value in parameters.items() if name.endswith("level")}
    assert told == {"lowest_level": 15, "highest_level": 75, "default_level": 37.25}


def test_product_of_an_adjustable_model_passes_the_level_on():
    """Its input `level` is the step's input `level`, in the type and size of the release's."""
    product = text_format.Parse(product_config(Route(champion="denoise-1"), tile=64, given="level"), ModelConfig())
    release = text_format.Parse(release_config(INFERENCE, levels=LEVELS), ModelConfig())
    assert product.input == release.input
    assert dict(product.ensemble_scheduling.step[0].input_map) == {"image": "image", "level": "level"}


def test_product_config_points_to_the_release():
    """A product is an ensemble of one step, whose tensors are passed through under their own names."""
    config = text_format.Parse(product_config(Route(champion="denoise-1"), tile=64), ModelConfig())
    (step,) = config.ensemble_scheduling.step
    assert (step.model_name, dict(step.input_map), dict(step.output_map)) == (
        "denoise-1",
        {"image": "image"},
        {"restored": "restored"},
    )


@pytest.mark.parametrize(("asked", "level"), [(None, 37.25), (20, 20), (75.0, 75), (200, 200)])
def test_restores_at_a_level(adjustable, asked, level):
    """An adjustable model takes the level that is asked for, also outside of its range, and else its default."""
    image = np.random.default_rng(2).integers(0, 256, (40, 50, 3), np.uint8)
    restored = OnnxRestorer(adjustable, threads=1).restore(image, level=asked).image
    np.testing.assert_array_equal(restored, convolve(image, BLUR, level))


def test_levels_of_a_batch_stay_apart(adjustable):
    """Tiles of one run each come back at their own level."""
    tile = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    tiles_NCHW = np.stack([tile.transpose(2, 0, 1)] * 3)
    restored = OnnxRestorer(adjustable, threads=1).restore_batch(tiles_NCHW, np.array([70, 0, 20], np.float32))
    for result_CHW, level in zip(restored, (70, 0, 20), strict=True):
        np.testing.assert_array_equal(result_CHW.transpose(1, 2, 0), convolve(tile, BLUR, level))


def test_level_for_a_model_without_one(served):
    """A model that takes no level refuses one by name, before it restores anything."""
    with pytest.raises(ConfigError, match="takes no level") as caught:
        OnnxRestorer(served).restore(np.zeros((9, 9, 3), np.uint8), level=25)
    assert str(served) in str(caught.value)


def test_levels_are_kept_in_serving_json(served, adjustable):
    """They are read back as they were written; without them the file says null."""
    assert read_serving(adjustable).levels == LEVELS
    assert set(read_json(served / "serving.json")) == {"format", "inference", "dtype", "channels", "opset", "levels"}
    assert read_serving(served).levels is None


@pytest.mark.parametrize("levels", [{"kind": "sigma", "lowest": 15}, {**LEVELS_JSON, "highest": 10}])
def test_impossible_levels(adjustable, tmp_path, levels):
    """A serving.json with levels that are none is refused by name."""
    write_served_model(onnx_path(adjustable), tmp_path, read_serving(adjustable))
    write_json(tmp_path / "serving.json", read_json(tmp_path / "serving.json") | {"levels": levels})
    with pytest.raises((ModelFormatError, BrokenFileError), match="levels") as caught:
        read_serving(tmp_path)
    assert caught.value.where == tmp_path / "serving.json"


@pytest.mark.parametrize("said", [LEVELS, None], ids=["only said", "only held"])
def test_a_level_that_is_only_said_or_only_held(tmp_path, said):
    """An ONNX file whose input `level` serving.json does not know, or the other way round, is refused."""
    write_onnx(tmp_path / "other.onnx", tile=32, kernel=BLUR, adjustable=said is None)
    write_served_model(tmp_path / "other.onnx", tmp_path, Serving(inference=TINY, levels=said))
    with pytest.raises(ModelFormatError, match="level"):
        OnnxRestorer(tmp_path)


@pytest.mark.parametrize("kind", ["sigma", "quality", "scale"])
def test_what_the_levels_mean_is_kept(adjustable, tmp_path, kind):
    """The kind is read back as it was written, with the range."""
    levels = LevelRange(kind=kind, lowest=4, highest=8, default=6)
    write_served_model(onnx_path(adjustable), tmp_path, replace(read_serving(adjustable), levels=levels))
    assert read_serving(tmp_path) == Serving(inference=TINY, levels=levels)
    assert read_json(tmp_path / "serving.json")["levels"]["kind"] == kind


@pytest.mark.parametrize(("stated", "kind"), [({}, "sigma"), ({"level": "quality"}, "quality")])
def test_a_served_model_of_format_1(tmp_path, stated, kind):
    """It is read from its folder, named after the product, with its levels, whose kind stood beside them or was not
    said; it restores in process, and is published, as one of format 2."""
    folder = write_tiny_model_of_format_1(tmp_path / "served", adjustable=True)
    values = read_json(folder / "serving.json")
    assert values.pop("level") == "sigma"
    write_json(folder / "serving.json", values | stated)
    assert read_serving(folder) == Serving(inference=TINY, levels=replace(LEVELS, kind=kind))
    image = np.random.default_rng(4).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(OnnxRestorer(folder, threads=1).restore(image).image, convolve(image, BLUR, 37.25))
    publish_release(folder, tmp_path / "models", "denoise-old")
    published = sha256_folder(tmp_path / "models" / "denoise-old", exclude=("1/__pycache__",))
    assert published == sha256_folder(folder / "triton" / "denoise")


def test_a_blind_served_model_of_format_1(tmp_path):
    """It takes no level, and restores as it did."""
    folder = write_tiny_model_of_format_1(tmp_path)
    assert read_serving(folder) == Serving(inference=TINY)
    image = np.random.default_rng(5).integers(0, 256, (40, 50, 3), np.uint8)
    np.testing.assert_array_equal(OnnxRestorer(folder, threads=1).restore(image).image, convolve(image, BLUR))


def test_a_model_of_float_tiles(tmp_path):
    """Where a mean of orientations is taken, serving.json, Triton's tensors and the product's are FP32; a file of uint8
    is refused, and so is a serving.json that states another type than its plan needs."""
    inference = TINY.model_copy(update={"orientations": 4})
    write_onnx(tmp_path / "other.onnx", tile=32, kernel=BLUR)
    write_served_model(tmp_path / "other.onnx", tmp_path / "served", Serving(inference=inference))
    assert read_json(tmp_path / "served" / "serving.json")["dtype"] == "FP32"
    config = text_format.Parse((triton_model(tmp_path / "served") / "config.pbtxt").read_text(), ModelConfig())
    assert config.input[0].data_type == config.output[0].data_type == DataType.Value("TYPE_FP32")
    publish_release(tmp_path / "served", tmp_path / "models", "denoise-1")
    write_product(tmp_path / "models", "denoise", Route(champion="denoise-1"))
    product = text_format.Parse((tmp_path / "models" / "denoise" / "config.pbtxt").read_text(), ModelConfig())
    assert (product.input, product.output) == (config.input, config.output)
    assert read_serving(tmp_path / "served").inference == inference
    with pytest.raises(ModelFormatError, match=r"tensor\(uint8\).*tensor\(float\)"):
        OnnxRestorer(tmp_path / "served")
    values = read_json(tmp_path / "served" / "serving.json")
    write_json(tmp_path / "served" / "serving.json", values | {"dtype": "UINT8"})
    with pytest.raises(BrokenFileError, match="its dtype is UINT8, but the tiles of its plan are FP32"):
        read_serving(tmp_path / "served")


def test_an_unknown_format(served, tmp_path):
    """A serving.json of a later format is refused with the formats that can be read."""
    write_served_model(onnx_path(served), tmp_path, read_serving(served))
    write_json(tmp_path / "serving.json", read_json(tmp_path / "serving.json") | {"format": 4})
    with pytest.raises(ModelFormatError, match="formats 1 to 3"):
        read_serving(tmp_path)


def test_unknown_meaning_of_levels(adjustable, tmp_path):
    """A serving.json whose levels mean something else is refused with what they can mean."""
    write_served_model(onnx_path(adjustable), tmp_path, read_serving(adjustable))
    levels = LEVELS_JSON | {"kind": "blur"}
    write_json(tmp_path / "serving.json", read_json(tmp_path / "serving.json") | {"levels": levels})
    with pytest.raises(ModelFormatError, match=r"blur[\s\S]*sigma, quality, scale"):
        read_serving(tmp_path)


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
    write_json(tmp_path / "serving.json", {"format": 2, "tile": 32, "halo": 2, "stride": 7, "levels": None})
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
    write_served_model(tmp_path / "other.onnx", tmp_path, Serving(inference=TINY))
    with pytest.raises(ModelFormatError, match=r"48, 48.*32, 32"):
        OnnxRestorer(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            '"overlap" value { string_value: "1"',
            '"overlap" value { string_value: "2"',
            "config.pbtxt says something else",
        ),
        ('"linear"', '"uniform"', "config.pbtxt says something else"),
        ('"linear"', '"hann"', "does not state tiles"),
        ('"orientations" value { string_value: "1"', '"orientations" value { string_value: "8"', "says something else"),
        ("TYPE_UINT8", "TYPE_FP32", "config.pbtxt says something else"),
        ("3, 32, 32", "3, 64, 64", "config.pbtxt says something else"),
        ('"halo" value { string_value: "2"', '"halo" value { string_value: "4"', "config.pbtxt says something else"),
        ('string_value: "75', 'string_value: "99', "config.pbtxt says something else"),
        ("max_batch_size: 8", "max_batch_size: 9", "of 1 to 8"),
        ("max_batch_size: 8", "max_batch_size: 0", "of 1 to 8"),
        ('"tile" value', '"tiles" value', "does not state tiles"),
        ("backend", "this is no configuration {", None),
    ],
)
def test_a_configuration_that_contradicts_serving_json(adjustable, tmp_path, old, new, why):
    """Another plan, level or maximum of tiles in a request is refused when the model is read; whether the text is well
    formed is for Triton to say."""
    shutil.copytree(adjustable, tmp_path / "served")
    config = triton_model(tmp_path / "served") / "config.pbtxt"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    if why is None:
        assert read_serving(tmp_path / "served").levels == LEVELS
    else:
        with pytest.raises(ModelFormatError, match=why):
            read_serving(tmp_path / "served")


def test_a_served_model_of_format_2(tmp_path):
    """Its tiles overlap by half of their halo; its configuration has a warm-up. It restores as it did, and as one of
    today with that overlap."""
    folder = write_tiny_model_of_format_2(tmp_path / "served")
    assert "model_warmup" in (triton_model(folder) / "config.pbtxt").read_text()
    assert read_serving(folder) == Serving(inference=Inference(tile=32, halo=2, overlap=1))
    image = np.random.default_rng(6).integers(0, 256, (70, 50, 3), np.uint8)
    np.testing.assert_array_equal(OnnxRestorer(folder, threads=1).restore(image).image, convolve(image, BLUR))


@pytest.mark.parametrize("product", ["denoise", "denoise_adjustable", "photo"])
def test_what_is_shipped_is_read(product):
    """Packages of format 2: tiles of 512 with a halo of 32 that overlap by 16."""
    folder = Path(relume.products.__file__).parent / product / "serving"
    assert read_serving(folder).inference == Inference(tile=512, halo=32, overlap=16)


WINDOWS = Inference(tile=32, halo=0, overlap=4, further_windows=(Window(tile=48, halo=2, overlap=8),))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    """A served model of two windows: the graph of 32 pixels blurs, that of 48 changes nothing."""
    folder = tmp_path_factory.mktemp("windowed")
    files = [folder / "32.onnx", folder / "48.onnx"]
    write_onnx(files[0], tile=32, kernel=BLUR, dtype="float32")
    write_onnx(files[1], tile=48, kernel=IDENTITY, dtype="float32")
    write_served_model(files[0], folder / "served", Serving(inference=WINDOWS), further_files={("", 48): files[1]})
    return folder / "served"


def test_each_window_has_the_graph_of_its_tiles(windowed, tmp_path):
    """In process: the mean of what each gives alone. Without one of them it is no served model."""
    image = 64 + np.random.default_rng(2).integers(0, 128, (32, 32, 3), np.uint8)
    restored = OnnxRestorer(windowed, threads=1).restore(image).image
    expected = (convolve(image, BLUR).astype(float) + image) / 2
    assert np.abs(restored - expected).max() <= 1
    shutil.copytree(windowed, tmp_path / "served")
    (tmp_path / "served" / "triton" / "model" / "1" / "48" / "model.onnx").unlink()
    with pytest.raises(ModelMissingError, match=r"48/model\.onnx is missing"):
        read_serving(tmp_path / "served")


def test_a_model_with_a_level_estimator(tmp_path):
    """Triton's own parser and clients read it; without its graph, or without levels, it is no served model."""
    levels = LevelRange(kind="sigma", lowest=5, highest=50, default=25)
    serving = read_serving(write_tiny_model(tmp_path / "served", levels=levels, estimator="level"))
    config = text_format.Parse(release_config(serving.inference, levels=levels), ModelConfig())
    assert [(output.name, list(output.dims)) for output in config.output] == [
        ("restored", [3, -1, -1]),
        ("estimated", [1]),
    ]
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert read_parameters(parameters) == (serving.inference, levels)
    for backend in ("onnxruntime", "openvino_f32"):
        publish_release(tmp_path / "served", tmp_path, backend, backend=backend)
        assert "estimated" in (tmp_path / backend / "1" / "model.py").read_text()
    assert "openvino" in (tmp_path / "openvino_f32" / "1" / "one_graph.py").read_text()
    with pytest.raises(ReleaseError, match="one graph alone"):
        publish_release(tmp_path / "served", tmp_path, "x", backend="triton_onnxruntime")
    with pytest.raises(ModelFormatError, match="takes no level"):
        read_serving(write_tiny_model(tmp_path / "blind", estimator="level"))
    (tmp_path / "served" / "triton" / "model" / "1" / "estimator" / "model.onnx").unlink()
    with pytest.raises(ModelMissingError, match=r"estimator/model\.onnx is missing"):
        read_serving(tmp_path / "served")


def test_a_configuration_of_several_members(tmp_path):
    """Triton's own parser reads twice the channels of what is restored, of a release and its product, and clients the
    fusion."""
    fusion = EdgeFusion(smooth="restormer", detail="hat", mask="xor", thresholds=(40, 90))
    plan = Inference(tile=32, halo=0, overlap=4, fusion=fusion)
    config = text_format.Parse(release_config(plan), ModelConfig())
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3, 32, 32], [6, 32, 32])
    assert read_parameters({name: value.string_value for name, value in config.parameters.items()}) == (plan, None)
    write_onnx(tmp_path / "32.onnx", tile=32, kernel=BLUR, dtype="float32")
    write_served_model(tmp_path / "32.onnx", tmp_path / "served", Serving(inference=plan))
    assert read_serving(tmp_path / "served").inference == plan
    with pytest.raises(ModelFormatError, match="does not match serving"):
        OnnxRestorer(tmp_path / "served", threads=1)  # its graph has one member
    publish_release(tmp_path / "served", tmp_path / "repository", "fused-1")
    write_product(tmp_path / "repository", "fused", Route(champion="fused-1"))
    product = text_format.Parse((tmp_path / "repository" / "fused" / "config.pbtxt").read_text(), ModelConfig())
    assert (product.input, product.output) == (config.input, config.output)


def test_a_configuration_of_members_with_their_own_tiles(tmp_path):
    """Triton's own parser reads an output for each, and clients the tiles; all that a product has is the first."""
    members = {
        "b": Tiling(tile=48, halo=2, overlap=8, further_windows=(Window(tile=64, halo=0, overlap=0),)),
        "a": None,
    }
    plan = Inference(tile=32, halo=0, overlap=4, members=members)
    config = text_format.Parse(release_config(plan), ModelConfig())
    assert [(each.name, list(each.dims)) for each in config.output] == [
        ("restored", [3, -1, -1]),
        ("restored_b", [3, -1, -1]),
    ]
    assert read_parameters({name: value.string_value for name, value in config.parameters.items()}) == (plan, None)
    files = {("b", 48): tmp_path / "48.onnx", ("b", 64): tmp_path / "64.onnx"}
    for side, kernel in ((32, BLUR), (48, IDENTITY), (64, IDENTITY)):
        write_onnx(tmp_path / f"{side}.onnx", tile=side, kernel=kernel, dtype="float32")
    write_served_model(tmp_path / "32.onnx", tmp_path / "served", Serving(inference=plan), further_files=files)
    assert read_serving(tmp_path / "served").inference == plan
    image = np.random.default_rng(2).integers(0, 128, (32, 32, 3), np.uint8)
    restored = OnnxRestorer(tmp_path / "served", threads=1).restore(image).image
    assert np.abs(restored - (convolve(image, BLUR).astype(float) + image).clip(0, 255)).max() <= 1
    publish_release(tmp_path / "served", tmp_path / "repository", "own-1", backend="openvino_f32")
    write_product(tmp_path / "repository", "own", Route(champion="own-1"))
    product = text_format.Parse((tmp_path / "repository" / "own" / "config.pbtxt").read_text(), ModelConfig())
    assert (product.input, list(product.output)) == (config.input, list(config.output)[:1])


@pytest.mark.parametrize("backend", ["triton_onnxruntime", "triton_tensorrt"])
@pytest.mark.parametrize(
    ("plan", "graphs"),
    [
        ({"further_windows": (Window(tile=48, halo=2, overlap=8),)}, 2),
        ({"members": {"a": None, "b": Tiling(tile=48, halo=2, overlap=8)}}, 2),
        ({"fusion": EdgeFusion(smooth="a", detail="b")}, 1),
        ({"orientations": 8}, 1),
        ({"scale": 2}, 1),
    ],
)
def test_tritons_own_backends_run_one_graph(tmp_path, backend, plan, graphs):
    """What clients carry out on the tiles of one graph is released for them, results of several members in its
    channels too; several graphs are refused, before anything is written."""
    inference = Inference(tile=32, halo=0, overlap=4, **plan)
    assert len(inference.graphs) == graphs
    files = {}
    for part, side in inference.graphs:
        files[part, side] = tmp_path / f"{part}{side}.onnx"
        write_onnx(files[part, side], tile=side, kernel=BLUR, dtype=inference.dtype)
    first = files.pop(("", 32))
    write_served_model(first, tmp_path / "served", Serving(inference=inference), further_files=files)
    if graphs > 1:
        with pytest.raises(ReleaseError, match="one graph alone"):
            publish_release(tmp_path / "served", tmp_path / "repository", "a-1", backend=backend)
        assert not (tmp_path / "repository" / "a-1").exists()
        return
    release = publish_release(tmp_path / "served", tmp_path / "repository", "a-1", backend=backend)
    config = text_format.Parse((release / "config.pbtxt").read_text(), ModelConfig())
    assert config.backend == "onnxruntime"
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert read_parameters(parameters) == (inference, None)


def test_a_configuration_of_several_windows(windowed, tmp_path):
    """Triton's own parser reads tiles of any size, and clients the windows; a product passes both on."""
    config = text_format.Parse(release_config(WINDOWS), ModelConfig())
    assert list(config.input[0].dims) == list(config.output[0].dims) == [3, -1, -1]
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["further_windows"] == "48 2 8"
    assert read_parameters(parameters) == (WINDOWS, None)
    publish_release(windowed, tmp_path, "windowed-1")
    write_product(tmp_path, "windowed", Route(champion="windowed-1"))
    product = text_format.Parse((tmp_path / "windowed" / "config.pbtxt").read_text(), ModelConfig())
    assert (product.input, product.output) == (config.input, config.output)
    publish_release(windowed, tmp_path, "windowed-2", backend="openvino_f32")
    assert "openvino" in (tmp_path / "windowed-2" / "1" / "one_graph.py").read_text()
    with pytest.raises(ReleaseError, match="one graph alone"):
        publish_release(windowed, tmp_path, "windowed-3", backend="triton_onnxruntime")
