"""Durations as a person reads them."""


def duration(seconds: float) -> str:
    """Such as `40 s`, `12 min`, `3.5 h` or `4 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def time_left(seconds: float, done: int, total: int) -> str:
    """What is left of work that took `seconds` so far, such as `about 12 min left`; empty at its beginning and end."""
    if not 0 < done < total:
        return ""
    return f"about {duration(seconds / done * (total - done))} left"
