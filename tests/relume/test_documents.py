"""The generated documents are those of the code."""

from pathlib import Path

import pytest

from relume.documents import PAGES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_document_is_up_to_date(name):
    """The file in docs/ holds what `make docs` would write."""
    assert (DOCS / name).read_text() == PAGES[name]()


def test_every_command_has_its_section():
    """A command of a group is described below its whole name, with its options."""
    page = PAGES["commands.md"]()
    section = page.split("## relume recipes use\n")[1].split("\n## ")[0]
    assert "Usage: relume recipes use" in section
    assert "--scale" in section
