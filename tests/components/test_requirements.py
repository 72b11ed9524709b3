"""Each step's requirements.txt, from which its image is built, against what the step's code imports."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from flows.graph import Graph, read_graph
from flows.lint import CODE_ROOTS, Code, code_deps

# Runs in Triton's own environment; `export` copies it and does not import it.
NOT_IMPORTED = {"relume/serving/triton_python_model.py"}
# Needed without an import in our code; each requirements.txt says why.
BY_OTHER_MEANS = {
    "ingest": {"matplotlib", "scikit-image", "scikit-learn"},
    "validate": {"pyarrow"},
}
# Asked for by a setting only, and then installed by the user: extras of relume.
EXTRAS = {"bm3d"}


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The graph of this repository."""
    return read_graph(Path())


def normal(name: str) -> str:
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(path: Path) -> set[str]:
    """The names in a requirements file."""
    return {normal(line) for text in path.read_text().splitlines() if (line := text.partition("#")[0].strip())}


def imported(graph: Graph, step: str) -> set[str]:
    """Top-level modules of others that the code of a step imports, inside functions too."""
    code = Code(graph.root)
    stages = [stage for stage in graph.stages.values() if stage.component == f"components.{step}"]
    files = set().union(*(code_deps(graph, stage, code) for stage in stages)) - NOT_IMPORTED
    modules = set()
    for file in files:
        for node in ast.walk(ast.parse((graph.root / file).read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    return modules - set(sys.stdlib_module_names) - set(CODE_ROOTS) - EXTRAS


def steps() -> list[str]:
    """The steps of dvc.yaml."""
    return sorted({stage.component.partition(".")[2] for stage in read_graph(Path()).stages.values()})


@pytest.mark.parametrize("step", steps())
def test_requirements_are_the_imports(graph, step):
    """What a step's code imports is listed, and nothing is listed that it does not need."""
    names = listed(Path("components") / step / "requirements.txt")
    providers = importlib.metadata.packages_distributions()
    modules = imported(graph, step)
    missing = {module for module in modules if not names & {normal(name) for name in providers[module]}}
    assert missing == set()
    used = {normal(name) for module in modules for name in providers[module]}
    assert names - used == BY_OTHER_MEANS.get(step, set())


def test_every_requirement_is_pinned():
    """Each listed package, and the runner's, has its version in constraints.txt."""
    pinned = {normal(name) for name in re.findall(r"(?m)^([\w.-]+)==", Path("constraints.txt").read_text())}
    files = [*Path("components").glob("*/requirements.txt"), Path("infra/containers/runner.txt")]
    assert len(files) > 1
    for file in files:
        assert listed(file) <= pinned, file


def test_images_are_named_as_the_graph_names_them(graph):
    """The build script calls an image as `meta.image` of its stage does."""
    for stage in graph.stages.values():
        step = stage.component.partition(".")[2]
        assert stage.meta["image"] == f"relume-{step.replace('_', '-')}"
