"""A sample of the campaign: one round of each kind that takes seconds, and one of a killed pipeline run."""

import csv

import pytest

from tests.chaos.__main__ import HEAD, PAGE, TABLE, attempt
from tests.chaos.faults import FAULTS
from tests.chaos.world import World

LONG = {"kill -9 of a stage", "kill -9 of Prefect's server", "two pipeline runs at once"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What all rounds start from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with World(tmp_path_factory.mktemp("world")) as made:
            yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.exhaustive if kind in LONG else ()) for kind in FAULTS]
)
def test_a_fault_does_no_harm(world, kind):
    """After it, a plain second call ends where an undisturbed one does."""
    assert attempt(world, kind, "make test") == []


def test_the_table_is_that_of_the_page():
    """docs/reliability.md shows every kind with the counts of docs/chaos.csv."""
    with open(TABLE, newline="", encoding="utf-8") as file:
        rows = [(row["fault"], row["tried"], row["wrong"]) for row in csv.DictReader(file)]
    assert [kind for kind, *_ in rows] == list(FAULTS)
    page = PAGE.read_text().partition(HEAD)[2]
    assert page == "".join(f"| {kind} | {tried} | {wrong} |\n" for kind, tried, wrong in rows)
