"""A mistyped name gets the nearest known one, whatever kind of thing it names."""

import pytest

from flows.graph import Graph, Stage
from relume.errors import RelumeError
from relume.evaluation.benchmark.protocols import parse_protocol
from relume.models.registry import build
from relume.models.table import show_model
from relume.nearest import did_you_mean
from relume.products import shipped
from relume.recipes.recipe import load


def test_near_names():
    """All that are near, none when nothing is."""
    assert did_you_mean("patchs", ["patch", "patches", "other"]) == "did you mean patches or patch?"
    assert did_you_mean("xyz", ["patch"]) is None


def graph_stage(name):
    """Asks a graph of one group for a stage."""
    stage = Stage(name="pretrain@a", command="true", deps=(), outs=())
    return Graph(root=None, stages={stage.name: stage}).with_upstream([name])


@pytest.mark.parametrize(
    ("ask", "near"),
    [
        (lambda: shipped("foto"), "photo"),
        (lambda: load("ensembel"), "ensemble"),
        (lambda: show_model("nafnet-dem"), "nafnet-demo"),
        (lambda: build("nafnt", {}), "nafnet"),
        (lambda: graph_stage("pretrian"), "pretrain"),
        (lambda: parse_protocol("awng"), "awgn"),
    ],
)
def test_every_kind_of_name(ask, near):
    """Products, recipes, models, architectures, stages and protocols."""
    with pytest.raises(RelumeError, match=f"did you mean .*{near}"):
        ask()
