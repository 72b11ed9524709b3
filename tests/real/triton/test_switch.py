"""Releases on a real Triton server: switched under load, and refused when broken while the old one serves on."""

import contextlib
import itertools
import shutil
import time

import numpy as np
import psutil
import pytest

from relume.errors import ReleaseError, ServerRefusedError
from relume.serving import repository as models
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.route import Route
from relume.serving.served_model import onnx_path
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl
from tests.real.clients import Clients
from tests.tiny_onnx import BLUR, IDENTITY, SHARPEN, convolve, write_onnx, write_tiny_model

IMAGE = np.random.default_rng(5).integers(0, 256, (150, 170, 3), np.uint8)
EXPECTED = {name: convolve(IMAGE, kernel) for name, kernel in [("blur", BLUR), ("sharpen", SHARPEN)]}


def load(urls, key):
    """Clients that note which kernel each of their images was restored by."""
    return Clients(urls, IMAGE, EXPECTED, key=key)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_switch_under_load(server, control, protocol):
    """Six switches under four clients, each with a load before and an unload after: no request fails, and every
    image comes whole from one release."""
    with load([getattr(server, protocol)] * 4, server.key) as clients:
        names = itertools.cycle(["sharpen", "blur"])
        for name, previous in zip(names, itertools.cycle(["blur", "sharpen"]), strict=False):
            clients.wait_for(8)
            control.load_release(f"denoise-{name}")
            control.switch_product(server.repository, "denoise", Route(champion=f"denoise-{name}"))
            control.unload(f"denoise-{previous}")
            if len(clients.seen) > 6 * 8 or clients.errors:
                break
        clients.wait_for(8)
    assert not clients.errors
    assert set(clients.seen) == {"blur", "sharpen"}
    assert clients.seen[-1] == models.products(server.repository)["denoise"].champion.removeprefix("denoise-")


def broken(kind, served, folder):
    """A served model that must not go live."""
    shutil.copytree(served["blur"], folder)
    if kind == "corrupt":
        onnx_path(folder).write_bytes(onnx_path(folder).read_bytes()[:-40])
    elif kind == "not onnx":
        onnx_path(folder).write_bytes(b"this is no model" * 50)
    elif kind == "other shape":
        write_onnx(onnx_path(folder), tile=48, kernel=IDENTITY)
    elif kind == "bad config":
        with (folder / "triton/model/config.pbtxt").open("a") as file:
            file.write("this is no configuration {")
    elif kind == "dies at its start":
        onnx_path(folder).with_name("model.py").write_text("import os; os._exit(3)")
    elif kind == "fails on a tile":
        path = onnx_path(folder).with_name("model.py")
        text = path.read_text()
        assert "values[i : i + 1]" in text
        path.write_text(text.replace("values[i : i + 1]", "values[i]"))
    return folder


@pytest.mark.parametrize(
    "kind",
    ["corrupt", "not onnx", "other shape", "bad config", "dies at its start", "fails on a tile"],
)
def test_broken_release_is_refused(server, control, served, tmp_path, kind):
    """A broken release is refused by name while the old one serves every request, and is not left loaded."""
    release = f"denoise-{kind.replace(' ', '-')}"
    models.publish_release(broken(kind, served, tmp_path / "broken"), server.repository, release)
    with load([server.grpc] * 2, server.key) as clients:
        clients.wait_for(2)
        with pytest.raises(ReleaseError, match=release):
            control.load_release(release)
        clients.wait_for(4)
    assert not clients.errors
    assert set(clients.seen) == {"blur"}
    assert control.models().get(release, "UNAVAILABLE") == "UNAVAILABLE"
    assert control.product_release("denoise") == "denoise-blur"
    models.remove_release(server.repository, release)


def test_load_that_hangs(triton, server, control, served, tmp_path):
    """A release whose load does not end is given up after the time limit and its process is ended, while the old one
    serves every request; the server can then load others."""
    folder = broken("corrupt", served, tmp_path / "broken")
    onnx_path(folder).with_name("model.py").write_text("import time; time.sleep(1000)")
    models.publish_release(folder, server.repository, "denoise-hangs")
    with (
        load([server.grpc] * 2, server.key) as clients,
        TritonControl(server.grpc, key=server.key, load_timeout=1) as hasty,
    ):
        clients.wait_for(2)
        with pytest.raises(ReleaseError, match="did not end in 1 s"):
            hasty.load_release("denoise-hangs")
        assert control.models()["denoise-hangs"] == "LOADING"
        triton.end_model("denoise-hangs")
        deadline = time.monotonic() + 20
        while control.models()["denoise-hangs"] == "LOADING" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert control.models()["denoise-hangs"] == "UNAVAILABLE"
        clients.wait_for(4)
    assert not clients.errors
    assert set(clients.seen) == {"blur"}


def test_a_release_is_started_once(triton, server, control, served):
    """The product's load leaves the process of the release alone that was proved before."""
    models.publish_release(served["identity"], server.repository, "denoise-once")

    def processes():
        found = {}
        for child in psutil.Process(triton.status().pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "denoise-once" in " ".join(child.cmdline()):
                    found[child.pid] = child.ppid()
        # While the model's process forks a helper, that carries its name for a moment.
        return {pid for pid, parent in found.items() if parent not in found}

    control.load_release("denoise-once")
    started = processes()
    assert started
    control.switch_product(server.repository, "denoise", Route(champion="denoise-once"))
    assert processes() == started
    control.switch_product(server.repository, "denoise", Route(champion="denoise-blur"))


def test_switch_to_a_release_that_is_not_loaded(server, control, served):
    """A product is only switched to a release that is loaded; until then it stays where it was, on disk as well."""
    models.publish_release(served["identity"], server.repository, "denoise-not-loaded")
    with pytest.raises(ReleaseError, match="not loaded"):
        control.switch_product(server.repository, "denoise", Route(champion="denoise-not-loaded"))
    assert models.products(server.repository) == {"denoise": Route(champion="denoise-blur")}


def test_failed_switch_is_taken_back(server, control, monkeypatch):
    """When the product does not work after the switch, it is switched back, on the server and on disk."""
    control.load_release("denoise-sharpen")
    probe, calls = control.probe, []

    def fails_once(model, **options):
        calls.append(model)
        if len(calls) == 1:
            raise ServerRefusedError("refused", why="no tile came back")
        probe(model, **options)

    monkeypatch.setattr(control, "probe", fails_once)
    with pytest.raises(ReleaseError, match="no tile came back"):
        control.switch_product(server.repository, "denoise", Route(champion="denoise-sharpen"))
    assert (
        models.products(server.repository)["denoise"].champion == control.product_release("denoise") == "denoise-blur"
    )


def test_release_with_another_tile(server, control, tmp_path):
    """A product can be switched to a release with another tile; a client that was there before follows."""
    with TritonRestorer(server.grpc, "denoise", key=server.key) as restorer:
        np.testing.assert_array_equal(restorer.restore(IMAGE).image, EXPECTED["blur"])
        models.publish_release(
            write_tiny_model(tmp_path / "large", tile=48, halo=3, kernel=SHARPEN), server.repository, "denoise-large"
        )
        control.load_release("denoise-large")
        control.switch_product(server.repository, "denoise", Route(champion="denoise-large"))
        np.testing.assert_array_equal(restorer.restore(IMAGE).image, EXPECTED["sharpen"])
        assert restorer.served().inference.tile == 48
    control.switch_product(server.repository, "denoise", Route(champion="denoise-blur"))


def test_a_tile_larger_than_grpcs_usual_message(server, control, tmp_path):
    """A release whose tile takes 4.9 MB, more than gRPC's usual 4 MB, is loaded, probed and restored by."""
    large = write_tiny_model(tmp_path / "large", tile=1280)
    models.publish_release(large, server.repository, "denoise-huge")
    control.load_release("denoise-huge")
    with TritonRestorer(server.grpc, "denoise-huge") as restorer:
        np.testing.assert_array_equal(restorer.restore(IMAGE).image, OnnxRestorer(large).restore(IMAGE).image)
    control.unload("denoise-huge")
