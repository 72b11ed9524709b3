"""Events of a real S3 server, and runs of a real Prefect server whose processes were killed."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from flows.events import look
from flows.platform.zombies import end_zombies, find_zombies
from relume import s3 as relume_s3
from relume.errors import SourceError
from relume.ingestion.sources import write_sources
from tests.flows.toy import prefect_server

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(s3, monkeypatch):
    """A client of the store, with two photographs below `arriving/`."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    relume_s3._make_client.cache_clear()
    client = s3.client()
    for key in ("one.png", "two.png"):
        client.put_object(Bucket="photos", Key=f"arriving/{key}", Body=key.encode())
    yield client
    relume_s3._make_client.cache_clear()


def test_new_photographs_are_seen_when_their_upload_has_ended(bucket, tmp_path):
    """A look that finds others than the look before says so; what is no photograph counts for nothing."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "here.png").write_bytes(b"here")
    write_sources(["s3://photos/arriving", tmp_path / "local"], tmp_path / "sources.json")
    assert look(tmp_path, tmp_path / "home").new == ()
    bucket.put_object(Bucket="photos", Key="arriving/three.png", Body=b"three")
    bucket.put_object(Bucket="photos", Key="arriving/notes.txt", Body=b"text")
    first = look(tmp_path, tmp_path / "home")
    assert (first.new, first.settled) == (("s3://photos/arriving/three.png",), False)
    bucket.put_object(Bucket="photos", Key="arriving/one.png", Body=b"changed")
    second = look(tmp_path, tmp_path / "home")
    assert (second.new, second.settled) == (("s3://photos/arriving/one.png", "s3://photos/arriving/three.png"), False)
    assert look(tmp_path, tmp_path / "home").settled
    write_sources(None, tmp_path / "sources.json")  # as a retraining does
    assert look(tmp_path, tmp_path / "home").new == ()


def test_a_prefix_that_cannot_be_listed_is_an_error(bucket, tmp_path, monkeypatch):
    """It says which; nothing is remembered as seen."""
    write_sources(["s3://photos/arriving"], tmp_path / "sources.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    relume_s3._make_client.cache_clear()
    with pytest.raises(SourceError, match="s3://photos/arriving"):
        look(tmp_path, tmp_path / "home")
    assert not (tmp_path / "home" / "arrivals.json").exists()


def test_a_run_whose_process_was_killed_is_found_and_ended(tmp_path):
    """One whose process lives, one of another machine, and one that was started by hand stay Running."""
    with prefect_server(tmp_path) as api:

        def ask(path, body=None, method=None):
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{api}/{path}", data, {"Content-Type": "application/json"}, method=method)
            for _ in range(20):
                try:
                    with urllib.request.urlopen(request, timeout=30) as response:
                        return json.loads(response.read() or "null")
                except urllib.error.HTTPError as error:
                    if error.code != 503:  # SQLite is locked for a moment; Prefect's own client asks again as well
                        raise
                    time.sleep(1)
            raise AssertionError(f"Prefect answers 503 to {path}")

        flow = ask("flows/", {"name": "retrain"})["id"]
        deployment = ask("deployments/", {"name": "retrain", "flow_id": flow})["id"]

        def running(pid, by_deployment=True):
            run = (
                ask(f"deployments/{deployment}/create_flow_run", {})
                if by_deployment
                else ask("flow_runs/", {"flow_id": flow})
            )["id"]
            ask(f"flow_runs/{run}", {"infrastructure_pid": pid}, "PATCH")
            ask(f"flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
            return run

        here = socket.gethostname()
        killed, living = running(f"{here}:1"), running(f"{here}:2")
        elsewhere, by_hand = running(f"not-{here}:3"), running(f"{here}:4", by_deployment=False)
        process = subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            env=os.environ | {"PREFECT__FLOW_RUN_ID": living},
        )
        try:
            assert set(find_zombies(api)) == {killed}
            assert len(end_zombies(api)) == 1
            assert find_zombies(api) == {}
            states = {run: ask(f"flow_runs/{run}")["state"]["type"] for run in (killed, living, elsewhere, by_hand)}
            assert states == {killed: "CRASHED", living: "RUNNING", elsewhere: "RUNNING", by_hand: "RUNNING"}
        finally:
            process.communicate()
        assert set(find_zombies(api)) == {living}
