from dataclasses import replace
from pathlib import Path

import pytest

from flows.graph import read_graph
from flows.lint import Code, check, code_deps, fix, require_sound
from relume.errors import ConfigError, GraphError, UserError


def problems(toy):
    """What the linter says of the repository as it is."""
    return [str(problem) for problem in check(read_graph(toy.root))]


def edit(toy, path, old, new):
    """Replaces text of a file that must be there."""
    text = (toy.root / path).read_text()
    assert old in text
    toy.write(path, text.replace(old, new))


REGISTRY = """\
import importlib
ARCHITECTURES = {
    "nafnet": ("relume.models.nafnet", "NAFNet"),
    "baseline": ("relume.models.nafnet", "Baseline"),
    "restormer": ("relume.models.restormer", "Restormer"),
    "xformer": ("relume.models.xformer", "Xformer"),
    "bias_adapted": ("relume.biases", "BiasAdapted"),
    "ensemble": ("relume.models.ensemble", "Ensemble"),
}
"""
HEAD = """\
ensemble_head: {fusion: {architecture: ensemble}}
finetune_hard: {adapt: null}
"""


def needed_families(toy):
    """The files of model families that each stage needs."""
    graph, code = read_graph(toy.root), Code(toy.root)
    places = ("relume/models/nafnet", "relume/models/rest", "relume/models/xf", "relume/models/ens", "relume/biases")
    return {
        name: {Path(dep).stem for dep in code_deps(graph, stage, code) if dep.startswith(places)}
        for name, stage in graph.stages.items()
    }


def with_registry(toy):
    """Gives the toy a registry of model families, reached from `pretrain` and `last`."""
    toy.write("relume/__init__.py", "")
    toy.write("relume/models/__init__.py", "")
    toy.write("relume/models/registry.py", REGISTRY)
    toy.write("relume/models/layers.py", "")
    toy.write("relume/models/nafnet.py", "from relume.models import layers\n")
    toy.write("relume/models/restormer.py", "")
    toy.write("relume/models/xformer.py", "from relume.models import restormer\n")
    toy.write("relume/models/ensemble.py", "")
    toy.write("relume/biases.py", "")
    for step in ("pretrain", "last"):
        path = f"components/{step}/__main__.py"
        toy.write(path, "from relume.models import registry\n" + (toy.root / path).read_text())
    edit(toy, "params.yaml", "one: {width", "one: {architecture: nafnet, width")
    edit(toy, "params.yaml", "two: {width", "two: {architecture: restormer, width")
    toy.write("params.yaml", (toy.root / "params.yaml").read_text() + HEAD)


def test_a_sound_graph_has_no_problems(toy):
    """What `fix` wrote passes."""
    assert problems(toy) == []


def test_code_that_a_stage_runs_but_does_not_list_is_a_problem(toy):
    """A new import makes each stage that reaches it fail the check, by name, until `fix` adds it."""
    toy.write("components/palette.py", "")
    edit(toy, "components/work.py", "import os", "from components import palette\nimport os")
    found = problems(toy)
    assert len(found) == 4
    assert all("its deps lack code that it runs: components/palette.py" in problem for problem in found)
    assert fix(toy.root)
    assert problems(toy) == []


def test_code_that_a_stage_lists_but_does_not_run_is_a_problem(toy):
    """An import that went away leaves a dep that would retrain for nothing."""
    edit(toy, "components/last/__main__.py", "from components.work import work\n", "def work(*a): ...\n")
    assert problems(toy) == [
        "last: its deps list code that it does not run: components/work.py (relume pipeline lint --fix)"
    ]


def test_fix_writes_once_and_keeps_the_rest(toy):
    """A second fix changes nothing; comments, order and layout of dvc.yaml are as written."""
    before = (toy.root / "dvc.yaml").read_text()
    assert not fix(toy.root)
    toy.write("components/palette.py", "")
    edit(toy, "components/last/__main__.py", "import pathlib", "import pathlib, components.palette")
    assert fix(toy.root)
    after = (toy.root / "dvc.yaml").read_text()
    assert [line for line in after.splitlines() if "palette" not in line] == before.splitlines()


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("from components.far import x", True),
        ("def f():\n    import components.far", True),
        ("from . import far", True),
        ("from .far import x", True),
        ("script = 'far.py'", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import components.far", False),
        ("text = 'components.far'", False),
    ],
)
def test_the_closure_follows_what_can_run(toy, source, reached):
    """Imports at any depth, relative ones and neighbours named as files count; type-only imports and names do not."""
    toy.write("components/far.py", "import components.farther\n")
    toy.write("components/farther.py", "import json, numpy\n")
    toy.write("components/near.py", source + "\n")
    closure = Code(toy.root).closure(["components/near.py"])
    expected = {"components/__init__.py", "components/near.py"}
    assert closure == expected | ({"components/far.py", "components/farther.py"} if reached else set())


def test_parameters_that_a_module_reads_are_code(toy):
    """A file .npz beside a module that names it is among what it runs, and is not read as Python."""
    toy.write("components/near.py", 'NAMES = ("weights.npz", "missing.npz")\n')
    toy.write("components/weights.npz", "not Python (")
    assert "components/weights.npz" in Code(toy.root).closure(["components/near.py"])
    assert "components/missing.npz" not in Code(toy.root).closure(["components/near.py"])


def test_importing_a_module_runs_its_packages(toy):
    """The `__init__.py` of every package on the way is in the closure."""
    toy.write("relume/__init__.py", "import relume.errors\n")
    toy.write("relume/errors.py", "")
    toy.write("relume/models/__init__.py", "")
    toy.write("relume/models/layers.py", "")
    toy.write("components/near.py", "from relume.models.layers import Layer\n")
    closure = Code(toy.root).closure(["components/near.py"])
    assert closure >= {"relume/__init__.py", "relume/errors.py", "relume/models/__init__.py", "relume/models/layers.py"}


def test_a_base_depends_on_its_own_family_alone(toy):
    """With lazily loaded families, an edit of one family concerns its own base and the stages after all bases."""
    with_registry(toy)
    fix(toy.root)
    assert needed_families(toy) == {
        "first": set(),
        "pretrain@one": {"nafnet"},
        "pretrain@two": {"restormer"},
        "last": {"nafnet", "restormer", "ensemble"},
    }
    graph = read_graph(toy.root)
    assert "relume/models/restormer.py" not in graph.stages["pretrain@one"].deps
    assert "relume/models/layers.py" in graph.stages["pretrain@one"].deps
    assert "relume/models/${item.architecture}.py" in (toy.root / "dvc.yaml").read_text()
    assert problems(toy) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("architecture: baseline, width", "architecture: restormer, width"),
        ("architecture: xformer, width", "architecture: restormer, width"),
    ],
)
def test_bases_that_dvc_cannot_tell_apart_share_their_families(toy, first, second):
    """A family of another file's name, or one that runs another base's, makes each base depend on what any runs."""
    with_registry(toy)
    edit(toy, "params.yaml", "architecture: nafnet, width", first)
    fix(toy.root)
    graph = read_graph(toy.root)
    assert "item.architecture" not in (toy.root / "dvc.yaml").read_text()
    assert graph.stages["pretrain@one"].deps == graph.stages["pretrain@two"].deps
    assert "relume/models/restormer.py" in graph.stages["pretrain@one"].deps
    assert problems(toy) == []
    edit(toy, "params.yaml", first, "architecture: nafnet, width")
    fix(toy.root)
    assert "relume/models/${item.architecture}.py" in (toy.root / "dvc.yaml").read_text()


def test_two_bases_of_one_family_need_nothing_else(toy):
    """Both fill in the same file."""
    with_registry(toy)
    edit(toy, "params.yaml", "architecture: restormer", "architecture: nafnet")
    fix(toy.root)
    found = needed_families(toy)
    assert found["pretrain@one"] == found["pretrain@two"] == {"nafnet"}
    assert "relume/models/${item.architecture}.py" in (toy.root / "dvc.yaml").read_text()
    assert problems(toy) == []


def test_what_a_wrapper_holds_is_a_family_too(toy):
    """An architecture named inside of a base's arguments is run by that base."""
    with_registry(toy)
    edit(toy, "params.yaml", "nafnet, width", "bias_adapted, arguments: {architecture: xformer}, width")
    assert needed_families(toy)["pretrain@one"] == {"biases", "xformer", "restormer"}


def test_no_fusion_needs_no_family(toy):
    """The fusion's family is that of params.yaml; null has none."""
    with_registry(toy)
    edit(toy, "params.yaml", "{fusion: {architecture: ensemble}}", "{fusion: null}")
    assert needed_families(toy)["last"] == {"nafnet", "restormer"}


def test_adapted_biases_concern_the_final_model_alone(toy):
    """The wrapper is run by the stages that write or read the final model, and by none before."""
    with_registry(toy)
    edit(toy, "params.yaml", "adapt: null", "adapt: biases")
    assert "biases" not in needed_families(toy)["last"]
    edit(toy, "dvc.yaml", "    deps:\n      - models/bases", "    deps:\n      - models/bases\n      - models/final")
    assert "biases" in needed_families(toy)["last"]


def test_an_unknown_architecture_is_refused_by_name(toy):
    """A base whose family has no file is an error that names the key."""
    with_registry(toy)
    edit(toy, "params.yaml", "restormer", "resformer")
    with pytest.raises(ConfigError, match=r"pretrain.bases.two.architecture='resformer'"):
        check(read_graph(toy.root))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("python -m components.first", "python -m components.typo", "component components.typo does not exist"),
        ("python -m components.first", "echo hello", "runs no component: echo hello"),
        ("python -m components.first", "python -m components.first --to /tmp/x", "leads out of the checkout: /tmp/x"),
        (
            "- data/first\n    meta",
            "- data/first\n      - ../elsewhere:\n          cache: false\n    meta",
            "../elsewhere",
        ),
        ("{image: toy, cpu: 1,", "{cpu: 1,", "meta.image is missing"),
        ("memory: 1Gi", "memory: lots", "meta.memory = 'lots': String should match"),
        ("cpu: 1", "cpu: 0", "meta.cpu = 0: Input should be greater"),
        ("retries: 0", "retries: -1", "meta.retries = -1: Input should be greater"),
        ("gpu: 0", "gpu: true", "meta.gpu = True: Input should be a valid integer"),
        ("gpu: 0", "gpus: 0", "meta.gpus is unknown; did you mean gpu?"),
    ],
)
def test_each_rule_has_its_message(toy, old, new, said):
    """Component, paths and every field of meta are checked, and the message says what is wrong."""
    edit(toy, "dvc.yaml", old, new)
    assert any(said in problem for problem in problems(toy))


def test_all_problems_are_told_at_once(toy):
    """The error of an unsound graph lists every broken rule with its stage."""
    graph = read_graph(toy.root)
    broken = {name: replace(stage, meta={**stage.meta, "cpu": 0}) for name, stage in graph.stages.items()}
    with pytest.raises(GraphError, match=r"breaks 4 of its rules(.|\n)*first: (.|\n)*last: "):
        require_sound(replace(graph, stages=broken))


def test_code_that_does_not_parse_is_named(toy):
    """A syntax error in a step is an error with file and line."""
    toy.write("components/work.py", "def work(:\n")
    with pytest.raises(UserError, match=r"components/work.py:1"):
        check(read_graph(toy.root))
