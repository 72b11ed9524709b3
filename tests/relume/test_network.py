"""Nothing phones home, and loopback bypasses proxies."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from relume.images import save_image
from relume.network import LOOPBACK, TELEMETRY_OFF, keep_to_this_machine
from tests.tiny_onnx import write_tiny_model

# Two ways to restore: what ships runs in OpenVINO, a model of one's own in ONNX Runtime. Events are sent after a while.
RESTORE = """\
import sys, time
from flows.restore import restore_file
restore_file("noisy.png", "shipped.png")
restore_file("noisy.png", "own.png", model="model")
time.sleep(6)
"""


@pytest.mark.slow
def test_a_restore_reaches_nothing(tmp_path):
    """No file of a device's identity is made, and, where strace can look, no address but loopback is connected to."""
    save_image(tmp_path / "noisy.png", np.zeros((64, 64, 3), np.uint8))
    write_tiny_model(tmp_path / "model", tile=64, halo=8)
    environment = {name: value for name, value in os.environ.items() if name not in TELEMETRY_OFF}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "RELUME_HOME": str(tmp_path)}
    trace = tmp_path / "trace"
    look = traced(trace) if shutil.which("strace") else []
    done = subprocess.run(
        [*look, sys.executable, "-c", RESTORE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.png").is_file()
    assert [path for path in tmp_path.rglob("*") if path.name in (".onnxruntime", "openvino_ga_cid")] == []
    lines = trace.read_text().splitlines() if trace.is_file() else []
    assert leaves_this_machine(lines) == []


def traced(trace: Path) -> list[str]:
    """What comes before a command so that its network calls, and those of all that it starts, are written to a file."""
    return ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]


def leaves_this_machine(lines: list[str]) -> list[str]:
    """The traced calls that go elsewhere than to loopback, or to a resolver there, which asks others."""
    named = [line for line in lines if re.search(r"AF_INET6?\b", line)]
    return [
        line
        for line in named
        if not ("127.0.0." in line or '"::1"' in line or '"::ffff:127.' in line) or "htons(53)" in line
    ]


@pytest.mark.parametrize("given", [{}, {"NO_PROXY": "intern.example, .lan"}, {"no_proxy": "a", "NO_PROXY": "b"}])
def test_loopback_is_added_to_what_bypasses_proxies(given):
    """What the user names stays; both spellings say the same."""
    environment = dict(given)
    keep_to_this_machine(environment)
    hosts = environment["no_proxy"].split(",")
    assert environment["NO_PROXY"] == environment["no_proxy"]
    assert set(LOOPBACK) <= set(hosts)
    first = (given.get("no_proxy") or given.get("NO_PROXY") or "").replace(" ", "")
    assert environment["no_proxy"].startswith(first)
    keep_to_this_machine(environment)
    assert environment["no_proxy"].split(",") == hosts
    everything = {"no_proxy": "*"}
    keep_to_this_machine(everything)
    assert everything["no_proxy"] == "*"


def test_a_server_on_this_machine_is_reached_past_a_proxy():
    """With a proxy in the environment that answers nothing, urllib reaches a server on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        code = (
            "import relume, urllib.request, sys;print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"
        )
        environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        address = f"http://127.0.0.1:{server.getsockname()[1]}/"
        done = subprocess.run(
            [sys.executable, "-c", code, address],
            env=environment | {"http_proxy": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
        )
    assert done.stdout == "hello\n", done.stderr
