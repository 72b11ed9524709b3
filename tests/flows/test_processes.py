"""Background processes: readiness, identity, and the end of a whole group."""

import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from flows.processes import free_port, mark, on_free_ports, running_process, start_mark, start_process, stop_process
from relume.errors import BrokenFileError, ServiceError, StorageError
from tests.flows.toy import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def folder(tmp_path):
    """A record folder whose processes are ended however the test ends."""
    yield tmp_path
    for record in tmp_path.glob("*.json"):
        stop_process(tmp_path, record.stem, grace=1.0)


def test_waits_until_ready_and_records_the_process(folder):
    """start_process returns only once the readiness check holds, and the record names the living process."""
    port = free_port()

    def answers():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).status == 200
        except OSError:
            return False

    record = start_process(
        "files",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)],
        folder=folder,
        ready=answers,
        timeout=20,
        address=f"http://127.0.0.1:{port}",
    )
    assert answers()
    assert json.loads((folder / "files.json").read_text())["pid"] == record.pid
    assert running_process(folder, "files") == record
    assert os.getsid(record.pid) == record.pid


def test_a_running_process_is_not_started_twice(folder):
    """Starting a name that runs already gives the same process back."""
    first = start_process("one", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    second = start_process("one", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    assert second.pid == first.pid


@pytest.mark.parametrize("step", [1.0, -3600.0, 86400.0])
def test_a_step_of_the_clock_leaves_a_process_known(folder, monkeypatch, step):
    """After the clock is set, which moves the time of day that every process is said to have started at, a running one
    is known, and not started twice."""
    start = functools.partial(start_process, "one", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    first, now, boot = start(), time.time, psutil._pslinux.boot_time
    began = psutil.Process(first.pid).create_time()
    monkeypatch.setattr(time, "time", lambda: now() + step)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot() + step)
    assert psutil.Process(first.pid).create_time() == pytest.approx(began + step, abs=0.1)
    assert running_process(folder, "one") == first
    assert start() == first


def test_a_running_process_that_does_not_answer_is_started_anew(folder, monkeypatch):
    """One that hangs is ended after some seconds, and one that only answers late is left alone."""
    asked = []
    start = functools.partial(start_process, "one", SLEEP, folder=folder, timeout=5)
    first = start(ready=lambda: True)
    assert start(ready=lambda: len(asked) > 2 or asked.append(None)) == first
    monkeypatch.setattr("flows.processes.SILENT_SECONDS", 1.0)
    second = start(ready=lambda: start_mark(first.pid) is None)
    assert second.pid != first.pid


def test_stop_ends_the_children_too(folder):
    """A child that ignores SIGTERM and whose parent has ended is killed with its group."""
    pids = folder / "pids"
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    parent = (
        "import subprocess, sys, time, pathlib\n"
        f"c = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(pids)!r}).write_text(str(c.pid))\n"
        "time.sleep(60)\n"
    )
    start_process("pair", [sys.executable, "-c", parent], folder=folder, ready=pids.exists, timeout=10)
    while not pids.read_text():
        time.sleep(0.05)
    time.sleep(0.5)  # the child must have set its handler
    child_pid = int(pids.read_text())
    assert stop_process(folder, "pair", grace=1.0) is True
    assert not psutil.pid_exists(child_pid) or psutil.Process(child_pid).status() == psutil.STATUS_ZOMBIE
    assert running_process(folder, "pair") is None
    assert not (folder / "pair.json").exists()


def test_a_recycled_pid_is_not_signalled(folder):
    """A record whose start mark does not match leaves the process that has the number now alone."""
    stranger = start_process("stranger", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    stale = json.loads((folder / "stranger.json").read_text()) | {"name": "stale", "started": "another-boot:1"}
    (folder / "stale.json").write_text(json.dumps(stale))
    assert running_process(folder, "stale") is None
    assert stop_process(folder, "stale") is False
    assert running_process(folder, "stranger") == stranger


def test_an_early_end_names_the_log_and_its_last_line(folder):
    """A process that ends before it is ready is an error with exit code, last words and log path."""
    with pytest.raises(ServiceError) as caught:
        start_process(
            "broken",
            [sys.executable, "-c", "print('no licence today'); raise SystemExit(3)"],
            folder=folder,
            ready=lambda: False,
            timeout=20,
        )
    assert "exit code 3: no licence today" in str(caught.value)
    assert str(folder / "broken.log") in str(caught.value)
    assert not (folder / "broken.json").exists()


def test_never_ready_is_ended(folder):
    """A process that does not get ready in time is ended and reported."""
    started = []
    command = [sys.executable, "-c", "import time; time.sleep(61)"]

    def never():
        started[:] = [int(json.loads((folder / "slow.json").read_text())["pid"])]
        return False

    with pytest.raises(ServiceError, match="not ready after 1 s"):
        start_process("slow", command, folder=folder, ready=never, timeout=1)
    assert not psutil.pid_exists(started[0])


def test_a_killed_process_counts_as_stopped(folder):
    """After kill -9 of the process its record no longer stands for anything running."""
    record = start_process("one", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while running_process(folder, "one") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_process(folder, "one") is None
    assert stop_process(folder, "one") is False


def test_free_port_avoids_a_port_in_use(folder):
    """A preferred port that somebody listens on is not given out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        assert free_port(busy) != busy
    assert free_port(busy) == busy


def test_no_outgoing_connection_takes_a_port_that_was_found():
    """The system gives outgoing connections ports of a range of its own; those that are found are not in it."""
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if lowest < 32_768:
        pytest.skip("this system's outgoing connections take ports of another range than Linux' own")
    assert not any(lowest <= free_port() <= highest for _ in range(50))


def test_servers_of_one_start_get_different_ports():
    """Also where each of them would take the same one."""
    wanted = free_port()
    first, second, third = on_free_ports([wanted, wanted, None], lambda *ports: ports)
    assert first == wanted
    assert len({first, second, third}) == 3


def test_two_servers_that_start_at_once_do_not_race_for_a_port(folder):
    """Both want the same free port and look before either listens: both run, one of them at another port."""
    wanted = free_port()
    both = threading.Barrier(2)

    def start(name, port):
        if port == wanted:
            both.wait(timeout=20)  # both looked
        listen = f"import socket, time; taken = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
        address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", listen]
        start_process(name, command, folder=folder, ready=lambda: not is_free(port), timeout=20, address=address)
        return port

    with ThreadPoolExecutor() as pool:
        ports = list(pool.map(lambda name: on_free_ports([wanted], functools.partial(start, name)), ["one", "two"]))
    assert wanted in ports
    assert len(set(ports)) == 2
    assert all(running_process(folder, name) for name in ("one", "two"))


def test_a_start_that_fails_with_its_port_free_is_not_repeated(folder):
    """The fault is another than a lost race, so it is reported as it is."""
    asked = []

    def start(port):
        asked.append(port)
        start_process("none", ["/nonexistent/program"], folder=folder, ready=lambda: True, timeout=1)

    with pytest.raises(ServiceError, match="none did not start"):
        on_free_ports([None], start)
    assert len(asked) == 1


def test_what_cannot_be_written_down_does_not_run(folder):
    """A process without a record would never be ended: here no file may hold a byte."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        with pytest.raises(StorageError):
            start_process("one", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not [child for child in psutil.Process().children() if child.cmdline() == SLEEP]


def test_missing_program(folder: Path):
    """A program that does not exist is one clear error."""
    with pytest.raises(ServiceError, match="none did not start"):
        start_process("none", ["/nonexistent/program"], folder=folder, ready=lambda: True, timeout=1)


def test_what_a_dead_leader_left_is_ended_before_the_next_start(folder):
    """The leader is killed and its child keeps the port, as MLflow's does: the next start ends the child first."""
    port = free_port()
    listen = f"import socket, time; taken = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"
    lead = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {listen!r}])"
    start = functools.partial(
        start_process,
        "server",
        [sys.executable, "-c", lead],
        folder=folder,
        ready=lambda: not is_free(port),
        timeout=20,
        address=f"http://127.0.0.1:{port}",
    )
    first = start()
    (child,) = psutil.Process(first.pid).children()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: running_process(folder, "server") is None)
    assert child.is_running()
    second = start()
    try:
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert second.pid != first.pid
    finally:
        stop_process(folder, "server")
    assert is_free(port)


def test_what_moved_to_a_session_of_its_own_is_ended_too(folder):
    """A child that begins a session of its own, as a daemon does, ends with the process that started it."""
    started = folder / "pid"
    lead = (
        "import pathlib, subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP[-1]!r}], start_new_session=True);"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    start_process("one", [sys.executable, "-c", lead], folder=folder, ready=started.exists, timeout=20)
    wait_until(lambda: started.read_text())
    child = int(started.read_text())
    assert start_mark(child)
    assert stop_process(folder, "one", grace=1.0)
    assert start_mark(child) is None


def test_what_a_killed_command_started_without_a_record_is_ended(folder):
    """A command that is killed between the start of a process and its record leaves one that the next start ends."""
    code = (
        "import os, pathlib, sys; from flows import processes;"
        "processes.record_process = lambda *_, **__: os.kill(os.getpid(), 9);"
        "processes.start_process('one', sys.argv[2:], folder=pathlib.Path(sys.argv[1]), ready=bool, timeout=9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), *SLEEP], timeout=60)
    assert not (folder / "one.json").exists()
    found = [process for process in psutil.process_iter() if marked(process, folder)]
    assert len(found) == 1
    record = start_process("one", SLEEP, folder=folder, ready=lambda: True, timeout=5)
    assert [process.pid for process in psutil.process_iter() if marked(process, folder)] == [record.pid]


def marked(process: psutil.Process, folder: Path) -> bool:
    """Whether a living process was started under the record `one` of a folder."""
    try:
        return mark(folder, "one").items() <= process.environ().items() and start_mark(process.pid) is not None
    except psutil.Error:
        return False


def test_another_program_at_the_address_is_not_taken_for_it(folder):
    """A process whose address answers, but by another program, did not start."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        with pytest.raises(ServiceError, match="another program answers"):
            start_process("one", SLEEP, folder=folder, ready=lambda: True, timeout=0.5, address=address)
    assert running_process(folder, "one") is None


def is_free(port: int) -> bool:
    """Whether nothing listens on a port."""
    return free_port(port) == port


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 0}', "a folder"])
def test_a_process_whose_record_is_broken(tmp_path, content):
    """Nobody takes it for stopped; it is ended nonetheless, with its record, and nothing else is."""
    record = start_process("mine", SLEEP, folder=tmp_path, ready=lambda: True, timeout=5)
    other = start_process("other", SLEEP, folder=tmp_path, ready=lambda: True, timeout=5)
    path = tmp_path / "mine.json"
    path.unlink()
    if content == "a folder":
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(BrokenFileError, match=r"mine\.json"):
        running_process(tmp_path, "mine")
    assert stop_process(tmp_path, "mine")
    assert start_mark(record.pid) is None
    assert running_process(tmp_path, "other") == other
    assert stop_process(tmp_path, "other")
    assert not path.exists()
