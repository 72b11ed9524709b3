"""The registry over a database that is none."""

import pytest

from flows.release.registry import Registry
from relume.errors import BrokenFileError
from tests.abuse.rows import limited


@pytest.mark.parametrize("content", [None, b"no database" * 400])
def test_what_is_no_database_is_refused_at_once(tmp_path, monkeypatch, content):
    """A folder or another file in its place: MLflow alone tries for two minutes to open it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    database = tmp_path / "mlflow" / "mlflow.db"
    database.parent.mkdir()
    if content is None:
        database.mkdir()
    else:
        database.write_bytes(content)
    with limited(60), pytest.raises(BrokenFileError, match=r"database cannot be used: .*mlflow\.db"):
        Registry(tmp_path)
