"""A studio of its own for a test, over real HTTP, with a home in which nothing was released."""

import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn

from flows.studio.app import studio_app
from flows.studio.session import Session


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """The address of a studio, whose files lie in `tmp_path / "session"`."""
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "session"
    folder.mkdir()
    with socket.socket() as listener, Session(folder, Path()) as session:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(studio_app(session), log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
