"""The local platform for real: MLflow, Prefect with a worker and the deployment, Triton."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner

from flows.embedded_triton import EmbeddedTriton
from flows.platform import services
from flows.platform.doctor import examine, exit_code
from flows.platform.services import ServiceReport, down, up
from flows.platform.status import read_status, render
from flows.platform.supervisor import Supervisor, restarts
from flows.prefect_settings import prefect_address, services_folder
from flows.processes import answers, free_port, running_process
from relume.cli import main
from tests.flows.toy import wait_until
from tests.real.embedded_triton import CHECKOUT, link_server

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A RELUME_HOME with the embedded server's environment; everything is stopped however the test ends."""
    folder = tmp_path / "home"
    link_server(folder)
    monkeypatch.setenv("RELUME_HOME", str(folder))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    down(folder)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout with the deployments and no photographs: what a schedule begins meanwhile does not touch this one."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(CHECKOUT / "prefect.yaml", folder)
    (folder / "flows").symlink_to(CHECKOUT / "flows")
    return folder


def by_name(reports: list[ServiceReport]) -> dict[str, ServiceReport]:
    """Reports by service."""
    return {report.name: report for report in reports}


def post(url: str, body: dict) -> list[dict]:
    """The answer of a Prefect filter end point."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def commands(pids: set[int]) -> list[str]:
    """The command lines of those of the processes that still run; a zombie waits for its parent only."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends just now, as a program that a service runs does
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def listeners(pids: set[int]) -> set[str]:
    """The addresses that processes listen on."""
    return {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    }


def test_up_status_down(home, checkout):
    """`up` starts all four on loopback with the schedule active, a second `up` changes nothing, `down` ends all."""
    reports = by_name(up(checkout, home))
    assert set(reports) == {"mlflow", "prefect", "worker", "supervisor", "triton"}
    assert [report for report in reports.values() if report.state != "started"] == []
    status = read_status(checkout, home)
    assert {service.state for service in status.services} == {"running"}
    assert status.schedule[0]["cron"] == "0 3 * * *"
    assert status.schedule[0]["next"] is not None
    deadline = time.monotonic() + 60
    while (planned := read_status(checkout, home).schedule[0]["next"]) == "active" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert planned.endswith("03:00 UTC")

    deployments = post(f"{prefect_address(home)}/deployments/filter", {})
    assert sorted(deployment["name"] for deployment in deployments) == [
        "garbage_collect",
        "monitor",
        "retrain",
        "watch",
    ]
    for deployment in deployments:
        assert deployment["work_pool_name"] == "relume"
        (pull,) = deployment["pull_steps"]
        assert pull["prefect.deployments.steps.set_working_directory"]["directory"] == str(checkout)
    workers = post(f"{prefect_address(home)}/work_pools/relume/workers/filter", {})
    assert [worker["status"] for worker in workers] == ["ONLINE"]

    leaders = [running_process(services_folder(home), name).pid for name in ("mlflow", "prefect", "worker")]
    leaders.append(running_process(home / "triton", "triton").pid)
    leaders.append(running_process(services_folder(home), "supervisor").pid)
    everyone = {child.pid for pid in leaders for child in [psutil.Process(pid), *psutil.Process(pid).children(True)]}
    assert listeners(everyone) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert len([command for command in commands(everyone) if "mlflow" in command]) <= 3

    again = by_name(up(checkout, home))
    assert {report.state for report in again.values()} == {"running"}
    assert again["mlflow"].address == reports["mlflow"].address

    assert {report.state for report in down(home)} == {"stopped"}
    assert commands(everyone) == []
    assert {service.state for service in read_status(Path(), home).services} == {"stopped"}
    assert {report.state for report in down(home)} == {"skipped"}


@pytest.mark.parametrize(("command", "place"), [("up", "checkout"), ("up", "home"), ("serve", "home")])
@pytest.mark.parametrize(("character", "name"), [(":", "a colon"), ("\n", "a line break")])
def test_a_path_that_other_programs_misread_starts_nothing(tmp_path, monkeypatch, command, place, character, name):
    """A checkout or home with a colon or a line break is refused with the character named, and nothing is made."""
    folders = {each: tmp_path / f"{each}{character * (each == place)}" for each in ("checkout", "home")}
    folders["checkout"].mkdir()
    monkeypatch.chdir(folders["checkout"])
    monkeypatch.setenv("RELUME_HOME", str(folders["home"]))
    ended = CliRunner().invoke(main, [command])
    assert ended.exit_code == 2
    assert f"The path of the folder has {name}" in ended.stderr
    assert not folders["home"].exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "port"), [("mlflow", "MLFLOW_PORT"), ("prefect", "PREFECT_PORT")])
def test_two_homes_that_start_at_once(home, tmp_path, monkeypatch, name, port):
    """Both find the usual port free before either listens: the service of each runs, at an address of its own."""
    monkeypatch.setattr(services, port, free_port())
    homes = [home, tmp_path / "other home"]
    try:
        with ThreadPoolExecutor() as pool:
            reports = list(pool.map(lambda each: services.start(Path(), each, name), homes))
        assert [report.state for report in reports] == ["started", "started"], reports
        assert len({report.address for report in reports}) == 2
        assert f"http://127.0.0.1:{getattr(services, port)}" in {report.address for report in reports}
    finally:
        down(homes[1])


def test_a_service_that_fails_does_not_keep_the_others_down(home, checkout):
    """With MLflow's store destroyed the others start, and MLflow's report names its log."""
    (home / "mlflow").mkdir()
    with sqlite3.connect(home / "mlflow" / "mlflow.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES ('from the future')")
    database.close()
    reports = by_name(up(checkout, home))
    assert reports["mlflow"].state == "failed"
    assert str(services_folder(home) / "mlflow.log") in reports["mlflow"].detail
    assert {reports[name].state for name in ("prefect", "worker", "supervisor", "triton")} == {"started"}


def test_a_taken_port_is_avoided_and_a_dead_service_is_started_again(home):
    """With somebody on MLflow's usual port another is used and recorded; killed, the service is dead, then up again."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else listens there already
            taken.bind(("127.0.0.1", services.MLFLOW_PORT))
            taken.listen()
        report = services._start_mlflow(home)
    assert report.address != f"http://127.0.0.1:{services.MLFLOW_PORT}"
    assert answers(f"{report.address}/health")
    os.killpg(running_process(services_folder(home), "mlflow").pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while running_process(services_folder(home), "mlflow") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "mlflow     dead" in render(read_status(Path(), home))
    assert services._start_mlflow(home).state == "started"


def test_a_tracking_server_of_the_environment_is_used(home, monkeypatch):
    """With MLFLOW_TRACKING_URI set no MLflow server is started, and its password is not shown."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:1")
    report = services._start_mlflow(home)
    assert (report.state, report.address) == ("external", "http://127.0.0.1:1")
    assert running_process(services_folder(home), "mlflow") is None


def test_a_service_that_died_is_started_again(home):
    """The supervisor starts MLflow again after a kill and says so; `doctor` fails for as long as it is dead."""
    mlflow = services._start_mlflow(home)
    os.killpg(running_process(services_folder(home), "mlflow").pid, signal.SIGKILL)
    wait_until(lambda: running_process(services_folder(home), "mlflow") is None)
    assert next(found for found in examine(Path(), home) if found.name == "mlflow").required
    assert exit_code(examine(Path(), home)) == 1
    supervisor = Supervisor(Path(), home, ["mlflow"])
    supervisor.look()
    assert answers(f"{running_process(services_folder(home), 'mlflow').address}/health"), mlflow
    assert "ended and was started again: 1 times" in render(read_status(Path(), home))
    found = running_process(services_folder(home), "mlflow")
    supervisor.look()
    assert running_process(services_folder(home), "mlflow") == found


def suspended(pid: int) -> set[int]:
    """Stops a process and all that it started, as SIGSTOP does; gives their numbers."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    return {process.pid for process in processes}


@pytest.mark.parametrize("name", [pytest.param("mlflow", marks=pytest.mark.exhaustive), "triton"])
def test_a_service_that_lives_and_does_not_answer_is_started_again(home, name):
    """A stopped service is named, killed when it was silent for long, and starts on its port; `down` ends it."""
    folder = home / "triton" if name == "triton" else services_folder(home)
    if name == "triton":  # as where another program has Triton's usual ports
        EmbeddedTriton(home).start(grpc_port=None, http_port=None, metrics_port=None)
    address = services.start(Path(), home, name).address
    found = running_process(folder, name)
    supervisor = Supervisor(Path(), home, [name], silent=2.0)
    supervisor.look()
    suspended(found.pid)
    started = time.monotonic()
    assert re.search(rf"{name} +silent", render(read_status(Path(), home)))
    assert exit_code(examine(Path(), home)) == 1
    assert time.monotonic() - started < 20
    supervisor.look()
    assert running_process(folder, name) == found
    time.sleep(2)
    supervisor.look()
    again = running_process(folder, name)
    assert (again.pid != found.pid, again.address) == (True, address)
    assert services.answering(home, name)
    assert re.search(
        rf"(?s){name} +running .*did not answer and was started again: 1 times", render(read_status(Path(), home))
    )
    pids, started = suspended(again.pid), time.monotonic()
    assert [report.name for report in down(home) if report.state == "stopped"] == [name]
    assert time.monotonic() - started < 20
    assert commands(pids) == []


@pytest.mark.exhaustive
def test_a_service_that_cannot_be_started_is_tried_later_and_later(home, monkeypatch):
    """With MLflow's store destroyed the waits double, and `status` shows why and how often it was tried."""
    (home / "mlflow").mkdir()
    (home / "mlflow" / "mlflow.db").write_bytes(b"no database" * 100)
    clock = [1000.0]
    monkeypatch.setattr("flows.platform.supervisor.time", SimpleNamespace(monotonic=lambda: clock[0]))
    supervisor, tried = Supervisor(Path(), home, ["mlflow"], first=100.0), []
    for _ in range(5):
        supervisor.look()
        tried.append(restarts(home)["mlflow"].count)
        clock[0] += 60.0
    assert tried == [1, 1, 2, 2, 2]  # were the wait the same each time, 1240 would be the third
    assert "ended and cannot be started" in render(read_status(Path(), home))
