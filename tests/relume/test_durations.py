"""Durations as a person reads them."""

from relume.durations import duration, time_left


def test_durations_are_read_at_a_glance():
    """Seconds, minutes, hours and days."""
    assert [duration(seconds) for seconds in (40, 720, 12600, 345600)] == ["40 s", "12 min", "3.5 h", "4 days"]


def test_the_time_left_follows_from_what_is_done():
    """A quarter in 10 s leaves 30 s; at the beginning nothing is known, at the end nothing is left."""
    assert time_left(10, 25, 100) == "about 30 s left"
    assert (time_left(10, 0, 100), time_left(10, 100, 100)) == ("", "")
