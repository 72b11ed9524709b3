"""The document of the parameters: every key has a meaning, and types, defaults and ranges are those of the settings."""

import json
from pathlib import Path

import pytest

from relume.params_page import meanings_of, params_page, params_schema, settings_classes

ROOT = Path(__file__).parents[2]
PAGE = params_page(ROOT)


@pytest.mark.parametrize(
    "model", sorted(settings_classes(), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__
)
def test_every_key_has_a_meaning(model):
    """The docstring of its class, or of one that it inherits from, says what each key means; `kind` names the class."""
    assert set(model.model_fields) - {"kind"} <= meanings_of(model).keys()


@pytest.mark.parametrize(
    "row",
    [
        "| `patch` | whole number | required | at least 32 | Side of a training patch, in pixels. |",
        "| `workers` | whole number | `0` | at least 0 |",
        '| `keep` | `last`, `best` | `"last"` |  |',
        "| `sizes` | list: list of 2: whole number | required | above 0 |",
        "| `seed` | whole number | required | at least 0, below 2147483648 |",
        "| `validation_fraction` | number | required | above 0, below 1 |",
    ],
)
def test_rows_are_those_of_the_settings(row):
    """Rows that were written by hand from the settings."""
    assert row in PAGE


@pytest.mark.parametrize(
    ("section", "readers"),
    [("ingest", "`ingest`"), ("training", "`pretrain`, `ensemble_head`, `mine_hard`, `finetune_hard`")],
)
def test_readers_are_the_stages_of_the_graph(section, readers):
    """Each section names the stages whose params name it."""
    assert f"Read by {readers}." in PAGE.split(f"## {section}\n")[1].split("## ")[0]


def test_links_lead_to_tables():
    """Every type that is a link has its heading."""
    targets = {part.split(")")[0] for part in PAGE.split("](#")[1:]}
    headings = {line.removeprefix("## ").replace(" ", "-") for line in PAGE.splitlines() if line.startswith("## ")}
    assert targets <= headings


def described(schema):
    """Each key of a schema and of its definitions, and what it says of the key."""
    for part in (schema, *schema["$defs"].values()):
        for key, entry in part.get("properties", {}).items():
            yield key, entry.get("description")


def test_an_editor_shows_what_the_page_says():
    """Every key of the schema has a description: what the page has in its row, or what its `kind` is."""
    found = list(described(json.loads(params_schema())))
    assert len(found) > 200
    for key, description in found:
        assert description, key
        assert (description if key == "kind" else f"| {description.replace('|', chr(92) + '|')} |") in PAGE or (
            f"\n{description} Read by" in PAGE
        ), key


def test_the_schema_knows_the_sections_and_refuses_other_keys():
    """Sections are properties, unknown keys are not allowed, and nothing is required, since two files share them."""
    schema = json.loads(params_schema())
    assert {"curate", "validate", "release"} <= schema["properties"].keys()
    assert schema["additionalProperties"] is False
    assert "required" not in json.dumps(schema).replace('"required by', "")
