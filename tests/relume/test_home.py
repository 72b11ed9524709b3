"""The paths of the home as other programs take them."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.errors import ConfigError
from relume.home import private_home, sqlite_address, sqlite_file, tracking_uri

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@settings(max_examples=200, deadline=None)
@given(name=NAMES)
def test_a_database_is_in_the_folder_that_its_address_names(tmp_path_factory, name):
    """SQLAlchemy makes the file where the path says, whatever the folder is called; the address leads back."""
    path = tmp_path_factory.getbasetemp() / "databases" / name / "mlflow.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    address = sqlite_address(path)
    assert sqlite_file(address) == path
    engine = sqlalchemy.create_engine(address)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE here (value)"))
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("here",)]


@pytest.mark.parametrize("address", ["http://127.0.0.1:5000", "postgresql://a/b", "file:///a", "a"])
def test_other_addresses_are_of_no_file(address):
    """Only those of SQLite are."""
    assert sqlite_file(address) is None


@pytest.mark.parametrize(("character", "name"), [(":", "a colon"), ("\n", "a line break")])
def test_a_home_that_other_programs_would_misread_is_refused(tmp_path, character, name):
    """The message names the character; nothing is made."""
    home = Path(tmp_path / f"a{character}b")
    with pytest.raises(ConfigError, match=name):
        private_home(home)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlite:///runs/a.db", "sqlite:////here/runs/a.db"),
        ("./mlruns", "/here/mlruns"),
        ("sqlite:////there/a.db?timeout=3", "sqlite:////there/a.db?timeout=3"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
        ("", "sqlite:////here/home/mlflow/mlflow.db"),
    ],
)
def test_a_relative_tracking_address_is_of_the_current_folder(tmp_path, monkeypatch, given, meant):
    """It is made absolute, so that the stages, which run in clones, find the same store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri(tmp_path / "home") == meant.replace("/here", str(tmp_path))
