"""The end of a retraining is sent to a real server, and a server that is not there fails nothing."""

import http.server
import json
import threading

import pytest

from flows.retrain import _report
from flows.webhook import send
from relume.errors import ConfigError, ServiceError


@pytest.fixture
def server():
    """A server that takes JSON: its address, and what it took."""
    took = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            took.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/secret-path", took
        listening.shutdown()
        thread.join()


def test_the_end_of_a_retraining_is_sent(server, tmp_path):
    """To the address in the file that params.yaml names; without one nothing is sent."""
    address, took = server
    (tmp_path / "params.yaml").write_text("monitor: {webhook_file: hook}\n")
    (tmp_path / "hook").write_text(f"{address}\n")
    said = []
    _report(tmp_path, "It failed.", said.append)
    (tmp_path / "params.yaml").write_text("{}\n")
    _report(tmp_path, "It failed again.", said.append)
    assert took == [{"text": "It failed."}]
    assert said == []


def test_a_webhook_that_is_not_there_is_a_warning_without_its_address(tmp_path):
    """A retraining has not failed because of it."""
    (tmp_path / "params.yaml").write_text("monitor: {webhook_file: hook}\n")
    (tmp_path / "hook").write_text("http://127.0.0.1:9/secret-path\n")
    said = []
    _report(tmp_path, "It failed.", said.append)
    assert len(said) == 1
    assert "cannot be reached" in said[0]
    assert "secret-path" not in said[0]
    with pytest.raises(ServiceError):
        send(tmp_path / "hook", {})
    (tmp_path / "hook").write_text("ftp://example\n")
    with pytest.raises(ConfigError):
        send(tmp_path / "hook", {})
