"""The embedded server as a process: starts, deaths, restarts and what they leave behind."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from flows.embedded_triton import EmbeddedTriton, ProductState, trial_server
from relume.errors import ServiceError
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl
from tests.flows.toy import wait_until
from tests.tiny_onnx import BLUR, convolve

IMAGE = np.random.default_rng(9).integers(0, 256, (80, 70, 3), np.uint8)


def restores(server):
    with TritonRestorer(server.grpc, "denoise", key=server.key) as restorer:
        return np.array_equal(restorer.restore(IMAGE).image, convolve(IMAGE, BLUR))


def regions(triton):
    return list(Path("/dev/shm").glob(f"{triton._shared_memory_prefix}*"))


def living(processes):
    """Those that run; a zombie waits for its parent only."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill(triton, pid):
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while triton.status().pid == pid and time.monotonic() < deadline:
        time.sleep(0.05)


def test_listens_on_loopback_only(triton, server):
    """Every port that the server opens is one of 127.0.0.1."""
    listening = [
        connection.laddr
        for connection in psutil.Process(triton.status().pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {server.grpc_port, server.http_port, server.metrics_port}


def test_start_twice(triton, server):
    """Starting a server that runs gives the running one; with another repository it is refused."""
    pid = triton.status().pid
    assert triton.start() == server
    assert triton.status().pid == pid
    with pytest.raises(ServiceError, match="another model repository"):
        triton.start(Path(server.repository).parent / "others")


def test_restart_serves_the_product_again(triton, server):
    """After a stop and a start the product is served by the same release, without any other step."""
    assert triton.stop()
    assert triton.status().state == "stopped"
    assert not regions(triton)
    again = triton.start()
    assert restores(again)
    assert triton.status().products["denoise"] == ProductState(
        release="denoise-blur", served="denoise-blur", answers=True
    )


def test_stop_leaves_nothing(triton, server):
    """A stop ends the server and the models' processes and removes its shared memory and records."""
    pid = triton.status().pid
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(processes) > 1
    assert triton.stop()
    assert not living(processes)
    assert not regions(triton)
    assert not triton.stop()


def test_killed_model(triton, server):
    """A model whose process died still reads READY; status says that it does not answer, and repair starts it anew."""
    # All that carry its name: while the model's process forks a helper there are, for a moment, two.
    stubs = []
    for child in psutil.Process(triton.status().pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "denoise-blur" in " ".join(child.cmdline()):
                stubs.append(child)
    assert stubs
    for stub in stubs:
        with contextlib.suppress(psutil.NoSuchProcess):
            stub.kill()
    status = triton.status()
    with TritonControl(server.grpc, key=server.key) as control:
        assert control.models()["denoise-blur"] == "READY"
    assert status.state == "ready"
    assert not status.products["denoise"].answers
    assert triton.repair() == ["denoise"]
    assert triton.status().products["denoise"].answers
    assert restores(server)


def test_killed_server(triton, server):
    """A server ended by SIGKILL is seen as dead; the next start leaves no region of the old one and serves again."""
    pid = triton.status().pid
    stubs = psutil.Process(pid).children(recursive=True)
    assert stubs
    kill(triton, pid)
    left = regions(triton)
    assert left, "this test needs an unclean end"
    assert triton.status().state == "dead"
    again = triton.start()
    assert restores(again)
    assert not set(left) & set(regions(triton))
    assert not living(stubs)


def test_a_server_that_hangs_is_started_anew(triton, server, monkeypatch):
    """A server that does not answer any more is silent in status; the next start ends it and serves again."""
    monkeypatch.setattr("flows.processes.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("flows.embedded_triton._EXIT_SECONDS", 1)
    pid = triton.status().pid
    os.kill(pid, signal.SIGSTOP)
    assert triton.status().state == "silent"
    again = EmbeddedTriton(triton.folder.parent).start()
    assert triton.status().pid != pid
    assert restores(again)


def test_outlives_the_command_that_started_it(triton, server):
    """A server started by a command that ends, and whose process group is killed, stays up."""
    triton.stop()
    code = (
        "import os, pathlib, sys; from flows.embedded_triton import EmbeddedTriton;"
        "EmbeddedTriton(pathlib.Path(sys.argv[1])).start(); os.killpg(0, 9)"
    )
    command = [sys.executable, "-c", code, str(triton.folder.parent)]
    ended = subprocess.run(command, start_new_session=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    status = triton.status()
    assert status.state == "ready"
    assert status.products["denoise"].answers
    assert restores(status.server)


def test_supervised(triton, server):
    """In the foreground a server that is killed is started again, and ends when it is asked to."""
    end = threading.Event()
    supervisor = threading.Thread(target=triton.supervise, args=(end,), kwargs={"interval": 0.2})
    supervisor.start()
    try:
        pid = triton.status().pid
        kill(triton, pid)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            status = triton.status()
            if status.products and status.products["denoise"].answers:
                break
            time.sleep(0.1)
        assert status.pid not in (None, pid)
        assert restores(status.server)
    finally:
        end.set()
        supervisor.join(30)
    assert triton.status().state == "stopped"


def test_supervised_and_stopped_by_another_command(triton, server, monkeypatch):
    """A server in the foreground that another command stops is not started again."""
    end, looks, repair = threading.Event(), [], triton.repair
    monkeypatch.setattr(triton, "repair", lambda: looks.append(None) or repair())
    supervisor = threading.Thread(target=triton.supervise, args=(end,), kwargs={"interval": 0.2})
    supervisor.start()
    try:
        wait_until(lambda: len(looks) > 1)  # it has seen the server run
        assert triton.stop()
        supervisor.join(30)
        assert not supervisor.is_alive()
    finally:
        end.set()
        supervisor.join(30)
    assert triton.status().state == "stopped"


def test_broken_product_does_not_keep_the_server_down(triton, server, caplog):
    """A server whose product cannot be loaded starts, says so, and shows it in its status. The product's own file,
    which nothing signs, is written anew."""
    triton.stop()
    own = Path(server.repository) / "denoise" / "config.pbtxt"
    right = own.read_text()
    own.write_text(right.replace('key: "image" value: "image"', 'key: "picture" value: "image"'))
    config = Path(server.repository) / "denoise-blur" / "config.pbtxt"
    good = config.read_text()
    config.write_text(good.replace('"image"', '"picture"'))
    try:
        triton.start()
        assert "denoise cannot be served" in caplog.text
        product = triton.status().products["denoise"]
        assert (product.served, product.answers) == (None, False)
    finally:
        config.write_text(good)
    assert triton.repair() == ["denoise"]
    assert own.read_text() == right


def test_a_trial_server_is_apart_and_leaves_nothing(triton, server, home):
    """The server for models that never ran has a process, ports, a key and a name of its own. The next one ends what a
    killed command left of it, and the server that clients use does not notice."""
    pid = triton.status().pid
    left = EmbeddedTriton(home, trial=True)
    abandoned = left.start(grpc_port=None, http_port=None, metrics_port=None)
    orphan = psutil.Process(left.status().pid)
    with trial_server(home) as trial:
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert trial.key not in (server.key, abandoned.key)
        assert triton.at(trial.grpc) is None
        with TritonControl(trial.grpc, key=trial.key) as control:
            assert control.server() == f"{triton.name}#trial"
            assert control.models() == {}
    assert not left.folder.exists()
    assert triton.status().pid == pid
    assert restores(server)


def test_not_installed(tmp_path):
    """Without the server's environment the error names the command that installs it."""
    triton = EmbeddedTriton(tmp_path)
    assert triton.status().state == "not installed"
    with pytest.raises(ServiceError, match=r"infra/triton/install\.sh"):
        triton.start()


def test_dies_at_once(tmp_path, monkeypatch, triton_environment):
    """A server that ends while it starts is an error that names its log, and leaves nothing behind."""
    triton = EmbeddedTriton(tmp_path)
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "env").symlink_to(triton_environment)
    monkeypatch.setattr(triton, "_command", lambda server: ["/bin/sh", "-c", "echo no room; exit 3"])
    with pytest.raises(ServiceError, match=r"no room[\s\S]*triton\.log"):
        triton.start()
    assert triton.status().state != "ready"
    assert not triton.stop()
