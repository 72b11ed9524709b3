"""The real Triton server of this checkout's environment, with a home and a repository of its own."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from flows.embedded_triton import EmbeddedTriton
from relume.home import relume_home
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.signing import keys_of, sign_release
from relume.serving.triton_control import TritonControl
from tests.tiny_onnx import BLUR, IDENTITY, SHARPEN, write_tiny_model

KERNELS = {"blur": BLUR, "sharpen": SHARPEN, "identity": IDENTITY}


@pytest.fixture(scope="session")
def triton_environment():
    """The server's environment, installed if it is missing."""
    checkout = Path(__file__).parents[3]
    home = relume_home()
    subprocess.run(
        ["sh", "infra/triton/install.sh"], cwd=checkout, check=True, env={**os.environ, "RELUME_HOME": str(home)}
    )
    return home / "triton" / "env"


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Served models by name: blur, sharpen, identity."""
    folder = tmp_path_factory.mktemp("served")
    return {name: write_tiny_model(folder / name, kernel=kernel) for name, kernel in KERNELS.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory, triton_environment):
    """A RELUME_HOME for one test module; its server is stopped at the end, whatever happened."""
    home = tmp_path_factory.mktemp("home")
    (home / "triton").mkdir()
    (home / "triton" / "env").symlink_to(triton_environment)
    yield home
    if pid := EmbeddedTriton(home).status().pid:
        os.kill(pid, signal.SIGKILL)  # an orderly end would wait for models whose process a test killed
    EmbeddedTriton(home).stop()


@pytest.fixture
def triton(home):
    """The embedded server of that home."""
    return EmbeddedTriton(home)


@pytest.fixture
def server(home, triton, served):
    """A running server whose product denoise is served by the release denoise-blur."""
    server = triton.start()
    with TritonControl(server.grpc, key=server.key) as control:
        for name, folder in served.items():
            sign_release(publish_release(folder, server.repository, f"denoise-{name}"), keys_of(home))
        if control.models().get("denoise-blur") != "READY":
            control.load_release("denoise-blur")
        if control.product_release("denoise") != "denoise-blur":
            control.switch_product(server.repository, "denoise", Route(champion="denoise-blur"))
    return server


@pytest.fixture
def control(server):
    """The control of the running server."""
    with TritonControl(server.grpc, key=server.key, load_timeout=30) as control:
        yield control
