"""The check of a home whose ledger and requests are real."""

import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

from flows.monitoring.monitor import DriftError, check, notify, require_unchanged
from flows.monitoring.requests import Requests
from flows.release.ledger import Ledger, Release
from relume.errors import BrokenFileError, ConfigError, ServiceError
from relume.images import read_image
from relume.monitoring.settings import MonitorSettings
from relume.monitoring.statistics import Statistics

SETTINGS = MonitorSettings(reference=100, window_minutes=60, min_requests=30)
HOUR = 3600.0
RELEASE = Release(product="denoise", package="0" * 64, version="1", model="denoise-00000000")


@pytest.fixture
def home(tmp_path):
    """A home in which one product serves."""
    Ledger(tmp_path).append("promoting", RELEASE)
    Ledger(tmp_path).append("promoted", RELEASE)
    return tmp_path


def traffic(home, count, *, at, louder=1.0, seed=0, release=RELEASE.model):
    rng = np.random.default_rng(seed)
    with contextlib.closing(Requests(home)) as requests:
        for each in rng.lognormal(1, 0.5, (count, 3)):
            noise = louder * each[0]
            row = Statistics(seconds=each[1], noise=noise, sharpness=each[2], clipped=0.0, removed=noise, seams=0.0)
            requests.add(release, row, now=at)


def state(home, now):
    (report,) = check(home, SETTINGS, now=now)
    return report.state, report.reference, report.window


def test_from_the_release_to_an_alarm(home):
    """The first requests are collected; then nothing is said of too few, nor of traffic that is as it was; louder
    noise is an alarm once, and is known after that."""
    traffic(home, 60, at=0)
    assert state(home, HOUR) == ("collecting", 60, 0)
    traffic(home, 60, at=HOUR, seed=1)
    assert state(home, 1.5 * HOUR) == ("quiet", 100, 20)
    traffic(home, 60, at=3 * HOUR, seed=2)
    assert state(home, 3.5 * HOUR) == ("unchanged", 100, 60)
    require_unchanged(check(home, SETTINGS, now=3.5 * HOUR), home)
    traffic(home, 60, at=5 * HOUR, louder=2.5, seed=3)
    (report,) = check(home, SETTINGS, now=5.5 * HOUR)
    assert [found.statistic for found in report.comparisons if found.changed] == ["noise", "removed"]
    assert report.is_alarm
    assert "CHANGED" in str(report)
    (again,) = check(home, SETTINGS, now=5.6 * HOUR)
    assert (again.state, again.is_alarm) == ("changed", False)
    with pytest.raises(DriftError, match=r"denoise-00000000.*\n.*noise .* -> .*removed") as error:
        require_unchanged([again], home)
    assert error.value.exit_code == 4


def test_what_was_found_is_kept(home):
    """As JSON, and what has changed as a picture."""
    traffic(home, 100, at=0)
    traffic(home, 50, at=HOUR, louder=3, seed=1)
    check(home, SETTINGS, now=HOUR + 1)
    place = home / "reports" / "monitoring"
    assert json.loads((place / "denoise.json").read_text())["state"] == "changed"
    assert read_image(place / "denoise.png").pixels.std() > 10


def test_another_release_begins_anew(home):
    """Its requests are compared with its own first ones."""
    traffic(home, 200, at=0)
    other = Release(product="denoise", package="1" * 64, version="2", model="denoise-11111111")
    Ledger(home).append("promoting", other)
    Ledger(home).append("promoted", other)
    traffic(home, 10, at=1, release=other.model, louder=5)
    assert state(home, HOUR) == ("collecting", 10, 0)


def test_a_home_without_releases(tmp_path):
    """There is nothing to check."""
    assert check(tmp_path, SETTINGS) == []


@pytest.fixture
def webhook():
    """A real server that takes JSON at /taken and refuses everything else: its address, and what it took."""
    took = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            took.append((self.headers["content-type"], json.loads(body)))
            self.send_response(200 if self.path == "/taken" else 403)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", took
        server.shutdown()


def test_an_alarm_is_sent_once(home, webhook, tmp_path):
    """To the address in the file, as JSON; not while it is known, and not without an alarm."""
    address, took = webhook
    file = tmp_path / "webhook"
    file.write_text(f"{address}/taken\n")
    traffic(home, 100, at=0)
    traffic(home, 50, at=HOUR, seed=1)
    notify(check(home, SETTINGS, now=HOUR + 1), file)
    assert took == []
    traffic(home, 50, at=3 * HOUR, louder=3, seed=2)
    notify(check(home, SETTINGS, now=3 * HOUR + 1), file)
    notify(check(home, SETTINGS, now=3 * HOUR + 2), file)
    ((kind, sent),) = took
    assert kind == "application/json"
    assert "denoise-00000000  changed" in sent["text"]
    assert [report["product"] for report in sent["reports"]] == ["denoise"]


def test_a_webhook_that_does_not_take_it(home, webhook, tmp_path):
    """The message names the file; its content, which is a secret, is in no message."""
    address, _ = webhook
    traffic(home, 100, at=0)
    traffic(home, 50, at=HOUR, louder=3, seed=1)
    reports = check(home, SETTINGS, now=HOUR + 1)
    file = tmp_path / "webhook"
    with pytest.raises(BrokenFileError, match="webhook"):
        notify(reports, file)
    for content, error, says in (
        ("secret-word", ConfigError, "no address"),
        (f"{address}/secret-word", ServiceError, "answered 403"),
        ("http://127.0.0.1:1/secret-word", ServiceError, "cannot be reached"),
    ):
        file.write_text(content)
        with pytest.raises(error, match=says) as refused:
            notify(reports, file)
        assert "secret-word" not in str(refused.value)
