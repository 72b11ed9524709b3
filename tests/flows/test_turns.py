"""Turns of runs in one checkout: one works, the others wait or are refused, and both can be seen."""

import json
import os
import re
import subprocess
import sys
import threading

import pytest

from flows.processes import record_process, stop_process
from flows.turns import RELEASE, RunInProgressError, activities, in_progress, turn
from tests.flows.toy import wait_until

# Another process that holds the turn until its standard input ends.
HOLD = """\
import sys
from pathlib import Path
from flows.turns import turn
with turn(Path(sys.argv[1]), Path("."), "retrain") as this:
    this.at("release")
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process with the turn of this home."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_told_whose_turn_it_is(other, tmp_path):
    """Without a wait the error names the kind, the process and the state of the run that is going on."""
    with (
        pytest.raises(RunInProgressError, match=rf"retrain of process {other.pid}, \d+ s, release"),
        turn(tmp_path, tmp_path, "pipeline"),
    ):
        pass
    assert [activity.pid for activity in activities(tmp_path)] == [other.pid]


def test_a_run_that_waits_is_seen_and_gets_its_turn(other, tmp_path):
    """With a wait it says for whom and how long, is listed as waiting, and runs when the other one ended."""
    said, ran = [], []

    def run():
        with turn(tmp_path, tmp_path, "pipeline", wait=60, say=said.append):
            ran.append([activity.state for activity in activities(tmp_path)])

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(activities(tmp_path)) == 2)
    assert {activity.what: activity.state for activity in activities(tmp_path)} == {
        "retrain": "running",
        "pipeline": "waiting",
    }
    other.stdin.close()
    thread.join(timeout=60)
    assert ran == [["running"]]
    assert said[0].startswith(f"waiting for the retrain of process {other.pid}, ")
    assert re.search(r"release; for (5\d|60) s at most$", said[0])
    assert activities(tmp_path) == []


def test_a_flow_within_a_flow_has_its_turn_already(tmp_path):
    """A retraining runs the pipeline in its own turn."""
    with turn(tmp_path, tmp_path, "retrain") as outer, turn(tmp_path, tmp_path, "pipeline") as inner:
        assert inner is outer
        assert [activity.what for activity in activities(tmp_path)] == ["retrain"]


def test_a_release_has_no_turn(other, tmp_path):
    """What a run waits for is the run that has its turn, and not a release beside it."""
    with (
        in_progress(tmp_path, RELEASE),
        pytest.raises(RunInProgressError, match="retrain of process"),
        turn(tmp_path, tmp_path, "pipeline"),
    ):
        pass


def test_a_killed_run_is_not_listed(other, tmp_path):
    """What it left behind is no activity, and the next run has its turn."""
    other.kill()
    other.wait()
    assert activities(tmp_path) == []
    with turn(tmp_path, tmp_path, "pipeline"):
        assert [activity.pid for activity in activities(tmp_path)] == [os.getpid()]


def test_the_stages_that_live_are_what_a_run_is_at(tmp_path, monkeypatch):
    """A stage's process is shown with its age; an ended one is not."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    for stage in ("pretrain@a", "pretrain@b"):
        folder = tmp_path / "runs" / "r1" / stage
        child = subprocess.Popen(sleep, start_new_session=True)
        record_process("process", child, folder=folder, command=sleep, log=folder / "log")
    monkeypatch.setattr("flows.turns.seconds_alive", lambda pid: 130.0)
    try:
        stop_process(tmp_path / "runs" / "r1" / "pretrain@b", "process")
        with turn(tmp_path, tmp_path, "pipeline") as this:
            this.at("pipeline", "r1")
            assert activities(tmp_path)[0].doing == "pretrain@a 2 min"
    finally:
        stop_process(tmp_path / "runs" / "r1" / "pretrain@a", "process")


def test_a_turn_removes_the_records_of_killed_runs(tmp_path):
    """A run that was killed says no more that it runs, once another one has its turn."""
    record = tmp_path / "active" / "pipeline-1.json"
    record.parent.mkdir()
    said = {"what": "pipeline", "pid": 1, "started": "of another boot", "state": "running", "doing": "", "since": 0.0}
    record.write_text(json.dumps(said))
    with turn(tmp_path, tmp_path, "pipeline"):
        assert [path.name for path in record.parent.glob("*.json")] == [f"pipeline-{os.getpid()}.json"]
