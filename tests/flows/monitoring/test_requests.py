"""The table of requests, on a real SQLite file."""

import contextlib
import sqlite3
import stat
import threading
import time

import pytest

import flows.monitoring.requests as module
from flows.monitoring.requests import Requests
from relume.errors import BrokenFileError
from relume.monitoring.statistics import NAMES, Statistics


def numbers(noise):
    return Statistics(seconds=0.1, noise=noise, sharpness=200.0, clipped=0.0, removed=2.0, seams=0.01)


@pytest.fixture
def requests(tmp_path):
    with contextlib.closing(Requests(tmp_path)) as requests:
        yield requests


def test_what_is_added_comes_back_in_its_order(requests):
    """By release; the first ones apart from the later ones, of which those before a time are left out."""
    for second in range(10):
        requests.add("denoise-a", numbers(second), now=second)
        requests.add("denoise-b", numbers(100 + second), now=second)
    assert set(requests.first("denoise-a", 4)) == set(NAMES)
    assert list(requests.first("denoise-a", 4)["noise"]) == [0, 1, 2, 3]
    assert list(requests.later("denoise-a", 4, since=7)["noise"]) == [7, 8, 9]
    assert list(requests.later("denoise-a", 8, since=0)["noise"]) == [8, 9]
    assert list(requests.first("denoise-b", 2)["seconds"]) == [0.1, 0.1]
    assert len(requests.first("denoise-c", 4)["noise"]) == 0


def test_a_home_without_requests(requests):
    """Reading makes no file."""
    assert [len(values) for values in requests.first("denoise-a", 4).values()] == [0] * len(NAMES)
    assert not requests.path.exists()


def test_only_the_user_may_read_it(requests):
    """The file is private from the beginning."""
    requests.add("denoise-a", numbers(1))
    assert stat.S_IMODE(requests.path.stat().st_mode) == 0o600
    assert list(requests.later("denoise-a", 0, since=time.time() - 60)["noise"]) == [1]


def test_the_number_of_rows_is_bounded(requests, monkeypatch):
    """The first of each release and the latest of all stay; those between them go."""
    monkeypatch.setattr(module, "ROWS", 20)
    monkeypatch.setattr(module, "FIRST", 5)
    monkeypatch.setattr(module, "_TIDY_EVERY", 10)
    for second in range(100):
        requests.add("denoise-a", numbers(second), now=second)
    assert list(requests.first("denoise-a", 5)["noise"]) == [0, 1, 2, 3, 4]
    kept = list(requests.later("denoise-a", 5, since=0)["noise"])
    assert kept == list(range(80, 100))


def test_gateways_that_write_at_a_time(requests):
    """Every row of every thread is there, each with a number of its own."""

    def write(first):
        with contextlib.closing(Requests(requests.path.parents[1])) as own:
            for noise in range(first, first + 25):
                own.add("denoise-a", numbers(noise))

    threads = [threading.Thread(target=write, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = requests.first("denoise-a", 1000)["noise"]
    assert sorted(found) == [100 * number + place for number in range(4) for place in range(25)]


def test_a_damaged_or_locked_database_is_named(requests, monkeypatch):
    """With the file and what to do; a lock is waited for only for as long as a request may."""
    monkeypatch.setattr("flows.monitoring.database._LOCKED_SECONDS", 0.1)
    requests.add("denoise-a", numbers(1))
    requests.close()
    with sqlite3.connect(requests.path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BrokenFileError, match="locked"):
            requests.add("denoise-a", numbers(2))
    other.close()
    requests.close()
    requests.path.write_bytes(b"no database at all" * 100)
    with pytest.raises(BrokenFileError, match=r"(?s)requests\.db.*not a database"):
        requests.first("denoise-a", 1)
