"""Prefect's API on a laptop without a server: a process beside the flow that goes with it."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.flows.toy import RUN, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_server(monkeypatch, tmp_path):
    """Neither the environment nor a profile names a server."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))


def servers(toy):
    """The Prefect servers that keep their state in the toy's folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "prefect.server.api.server:create_app" in (process.info["cmdline"] or []):
            with contextlib.suppress(psutil.NoSuchProcess):  # another test's, which ends just now
                if process.environ().get("PREFECT_HOME") == str(toy.home / "prefect"):
                    found.append(process)
    return found


def start_in_terminal(toy):
    """Starts the flow as the leader of a process group, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=toy.root, env=toy.environment, start_new_session=True, stdout=subprocess.PIPE
    )


def test_a_run_without_a_server_leaves_no_process(toy):
    """The flow's own API keeps its state below RELUME_HOME, and its process is gone after the run."""
    toy.run()
    assert servers(toy) == []
    assert (toy.home / "prefect" / "prefect.db").is_file()


def test_ctrl_c_ends_a_run_in_seconds(toy):
    """An interrupt of the terminal's whole process group ends flow, stages and server, and does not hang."""
    toy.tell("sleep", "first", 300)
    process = start_in_terminal(toy)
    wait_until(toy.ran, seconds=150)
    assert len(servers(toy)) == 1
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=100)
    assert time.monotonic() - start < 60  # with the server in the same session it took 150
    assert process.returncode != 0
    assert servers(toy) == []


def test_a_run_whose_server_ends_is_one_message(toy):
    """Without its Prefect server a run ends by a deadline, with one error that names it and the next command."""
    toy.tell("sleep", "first", 2)
    process = toy.start("first")
    wait_until(toy.ran, seconds=150)
    (server,) = servers(toy)
    server.kill()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.count("error: Prefect's server failed: http://127.0.0.1:") == 1
    assert "run the same command again" in errors


@pytest.mark.exhaustive
def test_the_server_of_a_killed_run_is_ended_by_the_next(toy):
    """After kill -9 the server is an orphan; the next run ends it and starts its own."""
    toy.tell("sleep", "first", 300)
    process = start_in_terminal(toy)
    wait_until(toy.ran, seconds=150)
    process.kill()
    process.communicate()
    assert len(servers(toy)) == 1
    toy.tell("sleep", "first", 0)
    toy.run()
    assert servers(toy) == []


def test_a_profile_with_a_server_is_respected(toy, tmp_path):
    """A server named by the user's Prefect profile is used: with none listening there the run fails to reach it."""
    (tmp_path / "profiles.toml").write_text(
        'active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\nPREFECT_CLIENT_MAX_RETRIES = 0\n'
    )
    process = start_in_terminal(toy)
    process.communicate(timeout=150)
    assert process.returncode != 0
    assert toy.ran() == []
    assert not (toy.home / "prefect" / "servers").exists()
