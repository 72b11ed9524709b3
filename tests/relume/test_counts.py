"""A number with its noun."""

import pytest

from relume.counts import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 tiles"), (1, "1 tile"), (2, "2 tiles"), (1200, "1200 tiles")])
def test_the_noun_follows_the_number(number, text):
    """Only of one thing it has no s."""
    assert counted(number, "tile") == text
