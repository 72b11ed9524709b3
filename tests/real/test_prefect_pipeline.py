"""The pipeline flow against a real Prefect server process: what it shows there, and retrying a killed run."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import flows
from flows.release.ledger import Ledger
from flows.turns import turn
from tests.flows.monitoring.test_monitor import RELEASE, traffic
from tests.flows.toy import make_toy, prefect_server, wait_until


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The address of a real Prefect server."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


@pytest.fixture
def toy(tmp_path, monkeypatch, api):
    """The tiny graph, its flows reporting to the server."""
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home" / "prefect"))
    return make_toy(tmp_path / "toy", tmp_path / "home")


def ask(api, what, body):
    """One POST to the server's REST interface."""
    request = urllib.request.Request(
        f"{api}/{what}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def flow_run(api, run):
    """The flow run of that id, as the server holds it."""
    return ask(api, "flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})[0]


def task_runs(api, run):
    """The names of the flow run's tasks and the types of their states."""
    rows = ask(api, "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return {row["name"]: row["state_type"] for row in rows}


def test_the_run_is_completed_on_the_server_with_its_artifacts(toy, api):
    """The server holds the flow run, a task run for each stage, the stages' lines, and the table of stages."""
    run = toy.run()[0]["run"]
    assert flow_run(api, run)["state_type"] == "COMPLETED"
    names = ["first", "pretrain@one", "pretrain@two", "last"]
    # What becomes of tasks the server takes from events, which it writes down when the flow run has ended already.
    wait_until(lambda: task_runs(api, run) == dict.fromkeys(names, "COMPLETED"))
    artifacts = {"flow_runs": {"id": {"any_": [run]}}, "artifacts": {"type": {"any_": ["table"]}}}
    [table] = ask(api, "artifacts/filter", artifacts)
    assert table["key"] == "stages"
    rows = json.loads(table["data"])
    assert [row["stage"] for row in rows] == names
    assert all(row["outcome"] == "ran" and row["seconds"] > 0 for row in rows)

    def logged():
        logs = ask(api, "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
        return "last says hello" in [log["message"] for log in logs]

    wait_until(logged, seconds=30)


def test_a_failed_stage_is_failed_on_the_server(toy, api):
    """The flow run and the task run of the stage that failed are Failed, what follows it never ran."""
    toy.tell("fail", "pretrain@two", 2)
    toy.run(code=2)
    [row] = ask(api, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}})
    ends = {"first": "COMPLETED", "pretrain@one": "COMPLETED", "pretrain@two": "FAILED"}
    wait_until(lambda: ends.items() <= task_runs(api, row["id"]).items())
    assert task_runs(api, row["id"]).get("last", "PENDING") == "PENDING"
    assert "last" not in toy.ran()


@pytest.mark.slow
def test_a_killed_run_that_is_retried_does_not_repeat_finished_stages(toy, api):
    """After kill -9, `prefect flow-run retry` finishes the very run: same commit, finished stages from its results."""
    toy.tell("sleep", "last", 300)
    process = toy.start()
    wait_until(lambda: "last" in toy.ran(), seconds=120)
    process.kill()
    process.communicate()
    [row] = ask(api, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
    # A worker marks a flow run whose process died; here there is none.
    state = {"state": {"type": "CRASHED", "name": "Crashed"}, "force": True}
    ask(api, f"flow_runs/{row['id']}/set_state", state)

    toy.tell("sleep", "last", 0)
    toy.write("components/last/__main__.py", "raise SystemExit('an edit after the run began')\n")
    flow = Path(flows.__file__).parent / "pipeline_flow.py"
    done = toy.shell(
        *(sys.executable, "-m", "prefect", "flow-run", "retry", row["id"], "--entrypoint", f"{flow}:pipeline"),
        check=False,
    )
    assert flow_run(api, row["id"])["state_type"] == "COMPLETED", done.stdout + done.stderr
    assert sorted(toy.ran()) == ["first", "last", "last", "pretrain@one", "pretrain@two"]
    assert "last:" in (toy.root / "dvc.lock").read_text()
    assert (toy.root / "reports/last/out.txt").is_file()


def test_the_monitoring_fails_its_run_when_something_has_changed(tmp_path, api):
    """Its run is Completed while nothing has, and Failed when the noise is another, with the table of comparisons."""
    home, code = tmp_path / "home", "from flows.monitoring.flow import monitor; monitor()"
    environment = os.environ | {"PREFECT_API_URL": api, "RELUME_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    for event in ("promoting", "promoted"):
        Ledger(home).append(event, RELEASE)
    traffic(home, 500, at=0)
    for louder, ends in ((1.0, "COMPLETED"), (4.0, "FAILED")):
        traffic(home, 60, at=time.time() - (4000 if louder == 1 else 0), louder=louder)
        traffic(home, 60, at=time.time(), louder=louder)
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        rows = ask(api, "flow_runs/filter", {"flows": {"name": {"any_": ["monitor"]}}, "sort": "START_TIME_DESC"})
        assert rows[0]["state_type"] == ends, rows[0]["state"]
    [table, _] = ask(api, "artifacts/filter", {"artifacts": {"key": {"any_": ["monitor"]}}, "sort": "CREATED_DESC"})
    changed = {row["statistic"] for row in json.loads(table["data"]) if row["changed"]}
    assert changed == {"noise", "removed"}


def test_a_retraining_beside_another_run_is_skipped_and_says_so(toy, api):
    """When the run in progress does not end in time, the retraining is completed as skipped and has touched nothing."""
    code = "import sys; from flows.retrain import retrain; retrain(sys.argv[1], home=sys.argv[2], wait=1.0)"
    sources = (toy.root / "sources.json").read_bytes()
    with turn(toy.home, toy.root, "pipeline"):
        done = toy.shell(sys.executable, "-c", code, str(toy.root), str(toy.home), check=False)
    assert done.returncode == 0, done.stderr
    (run,) = ask(api, "flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Skipped"]}}}})
    assert f"pipeline of process {os.getpid()}" in run["state"]["message"]
    assert (toy.root / "sources.json").read_bytes() == sources
    assert toy.ran() == []
