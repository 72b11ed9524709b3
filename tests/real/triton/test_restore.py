"""Restoring through a real Triton server: every way gives the bytes that ONNX Runtime gives in process."""

import contextlib
import errno
import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import relume
from flows.restore import restore_file
from relume.errors import ModelMissingError, ServerRefusedError
from relume.images import read_image, save_image
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.registered_tiles import KEPT
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_transport import GrpcTransport
from tests.relume.test_restorer import PAGE
from tests.tiny_onnx import BLUR, convolve


def photograph(height, width):
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def client_regions():
    return [path.name for path in Path("/dev/shm").glob(f"relume-tiles-{os.getpid()}-*")]


@pytest.mark.parametrize("shared_memory", [True, False], ids=["shared memory", "connection"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("size", [(1, 1), (20, 90), (32, 32), (211, 157)])
def test_equal_bytes(server, served, protocol, shared_memory, size):
    """gRPC and HTTP, with and without shared memory, give exactly what ONNX Runtime gives in process."""
    image = photograph(*size)
    with TritonRestorer(getattr(server, protocol), "denoise", shared_memory=shared_memory, key=server.key) as restorer:
        restored = restorer.restore(image).image
    np.testing.assert_array_equal(restored, OnnxRestorer(served["blur"], threads=1).restore(image).image)
    assert not client_regions()


def test_many_clients(server, control, served):
    """Requests of many clients that Triton batches together come back to the client that sent them; afterwards the
    server holds none of their regions."""
    images = [photograph(60 + index, 100) for index in range(12)]

    def restore(image):
        with TritonRestorer(server.grpc, "denoise", batch=2, key=server.key) as restorer:
            return restorer.restore(image).image

    with ThreadPoolExecutor(6) as pool:
        restored = list(pool.map(restore, images))
    assert not control.regions()
    in_process = OnnxRestorer(served["blur"], threads=1)
    for image, result in zip(images, restored, strict=True):
        np.testing.assert_array_equal(result, in_process.restore(image).image)


def test_regions_are_kept_for_the_next_image(server, control, served, monkeypatch):
    """Images in a row share one region, of four at a time two stay, and the end of the restorer leaves none; when the
    server has forgotten them, a new one is made. No tile goes through the connection."""
    monkeypatch.setattr(TritonRestorer, "_infer", None)
    image = photograph(70, 90)
    expected = OnnxRestorer(served["blur"], threads=1).restore(image).image

    def restore(_number):
        np.testing.assert_array_equal(restorer.restore(image).image, expected)

    with TritonRestorer(server.grpc, "denoise", key=server.key) as restorer:
        restore(0)
        first = control.regions()
        restore(1)
        assert control.regions() == first == client_regions()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(restore, range(12)))
        assert 1 <= len(control.regions()) <= KEPT
        for region in control.regions():
            restorer._transport.unregister(region)
        restore(2)
        assert len(control.regions()) == 1
        assert control.regions() == client_regions()
    assert not control.regions()
    assert not client_regions()


def test_a_restorer_that_is_not_closed(server, control):
    """Its regions are gone on both sides when it is, and at the end of a process, without a word."""
    code = (
        "import sys, numpy as np; from relume.serving.triton_client import TritonRestorer;"
        "restorer = TritonRestorer(sys.argv[1], 'denoise', key=sys.argv[2]);"
        "restorer.restore(np.zeros((40, 40, 3), np.uint8)); print(restorer._tiles._waiting[0][1].name)"
    )
    ended = subprocess.run([sys.executable, "-c", code, server.grpc, server.key], capture_output=True, text=True)
    assert ended.returncode == 0
    assert ended.stdout.startswith("relume-tiles-")
    assert ended.stderr == ""
    assert not (Path("/dev/shm") / ended.stdout.strip()).exists()
    restorer = TritonRestorer(server.grpc, "denoise", key=server.key)
    restorer.restore(photograph(40, 40))
    assert len(client_regions()) == 1
    del restorer
    assert not client_regions()
    assert not control.regions()


def test_a_release_by_its_own_name(server, control, served):
    """A release can be asked for by its own name, beside the product."""
    control.load_release("denoise-sharpen")
    image = photograph(50, 70)
    with TritonRestorer(server.grpc, "denoise-sharpen", key=server.key) as restorer:
        restored = restorer.restore(image).image
    np.testing.assert_array_equal(restored, OnnxRestorer(served["sharpen"], threads=1).restore(image).image)


def test_the_page_and_every_kind_of_image(server):
    """The code of docs/python.md at this server's address; deep images come back in their type, in 8 bits."""
    image = photograph(40, 50)
    expected = convolve(image, BLUR)
    code = re.search(r"```python\n(.*?)```", PAGE.read_text().split("## By a server")[1], re.DOTALL)[1]
    names = {"relume": relume, "noisy": image}
    exec(code.replace("127.0.0.1:8001", server.grpc), names)
    np.testing.assert_array_equal(names["clean"], expected)
    with relume.RemoteRestorer(server.grpc, "denoise", key=server.key) as remote:
        assert (remote.release, remote.levels) == ("denoise-blur", None)
        np.testing.assert_array_equal(np.asarray(remote.restore(Image.fromarray(image))), expected)
        np.testing.assert_array_equal(remote.restore(image.astype(np.uint16) * 257), expected.astype(np.uint16) * 257)
        found = remote.restore((image / 255).astype(np.float32))
        np.testing.assert_array_equal(found, expected / np.float32(255))
        streamed = list(remote.stream([image, image[::-1].copy()]))
        np.testing.assert_array_equal(streamed[1], convolve(image[::-1], BLUR))


def test_a_deep_file_is_restored_in_8_bits_and_says_so(server, tmp_path):
    """The result of a 16-bit file holds what the server makes of its 8 bits, and a note tells the user."""
    image = photograph(40, 50)
    save_image(tmp_path / "in.png", image.astype(np.uint16) * 257)
    result = restore_file(tmp_path / "in.png", tmp_path / "out.png", server=server.grpc, product="denoise")
    assert [note for note in result.notes if "rounded to 8 bits" in note]
    np.testing.assert_array_equal(read_image(tmp_path / "out.png").pixels, convolve(image, BLUR))


def test_unknown_product(server):
    """A product that the server does not have is named, with the command that releases one."""
    with TritonRestorer(server.http, "derain") as restorer, pytest.raises(ModelMissingError, match="derain"):
        restorer.restore(photograph(20, 20))


def test_refused_shared_memory(server, served, monkeypatch, caplog):
    """When the server cannot open the region, tiles go through the connection, with a warning and the same result."""
    register = GrpcTransport.register
    monkeypatch.setattr(GrpcTransport, "register", lambda self, name, key, size: register(self, name, "/nowhere", size))
    image = photograph(80, 80)
    with caplog.at_level(logging.WARNING), TritonRestorer(server.grpc, "denoise", key=server.key) as restorer:
        restored = restorer.restore(image).image
    np.testing.assert_array_equal(restored, OnnxRestorer(served["blur"], threads=1).restore(image).image)
    assert "cannot use shared memory" in caplog.text
    assert not client_regions()


def test_no_room_for_shared_memory(server, served, monkeypatch, caplog):
    """When /dev/shm is full, tiles go through the connection, with a warning and the same result."""

    def full(descriptor, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    image = photograph(80, 80)
    with caplog.at_level(logging.WARNING), TritonRestorer(server.grpc, "denoise", key=server.key) as restorer:
        restored = restorer.restore(image).image
    np.testing.assert_array_equal(restored, OnnxRestorer(served["blur"], threads=1).restore(image).image)
    assert "No space left on device" in caplog.text
    assert not client_regions()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_failing_requests(triton, server, control, protocol):
    """When the model's process dies, the client gets its error, and no region is left on either side."""
    process = triton.status()
    for stub in stubs_of(process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that it had forked
            stub.kill()
    with (
        TritonRestorer(getattr(server, protocol), "denoise", key=server.key) as restorer,
        pytest.raises(ServerRefusedError, match="not healthy"),
    ):
        restorer.restore(photograph(200, 200))
    assert not client_regions()
    assert not control.regions()
    assert triton.repair() == ["denoise"]


def stubs_of(pid):
    """The processes that the server runs models in."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "stub" in child.name():
                found.append(child)
    return found
