"""Who may do what on a real server: without its key a client restores, and changes nothing."""

import contextlib
import itertools
import json
import logging
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from flows import processes
from flows.embedded_triton import EmbeddedTriton
from flows.processes import free_port
from flows.release.served_product import reach_server
from flows.restore import restore_file
from relume.errors import ConfigError, ServerRefusedError, ServiceError
from relume.images import save_image
from relume.serving.shared_tiles import SharedTiles
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl
from relume.serving.triton_transport import connect
from tests.tiny_onnx import BLUR, convolve

IMAGE = np.random.default_rng(11).integers(0, 256, (80, 70, 3), np.uint8)


def answer(server, path: str, *, method: str = "POST", body: bytes = b"{}", **headers: str) -> int:
    """The status of an HTTP request to the server."""
    request = urllib.request.Request(f"{server.http}/v2/{path}", body, headers, method=method)
    if method == "GET":
        request.data = None
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "repository/models/denoise/unload"),
        ("POST", "repository/models/denoise-sharpen/load"),
        ("POST", "repository/index"),
        ("POST", "systemsharedmemory/region/mine/register"),
        ("POST", "systemsharedmemory/unregister"),
        ("GET", "systemsharedmemory/status"),
        ("GET", "cudasharedmemory/status"),
        ("POST", "trace/setting"),
        ("POST", "models/denoise/trace/setting"),
        ("POST", "logging"),
        ("POST", "models/denoise/infer"),
        ("POST", "models/denoise-blur/versions/1/infer"),
        ("POST", "models/denoise/generate"),
        ("POST", "models/denoise/generate_stream"),
    ],
)
def test_http_control_wants_the_key(server, method, path):
    """Without the key, with a wrong one, and from a page of a foreign origin, an HTTP control request gets 403."""
    assert answer(server, path, method=method) == 403
    assert answer(server, path, method=method, **{"relume-control-key": "0" * 64}) == 403
    assert answer(server, path, method=method, **{"Content-Type": "text/plain", "Origin": "http://evil.test"}) == 403


def test_grpc_control_wants_the_key(server):
    """Without the key, a gRPC client can neither load, unload nor list models, nor register shared memory."""
    with TritonControl(server.grpc) as stranger:
        for request in (
            lambda: stranger._call("load_model", "denoise-sharpen", timeout=10),
            lambda: stranger._call("unload_model", "denoise", timeout=10),
            lambda: stranger._call("register_system_shared_memory", "mine", "/mine", 10, timeout=10),
            lambda: stranger._call("update_log_settings", {"log_verbose_level": 1}, timeout=10),
            lambda: stranger._call("update_trace_settings", None, {"trace_rate": "1"}, timeout=10),
            stranger.models,
        ):
            with pytest.raises(ServerRefusedError, match="is restricted"):
                request()


def test_a_load_that_brings_its_own_model_wants_the_key(server):
    """A load whose request carries a configuration and files, which would run the client's code, gets 403."""
    body = json.dumps({"parameters": {"config": '{"backend": "python"}', "file:1/model.py": "cHJpbnQoKQ=="}}).encode()
    assert answer(server, "repository/models/evil/load", body=body) == 403


def test_restoring_over_grpc_does_not_want_the_key(server, caplog):
    """A client without the key restores through the connection, without a warning; over HTTP it is told to use gRPC."""
    with caplog.at_level(logging.WARNING), TritonRestorer(server.grpc, "denoise") as restorer:
        np.testing.assert_array_equal(restorer.restore(IMAGE).image, convolve(IMAGE, BLUR))
    with TritonRestorer(server.http, "denoise") as restorer, pytest.raises(ServerRefusedError, match="gRPC address"):
        restorer.restore(IMAGE)
    assert not caplog.records


@pytest.mark.parametrize("body", ["deep", "chunks", "a form"])
def test_a_body_that_would_end_this_triton(triton, server, body):
    """JSON that is nested two million times, a body of a million chunks, and a form of 50 MB end a server that reads
    them, on stacks of the usual size; all come without the key, get 403, and the server lives."""
    pid = triton.status().pid
    path = "models/denoise/infer"
    if body == "deep":
        assert answer(server, path, body=b"[" * 2_000_000, **{"Content-Type": "text/plain"}) == 403
    elif body == "a form":
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert answer(server, path, body=b"x" * 50_000_000, **form) == 403
    else:
        head = f"POST /v2/{path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=30) as connection:
            connection.sendall(head + b"1\r\n{\r\n" * 1_000_000 + b"0\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 403")
    with TritonRestorer(server.grpc, "denoise") as restorer:
        np.testing.assert_array_equal(restorer.restore(IMAGE).image, convolve(IMAGE, BLUR))
    assert triton.status().pid == pid


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shared_memory_with_the_key(server, protocol, monkeypatch):
    """A client with the key sends no tile through the connection."""
    monkeypatch.setattr(TritonRestorer, "restore_batch", None)
    with TritonRestorer(getattr(server, protocol), "denoise", key=server.key) as restorer:
        np.testing.assert_array_equal(restorer.restore(IMAGE).image, convolve(IMAGE, BLUR))


def test_regions_of_dead_clients_are_swept(triton, server, control):
    """What a client registered that was killed with all it started is forgotten by the next repair; that of a living
    client stays."""
    code = """
import os, sys
from relume.serving.shared_tiles import SharedTiles
from relume.serving.triton_transport import connect
tiles = SharedTiles(1, 3 * 32 * 32)
connect(sys.argv[1], timeout=10, key=sys.argv[2]).register(tiles.name, f"/{tiles.name}", tiles.size)
os.killpg(0, 9)
"""
    ended = subprocess.run([sys.executable, "-c", code, server.grpc, server.key], start_new_session=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    living = SharedTiles(1, 3 * 32 * 32)
    transport = connect(server.grpc, timeout=10, key=server.key)
    try:
        transport.register(living.name, f"/{living.name}", living.size)
        assert len(control.regions()) == 2
        triton.repair()
        assert control.regions() == [living.name]
        transport.unregister(living.name)
    finally:
        living.close()


def test_key_and_environment(triton, server, monkeypatch):
    """The key is new at each start, the file that holds it is 0600, and no command line or other file shows it. Neither
    the server nor the processes of its models have credentials or settings of whoever started them."""
    triton.stop()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    key = triton.start().key
    assert key != server.key
    holder = triton.folder / "server.json"
    assert stat.S_IMODE(holder.stat().st_mode) == 0o600
    files = [path for path in triton.folder.rglob("*") if path.is_file() and "env" not in path.parts]
    assert [path for path in files if key.encode() in path.read_bytes()] == [holder]
    process = psutil.Process(triton.status().pid)
    seen = []
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that a model's process had forked
            seen.append((each.cmdline(), set(each.environ())))
    assert len(seen) > 1
    for command, names in seen:
        assert key not in " ".join(command)
        assert not {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PYTHONPATH"} & names


def test_two_homes_that_start_at_once(triton, tmp_path):
    """Both find the same ports free before either listens: both servers run, each at its own, known by its home."""
    wanted = {"grpc_port": free_port(), "http_port": free_port(), "metrics_port": free_port()}
    homes = [EmbeddedTriton(tmp_path / name) for name in ("one", "two")]
    for each in homes:
        each.folder.mkdir(parents=True)
        (each.folder / "env").symlink_to(triton.folder / "env")
    try:
        with ThreadPoolExecutor() as pool:
            first, second = pool.map(lambda each: each.start(**wanted), homes)
        assert wanted["grpc_port"] in (first.grpc_port, second.grpc_port)
        assert first.grpc_port != second.grpc_port
        assert [each.status().state for each in homes] == ["ready", "ready"]
        assert homes[0].at(second.grpc) is homes[1].at(first.grpc) is None
    finally:
        for each in homes:
            each.stop()


def test_a_port_of_another_home(triton, server, tmp_path, monkeypatch):
    """A server that cannot listen because another home's has its ports did not start; the other is not taken for it."""
    other = EmbeddedTriton(tmp_path / "another home")
    other.folder.mkdir(parents=True)
    (other.folder / "env").symlink_to(triton.folder / "env")
    ports = itertools.cycle([server.grpc_port, server.http_port, server.metrics_port])
    monkeypatch.setattr(processes, "free_port", lambda preferred: next(ports))
    with pytest.raises(ServiceError, match="did not start"):
        other.start()
    assert other.running() is None
    assert other.at(server.grpc) is None
    assert triton.at(server.grpc) == triton.at(f"http://localhost:{server.http_port}") == server
    assert triton.at("127.0.0.1:1") is triton.at(f"triton.example:{server.grpc_port}") is None


def test_another_home_moves_nothing(server, tmp_path):
    """A release to the address of another home's server is refused, and names that home."""
    home = re.escape(str(Path(server.repository).parents[1]))
    with pytest.raises(ConfigError, match=rf"another home[\s\S]*{home}"), reach_server(server.grpc, tmp_path):
        pass


def test_restore_says_whose_server_it_is(server, tmp_path, monkeypatch):
    """The line of `restore --server` names this home's server as such, and another by its home."""
    home = Path(server.repository).parents[1]
    save_image(tmp_path / "noisy.png", IMAGE)
    for own, address, whose in [
        (home, server.grpc, "this home's server"),
        (home, server.http, "this home's server"),
        (tmp_path, server.grpc, f"the server of {home}"),
    ]:
        monkeypatch.setenv("RELUME_HOME", str(own))
        restored = restore_file(tmp_path / "noisy.png", tmp_path / "clean.png", server=address, product="denoise")
        assert str(restored).endswith(f"by denoise-blur of {whose}")
        np.testing.assert_array_equal(restored.restoration.image, convolve(IMAGE, BLUR))


def test_no_number_of_tiles(server):
    """A client that would send batches of no tile is refused when it is made."""
    with pytest.raises(ConfigError, match="1 or more"):
        TritonRestorer(server.grpc, "denoise", batch=0)
