"""What a stage tells MLflow, on a real SQLite store."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest

from components.tracking import StageRun, _client, start_pipeline_run
from relume.files import write_json
from relume.home import relume_home
from relume.reading import read_json
from relume.training.checkpoint import Checkpoint


def checkpoint_of(home: Path) -> Checkpoint:
    """Where the training of these tests keeps its state."""
    return Checkpoint(home / "checkpoints", "key")


def tell(run: StageRun, step: int) -> None:
    """What a training of two phases, ten steps each, logs at a validation."""
    run.log(step, {"psnr": float(step)})
    number = (step - 1) // 10
    run.phase(number, {"patch": number}).log(step, {"psnr": float(step)})


def runs() -> dict[str, tuple[str, list[int]]]:
    """Status and logged steps of every run of the store by its name, which must be its own."""
    client, experiment = _client(relume_home())
    found = client.search_runs([experiment])
    steps = {run.info.run_id: client.get_metric_history(run.info.run_id, "psnr") for run in found}
    rows = {run.info.run_name: (run.info.status, [m.step for m in steps[run.info.run_id]]) for run in found}
    assert len(rows) == len(found)
    return rows


def die(record: Path) -> None:
    """A process that logs the first steps of a training and is killed in its second phase."""
    run = StageRun("pretrain@one", {"lr": 0.1}, record=record).__enter__()
    for step in (5, 10, 15):
        tell(run, step)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """RELUME_HOME with the store and the checkpoint's record of a training killed in its second phase.

    Made once, because making the store's tables takes seconds.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RELUME_TRACKING_RUN", raising=False)
        patch.setenv("RELUME_HOME", str(home))
        process = multiprocessing.get_context("spawn").Process(target=die, args=(checkpoint_of(home).tracked,))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return home


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    """A fresh copy of it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RELUME_TRACKING_RUN", raising=False)
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    return shutil.copytree(template, tmp_path / "home")


@pytest.fixture
def killed(home):
    """The checkpoint of the training that was killed."""
    return checkpoint_of(home)


def test_an_error_without_text_ends_nothing(home, capsys, monkeypatch):
    """When the store fails with an error that says nothing, the stage is warned by its kind and goes on."""
    with StageRun("pretrain@two", {}) as run:

        def silent(*_args, **_named):
            raise TimeoutError

        monkeypatch.setattr(run._client, "log_batch", silent)
        run.log(1, {"loss": 0.5})
        run.log(2, {"loss": 0.25})
    assert (
        capsys.readouterr().err
        == "warning: pretrain@two continues without tracking; the error of MLflow is: TimeoutError\n"
    )


def test_a_killed_training_goes_on_in_its_runs(killed):
    """One run of the stage and one of each phase hold the validations before and after, and all are closed."""
    before = runs()
    assert {status for status, _ in before.values()} == {"RUNNING"}
    with StageRun("pretrain@one", {"lr": 0.1}, record=killed.tracked) as run:
        tell(run, 20)
        assert runs().keys() == before.keys()
    assert runs() == {
        "pretrain@one": ("FINISHED", [5, 10, 15, 20]),
        "pretrain@one phase 1": ("FINISHED", [5, 10]),
        "pretrain@one phase 2": ("FINISHED", [15, 20]),
    }


def test_a_run_moves_to_the_pipeline_run_that_goes_on_with_it(killed):
    """Started again by another pipeline run, the stage's run is below that one, and its phases still below it."""
    parent = start_pipeline_run("again", {}, relume_home())
    with StageRun("pretrain@one", {"lr": 0.1}, parent=parent, record=killed.tracked) as run:
        tell(run, 20)
    client, experiment = _client(relume_home())
    parents = {run.info.run_name: run.data.tags.get("mlflow.parentRunId") for run in client.search_runs([experiment])}
    stage = read_json(killed.tracked)["run"]
    assert parents["pretrain@one"] == parent
    assert parents["pretrain@one phase 1"] == parents["pretrain@one phase 2"] == stage


@pytest.mark.parametrize("gone", ["deleted", "unknown"])
def test_a_run_that_is_gone_is_made_anew(killed, capsys, gone):
    """Deleted, or of another store: the training is tracked in a new run, without a word."""
    client, _ = _client(relume_home())
    run_id = read_json(killed.tracked)["run"]
    if gone == "deleted":
        client.delete_run(run_id)
    else:
        write_json(killed.tracked, {"run": "f" * 32})
    with StageRun("pretrain@one", {"lr": 0.1}, record=killed.tracked) as run:
        tell(run, 20)
    assert capsys.readouterr().err == ""
    new = read_json(killed.tracked)["run"]
    assert new not in (run_id, "f" * 32)
    assert [metric.step for metric in client.get_metric_history(new, "psnr")] == [20]
    assert client.get_run(new).info.status == "FINISHED"


def test_a_finished_training_is_not_reopened(killed):
    """Once its checkpoint is discarded, the same training starts with a run of its own."""
    with StageRun("pretrain@one", {"lr": 0.1}, record=killed.tracked):
        finished = read_json(killed.tracked)["run"]
        killed.discard()
    assert not killed.tracked.exists()
    with StageRun("pretrain@one", {"lr": 0.1}, record=killed.tracked) as run:
        tell(run, 5)
    client, _ = _client(relume_home())
    assert read_json(killed.tracked)["run"] != finished
    assert [metric.step for metric in client.get_metric_history(finished, "psnr")] == [5, 10, 15]
