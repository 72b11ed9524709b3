"""MLflow's and Prefect's databases, damaged or locked by another program."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.platform import services
from flows.platform.doctor import examine, exit_code
from flows.platform.status import read_status
from flows.prefect_settings import _start_server
from flows.release.registry import Registry
from relume.errors import BrokenFileError
from tests.abuse.rows import limited

OWNERS = {"mlflow": "MLflow", "prefect": "Prefect"}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection writes for as long as this lasts."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS one (value)")
        database.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """It is no database."""
    path.write_bytes(b"no database" * 400)
    yield


@pytest.fixture(params=[(damaged, "cannot be used"), (locked, "is locked by another program")])
def fault(request):
    """What is wrong with a database, and the words for it."""
    return request.param


@pytest.mark.parametrize("name", OWNERS)
def test_the_database_is_named_with_the_next_step(tmp_path, monkeypatch, fault, name):
    """By `status`, `doctor`, `up`, and what needs it: a release or a pipeline run. None waits longer than a minute."""
    for variable in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(variable, raising=False)
    make, words = fault
    path = tmp_path / name / f"{name}.db"
    path.parent.mkdir()
    with make(path), limited(60):
        expected = f"{OWNERS[name]}'s database {words}"
        (problem,) = read_status(tmp_path, tmp_path).problems
        assert problem.startswith(f"{expected}: {path}\n")
        assert "\n  next: " in problem
        assert exit_code(examine(tmp_path, tmp_path)) == 1
        report = services.start(tmp_path, tmp_path, name)
        assert report.state == "failed"
        assert report.detail.startswith(f"{expected}: {path}")
        with pytest.raises(BrokenFileError, match=expected):
            Registry(tmp_path) if name == "mlflow" else _start_server(path.parent / "servers")
