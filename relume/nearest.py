"""The known name that a mistyped one is nearest to."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Such as `did you mean patch or patches?`, or None when no known name is near."""
    near = difflib.get_close_matches(name, sorted(set(known)))
    return f"did you mean {' or '.join(near)}?" if near else None
