import pytest

from flows.graph import read_graph
from relume.errors import ConfigError, GraphError


def test_stages_come_with_what_they_read_and_need(toy):
    """Names, deps, outs, metrics, params, meta and upstream are those that dvc.yaml gives after its templates."""
    stages = read_graph(toy.root).stages
    two = stages["pretrain@two"]
    assert two.command == "python -m components.pretrain --base two"
    assert two.component == "components.pretrain"
    assert "data/first" in two.deps
    assert two.outs == ("models/bases/two",)
    assert set(two.params) == {"training", "pretrain.bases.two"}
    assert two.meta == {"image": "toy", "cpu": 1, "memory": "1Gi", "gpu": 0, "retries": 1, "timeout": 60}
    assert two.upstream == ("first",)
    assert set(stages["last"].outs) == {"reports/last", "reports/metrics.json"}


def test_a_folder_of_outs_is_read_out_by_out(toy):
    """A dep on a folder reads the outs of all stages that write below it."""
    last = read_graph(toy.root).stages["last"]
    assert last.upstream == ("pretrain@one", "pretrain@two")
    assert last.inputs == ("models/bases/one", "models/bases/two")


def test_order_is_that_of_dvc_repro(toy):
    """The stages stand in the order in which `dvc repro` runs them."""
    toy.shell("dvc", "repro")
    assert list(read_graph(toy.root).stages) == toy.ran()


def test_chosen_stages_bring_what_they_need(toy):
    """A stage brings its upstream; the name of a group stands for its stages."""
    graph = read_graph(toy.root)
    assert list(graph.with_upstream(["pretrain@two"])) == ["first", "pretrain@two"]
    assert list(graph.with_upstream(["pretrain"])) == ["first", "pretrain@one", "pretrain@two"]


def test_an_unknown_stage_is_refused_with_the_names(toy):
    """The error lists the stages there are."""
    with pytest.raises(GraphError, match="first, pretrain@one, pretrain@two, last"):
        read_graph(toy.root).with_upstream(["typo"])


@pytest.mark.parametrize(
    ("path", "text", "error", "why"),
    [
        ("dvc.yaml", "stages: [", ConfigError, "dvc.yaml, line 1"),
        ("dvc.yaml", "stages: {a: {cmd: x, outs: [o]}, b: {cmd: x, outs: [o]}}", GraphError, "specified in"),
        ("params.yaml", "first: {}\n", GraphError, "pretrain"),
    ],
)
def test_what_dvc_refuses_is_one_clear_error(toy, path, text, error, why):
    """Broken YAML, outs of two stages at one place and templates without a value end with one message."""
    toy.write(path, text)
    with pytest.raises(error, match=why):
        read_graph(toy.root)


def test_a_folder_without_a_graph_is_refused(tmp_path):
    """Outside of a checkout the error says where to go."""
    with pytest.raises(GraphError, match="pipeline graph does not exist"):
        read_graph(tmp_path)
