"""A studio of its own for a test, over real HTTP, with a home in which nothing was released."""

from pathlib import Path

import pytest

from flows.studio.app import studio_app
from flows.studio.session import Session
from tests.flows.web import serving


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """The address of a studio, whose files lie in `tmp_path / "session"`."""
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "session"
    folder.mkdir()
    with Session(folder, Path()) as session, serving(studio_app(session)) as address:
        yield address
