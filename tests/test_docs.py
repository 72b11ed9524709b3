"""What the documents say is there."""

import re
import typing
from pathlib import Path

import click
import pytest

from flows.graph import read_graph
from relume.cli import main
from relume.degradations.steps import Step
from relume.losses.registry import LOSSES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])


def verbs(command: click.Command) -> set[str]:
    """Every verb of the command line, groups with their subcommands."""
    found = set()
    for name, child in command.commands.items():
        found |= {f"{name} {verb}" for verb in verbs(child)} if isinstance(child, click.Group) else {name}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """Every relative link and image of a page exists."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page):
    """Every `relume ...` between backticks begins with a verb that there is."""
    known = verbs(main)
    for command in re.findall(r"`relume ((?:[a-z]+ ?)+)", page.read_text()):
        words = command.split()
        assert {words[0], " ".join(words[:2])} & (known | {name.split()[0] for name in known}), command


def test_every_boundary_has_its_test():
    """Each row of the page on security names tests, and they are there."""
    rows = re.findall(r"^\|(?! *boundary|-)(.*)\|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert f"\ndef {name}(" in (ROOT / file).read_text(), (file, name)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_are_named_exist(name):
    """Every path of code or documents between backticks exists; capitals stand for a name to fill in."""
    paths = re.findall(r"`((?:[a-z_.]+/)+[a-z0-9_.]*)`", (ROOT / name).read_text())
    made = ("data/", "models/", "reports/", "package/", ".relume/")  # outs and local state
    assert paths
    assert not [path for path in paths if not path.startswith(made) and not (ROOT / path).exists()]


def kinds() -> set[str]:
    """The kinds of degradation steps, as the settings know them."""
    union, _ = typing.get_args(Step)
    return {step.model_fields["kind"].default for step in typing.get_args(union)}


def stages() -> set[str]:
    """The stages of dvc.yaml without the part after @."""
    return {name.partition("@")[0] for name in read_graph(ROOT).stages}


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("training.md", lambda: set(LOSSES)),
        ("pipeline.md", stages),
        ("architecture.md", stages),
        ("training.md", kinds),
        ("recipes.md", lambda: {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - {"defaults"}),
    ],
    ids=["losses", "stages", "stages in the architecture", "degradation steps", "recipes"],
)
def test_a_page_names_all_there_are(page, names):
    """Each is named between backticks, alone or with more behind it."""
    text = (ROOT / "docs" / page).read_text()
    assert {name for name in names() if not re.search(rf"`{name}\b", text)} == set()


def test_the_readme_shows_what_the_demo_printed():
    """The summary in the README stands, to the letter, in the recording of the demo."""
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- demo:begin -->\n```\n(.+?)\n```\n<!-- demo:end -->", readme, re.S)
    assert block
    assert block[1] in (ROOT / "docs" / "demo.txt").read_text()
