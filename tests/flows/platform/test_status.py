"""What `relume status` says from the ledger and the records alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows.embedded_triton import EmbeddedTriton
from flows.platform.status import read_status, render
from flows.prefect_settings import services_folder
from flows.processes import free_port, record_process, start_process, stop_process
from flows.release.ledger import Ledger
from flows.release.served_product import release_lock
from flows.turns import turn
from relume.serving.repository import publish_release
from relume.serving.signing import keys_of, sign_release
from tests.flows.release.test_ledger import A, B, promote
from tests.tiny_onnx import write_tiny_model


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty RELUME_HOME and no server named by the environment."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RELUME_SERVER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_nothing_there_at_all(tmp_path, home):
    """In an empty folder nothing runs, nothing was released, and the text says what to do first."""
    status = read_status(tmp_path, home)
    assert {service.state for service in status.services} == {"stopped", "not installed"}
    assert (status.products, status.unfinished, status.schedule, status.problems) == ([], [], [], [])
    assert "run `relume pipeline run`, then `relume release`" in render(status)
    assert not (tmp_path / "home").exists()


def test_champion_previous_and_refused_candidate(tmp_path, home):
    """The ledger's champion, previous and candidate are shown, with the reason of the refusal."""
    ledger = Ledger(home)
    promote(ledger, A, B)
    refused = "gain over the noisy input, sigma 50: 0.00 dB, must be ≥ 6.00 dB"
    third = type(A)(product="denoise", package="9" * 64, version="3", model="denoise-99999999")
    ledger.append("registered", third)
    ledger.append("refused", third, failed=[refused])
    text = render(read_status(tmp_path, home))
    assert f"champion  {B.model} (version 1)" in text
    assert f"previous  {A.model}" in text
    assert f"candidate {third.model} (version 3), refused" in text
    assert refused in text


def test_how_the_champion_restores_is_shown(tmp_path, home):
    """As the configuration in the model repository says; one that is damaged is a problem with its path."""
    promote(Ledger(home), A)
    assert "restores" not in render(read_status(tmp_path, home))
    repository = EmbeddedTriton(home).repository
    folder = publish_release(write_tiny_model(tmp_path / "served"), repository, A.model)
    config = folder / "config.pbtxt"
    sign_release(folder, keys_of(home))
    status = read_status(tmp_path, home)
    assert "restores  in tiles of 32 pixels, halo 2, overlap 1 (linear)\n" in render(status)
    (key,) = (home / "keys" / "trusted").iterdir()
    assert f"signed    by the key {key.stem}\n" in render(status)
    json.dumps(status.as_json())
    config.write_text(config.read_text().replace('"halo"', '"hallo"'))
    status = read_status(tmp_path, home)
    assert [product.product for product in status.products] == ["denoise"]
    assert any(str(config) in problem for problem in status.problems)


def test_a_champion_that_was_changed_after_it_was_signed_is_a_problem(tmp_path, home):
    """Its folder and what is wrong are named, and nobody is said to have signed it."""
    promote(Ledger(home), A)
    folder = publish_release(write_tiny_model(tmp_path / "served"), EmbeddedTriton(home).repository, A.model)
    sign_release(folder, keys_of(home))
    (folder / "1" / "model.py").write_text("import os\n")
    status = read_status(tmp_path, home)
    assert any(str(folder) in problem and "1/model.py" in problem for problem in status.problems)
    assert "signed  " not in render(status)


def test_an_unfinished_promotion_is_a_problem(tmp_path, home):
    """An interrupted promotion is shown with the commands that repair it."""
    Ledger(home).append("promoting", A)
    status = read_status(tmp_path, home)
    assert [entry.release for entry in status.unfinished] == [A]
    assert "`relume rollback --product denoise` to fix it" in status.problems[0]
    json.dumps(status.as_json())


def test_a_release_that_is_going_on_is_no_problem(tmp_path, home):
    """What a running release has begun was not interrupted: it is shown as a run; when it ended so, it is a problem."""
    with release_lock(home):
        Ledger(home).append("promoting", A)
        status = read_status(tmp_path, home)
        assert (status.unfinished, status.problems) == ([], [])
        assert [(run.what, run.state) for run in status.runs] == [("release", "running")]
    status = read_status(tmp_path, home)
    assert "was interrupted" in status.problems[0]
    assert status.runs == []


def test_a_broken_ledger_is_shown_not_raised(tmp_path, home):
    """Status still answers when the ledger is broken, and says where and what to do."""
    promote(Ledger(home), A)
    Ledger(home).path.write_text(Ledger(home).path.read_text().replace("promoting", "promoted", 1))
    status = read_status(tmp_path, home)
    assert "line 1" in status.problems[0]
    assert "restore ledger.jsonl" in render(status)


def test_a_torn_line_is_mentioned(tmp_path, home):
    """Half a last line is told, and the lines before it still count."""
    promote(Ledger(home), A)
    with open(Ledger(home).path, "a") as file:
        file.write('{"event": "prom')
    status = read_status(tmp_path, home)
    assert status.products[0].champion == A
    assert "is incomplete" in status.problems[0]


def test_silent_and_dead_services(tmp_path, home):
    """A process that runs but does not answer is silent; one that ended by itself is dead; each with its log."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    address = f"http://127.0.0.1:{free_port()}"
    child = subprocess.Popen(sleep, start_new_session=True)
    log = services_folder(home) / "mlflow.log"
    record_process("mlflow", child, folder=services_folder(home), command=sleep, address=address, log=log)
    try:
        worker = start_process("worker", sleep, folder=services_folder(home), ready=lambda: True, timeout=5)
        os.kill(worker.pid, 9)
        states = {service.name: service.state for service in read_status(tmp_path, home).services}
        while states["worker"] == "running":
            states = {service.name: service.state for service in read_status(tmp_path, home).services}
        assert (states["mlflow"], states["worker"], states["prefect"]) == ("silent", "dead", "stopped")
        assert str(services_folder(home) / "mlflow.log") in render(read_status(tmp_path, home))
    finally:
        stop_process(services_folder(home), "mlflow")


def test_runs_that_work_and_wait_are_shown(tmp_path, home):
    """A run that has its turn is shown with what it is at, and for how long."""
    with turn(home, tmp_path, "retrain") as this:
        this.at("release")
        (run,) = read_status(tmp_path, home).runs
        assert (run.what, run.state, run.doing) == ("retrain", "running", "release")
        assert re.search(r"^  retrain   running +\d+ s  release$", render(read_status(tmp_path, home)), re.MULTILINE)
    assert read_status(tmp_path, home).runs == []


def test_servers_of_the_environment_are_external(tmp_path, home, monkeypatch):
    """A server that the environment names is not ours to start, and its password is not shown."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.com")
    text = render(read_status(tmp_path, home))
    assert "external" in text
    assert "https://mlflow.example.com" in text
    assert "hunter2" not in text


def test_a_triton_elsewhere_that_does_not_answer_is_silent(tmp_path, home, monkeypatch):
    """RELUME_SERVER names it; the embedded server is not looked at."""
    monkeypatch.setenv("RELUME_SERVER", f"127.0.0.1:{free_port()}")
    (triton,) = (service for service in read_status(tmp_path, home).services if service.name == "triton")
    assert (triton.state, triton.address) == ("silent", os.environ["RELUME_SERVER"])


def test_the_schedule_of_prefect_yaml(home):
    """Without a Prefect server the deployments of prefect.yaml are shown as stopped."""
    status = read_status(Path(), home)
    assert [deployment["name"] for deployment in status.schedule] == ["retrain", "watch", "monitor", "garbage_collect"]
    assert "stopped; run `relume up`" in render(status)


def test_nothing_heavy_is_imported(home):
    """Status and doctor come up without torch, MLflow, Prefect, pandas or ONNX Runtime."""
    code = (
        "import sys; from pathlib import Path; from flows.platform import doctor, services, status;"
        "at = (Path(), Path(sys.argv[1])); status.read_status(*at); doctor.examine(*at);"
        "print([m for m in ('torch', 'mlflow', 'prefect', 'pandas', 'onnxruntime', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
