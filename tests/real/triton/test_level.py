"""An adjustable model on a real Triton server: each request is restored at its own level, in any company."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from relume.cli import main
from relume.errors import ConfigError, ServerRefusedError
from relume.images import read_image, save_image
from relume.inference.plan import Inference
from relume.models.registry import build, variants
from relume.serving.export import export_onnx
from relume.serving.levels import LevelRange
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.served_model import Serving, write_served_model
from relume.serving.triton_client import TritonRestorer
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

LEVELS = LevelRange(kind="sigma", lowest=15, highest=75, default=37.25)
PRODUCT = "adjustable"


def photograph(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def serve(server, control, folder, release, product=PRODUCT):
    """Loads a served model and points a product to it."""
    publish_release(folder, server.repository, release)
    control.load_release(release)
    control.switch_product(server.repository, product, Route(champion=release))


@pytest.fixture
def adjustable(server, control, tmp_path):
    """A blur that darkens by its level, served by the product `adjustable`; in process."""
    folder = write_tiny_model(tmp_path / "served", levels=LEVELS)
    if control.product_release(PRODUCT) != f"{PRODUCT}-1":
        serve(server, control, folder, f"{PRODUCT}-1")
    return OnnxRestorer(folder, threads=1)


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shared memory", "connection"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_equal_bytes_at_each_level(server, adjustable, protocol, shared_memory):
    """On every way a level, also one out of the range, and the default give what ONNX Runtime gives in process."""
    image = photograph(70, 90)
    with TritonRestorer(getattr(server, protocol), PRODUCT, shared_memory=shared_memory, key=server.key) as restorer:
        restored = {level: restorer.restore(image, level=level).image for level in (None, 15, 60.5, 120)}
    for level, result in restored.items():
        np.testing.assert_array_equal(result, adjustable.restore(image, level=level).image)
    np.testing.assert_array_equal(restored[15], convolve(image, BLUR, 15))
    np.testing.assert_array_equal(restored[None], convolve(image, BLUR, 37.25))


def test_the_server_tells_the_levels(server, adjustable):
    """A client learns range and default from the server; of a model without level, that it has none."""
    with TritonRestorer(server.grpc, PRODUCT, key=server.key) as restorer:
        assert restorer.served().levels == LEVELS
        assert restorer.restore(photograph(20, 20)).levels == LEVELS
    with TritonRestorer(server.http, "denoise", key=server.key) as restorer:
        assert restorer.served().levels is None


def test_many_clients_with_levels_of_their_own(server, adjustable):
    """Requests of many clients that Triton batches together each come back at the level they were sent with."""
    images = [photograph(60 + index, 100) for index in range(12)]
    levels = [5.0 * index for index in range(12)]

    def restore(image, level):
        with TritonRestorer(server.grpc, PRODUCT, batch=2, key=server.key) as restorer:
            return restorer.restore(image, level=level).image

    with ThreadPoolExecutor(6) as pool:
        restored = list(pool.map(restore, images, levels))
    for image, level, result in zip(images, levels, restored, strict=True):
        np.testing.assert_array_equal(result, adjustable.restore(image, level=level).image)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_model_without_level(server, protocol):
    """The client refuses a level for it by the release's name, and so does the server, past the client."""
    with TritonRestorer(getattr(server, protocol), "denoise", key=server.key) as restorer:
        with pytest.raises(ConfigError, match="takes no level: denoise-blur"):
            restorer.restore(photograph(20, 20), level=25)
        with pytest.raises(ServerRefusedError, match="expected 1 inputs but got 2"):
            restorer.restore_batch(np.zeros((1, 3, 32, 32), np.uint8), 25)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_command(server, control, adjustable, tmp_path, protocol, monkeypatch):
    """`relume restore --server --level` writes what the product gives at it, and is refused by one without level."""
    monkeypatch.setenv("RELUME_HOME", str(Path(server.repository).parents[1]))  # over HTTP its key is needed
    image, files = photograph(40, 50), [str(tmp_path / "noisy.png"), "-o", str(tmp_path / "clean.png")]
    save_image(files[0], image)
    command = ["restore", *files, "--server", f"{protocol}://{getattr(server, protocol).rpartition('/')[2]}"]
    refused = CliRunner().invoke(main, [*command, "--level", "20"])
    assert refused.exit_code == 2
    assert "takes no level: denoise-blur" in refused.stderr
    control.switch_product(server.repository, "denoise", Route(champion=f"{PRODUCT}-1"))
    for options, level, words in [([], 37.25, "37.25 (default)"), (["--level", "20"], 20, "20")]:
        result = CliRunner().invoke(main, [*command, *options])
        assert result.stdout.endswith(f"by {PRODUCT}-1 of this home's server at sigma {words}\n"), result.output
        np.testing.assert_array_equal(read_image(files[2]).pixels, convolve(image, BLUR, level))


def test_a_request_without_the_level(server, adjustable):
    """The server refuses a tile that comes without the level its model needs."""
    with (
        TritonRestorer(server.grpc, PRODUCT, key=server.key) as restorer,
        pytest.raises(ServerRefusedError, match="expected 2 inputs but got 1"),
    ):
        restorer.restore_batch(np.zeros((1, 3, 32, 32), np.uint8))


def test_a_network_that_loops_over_its_batch(server, control, tmp_path):
    """DNI, whose weights are those of a level, is served at two levels by the same bytes as in process."""
    torch.manual_seed(4)
    network = build("dni", variants()["dni-demo"].arguments).eval()
    with torch.no_grad():
        for parameter in network.change.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    export_onnx(network, tmp_path / "model.onnx", tile=32)
    write_served_model(
        tmp_path / "model.onnx",
        tmp_path / "served",
        Serving(inference=Inference(tile=32, halo=6, overlap=3), levels=LEVELS),
    )
    serve(server, control, tmp_path / "served", "interpolated-1", "interpolated")
    in_process, image = OnnxRestorer(tmp_path / "served", threads=1), photograph(50, 40)
    with TritonRestorer(server.grpc, "interpolated", key=server.key) as restorer:
        weak, strong = (restorer.restore(image, level=level).image for level in (20, 70))
    np.testing.assert_array_equal(weak, in_process.restore(image, level=20).image)
    np.testing.assert_array_equal(strong, in_process.restore(image, level=70).image)
    assert np.abs(weak.astype(int) - strong).max() > 1
