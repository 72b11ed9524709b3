"""What is said of how far a work is."""

import io
import time

import pytest

from relume.progress import Progress


@pytest.mark.parametrize(("one_by_one", "total", "said"), [(True, 1000, True), (True, 2, False), (False, 1000, False)])
def test_the_first_item_gives_a_first_estimate(monkeypatch, one_by_one, total, said):
    """Of a thousand items that follow each other the first tells how long all take; two are done before it matters."""
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("mine", one_by_one=one_by_one, file=log)
    now[0] = 0.1
    progress("patches", 1, total)
    first = log.getvalue()
    assert first == ("mine  first estimate: about 2 min for 1000 patches\n" if said else "")
    progress("patches", total, total)
    assert log.getvalue().removeprefix(first).startswith(f"mine  {total}/{total} patches  0 s")


def test_a_line_says_how_many_are_done_in_a_second_and_what_is_left(monkeypatch):
    """After 20 s of 100 of 400: 5 a second, and a minute left."""
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress("mine", file=log)
    now[0] = 20.0
    progress("photographs", 100, 400)
    assert log.getvalue() == "mine  100/400 photographs  20 s  5 a second  about 60 s left\n"
