"""A container engine of this checkout's own, with the images that infra/containers/build.sh made."""

import shutil
import subprocess

import docker
import pytest

from flows.runners.container import LABEL
from tests.flows.toy import wait_until

PODMAN = ["sh", "infra/containers/podman.sh"]


@pytest.fixture(scope="session")
def podman(tmp_path_factory):
    """The address of Podman's service; `toy` is an image there."""
    if shutil.which("podman") is None:
        pytest.skip("needs podman: sh infra/containers/setup.sh")
    for kind in ("data", "training", "evaluation"):
        if subprocess.run([*PODMAN, "image", "exists", f"relume-{kind}"]).returncode:
            pytest.skip("needs the images of steps: sh infra/containers/build.sh")
    service, address = serve(tmp_path_factory.mktemp("podman"))
    try:
        docker.DockerClient(address).images.get("relume-data").tag("toy")
        yield address
    finally:
        service.terminate()
        service.wait()


def serve(folder):
    """Starts Podman's service with its socket in a folder; gives the process and the address."""
    socket = folder / "socket"
    service = subprocess.Popen([*PODMAN, "serve", socket], stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(socket.exists)
    return service, f"unix://{socket}"


@pytest.fixture
def engine(podman, monkeypatch, tmp_path):
    """A client of the engine that DOCKER_HOST names; a test leaves no container in it."""
    monkeypatch.setenv("DOCKER_HOST", podman)
    client = docker.from_env()
    yield client
    assert containers(client, tmp_path) == []


def containers(client, folder):
    """The containers of the stages whose folders are below one."""
    found = client.containers.list(all=True, filters={"label": LABEL}, sparse=True)
    return [container for container in found if container.attrs["Labels"][LABEL].startswith(str(folder))]


def change_meta(toy, what, to):
    """Changes what the first stage needs."""
    toy.write("dvc.yaml", (toy.root / "dvc.yaml").read_text().replace(what, to, 1))


def first_does(toy, code):
    """Puts code before what the first step does."""
    file = "components/first/__main__.py"
    toy.write(file, code + "\n" + (toy.root / file).read_text())
