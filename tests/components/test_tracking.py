"""What a stage tells MLflow, on a real SQLite store."""

import shutil

import pytest

from components.tracking import StageRun


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store with its tables, made once because making them takes seconds."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RELUME_TRACKING_RUN", raising=False)
        patch.setenv("RELUME_HOME", str(home))
        with StageRun("first", {}):
            pass
    return home


@pytest.fixture
def home(template, tmp_path, monkeypatch):
    """RELUME_HOME with a fresh copy of the store."""
    shutil.copytree(template, tmp_path / "home")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RELUME_TRACKING_RUN", raising=False)
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_error_without_text_ends_nothing(home, capsys, monkeypatch):
    """When the store fails with an error that says nothing, the stage is warned by its kind and goes on."""
    with StageRun("pretrain@one", {}) as run:

        def silent(*_args, **_named):
            raise TimeoutError

        monkeypatch.setattr(run._client, "log_batch", silent)
        run.log(1, {"loss": 0.5})
        run.log(2, {"loss": 0.25})
    assert capsys.readouterr().err == "warning: pretrain@one goes on untracked; MLflow says: TimeoutError\n"
