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
NOT_IMPORTED = {f"relume/serving/triton_{name}_model.py" for name in ("estimator", "openvino", "python", "windows")}
# Needed without an import in our code; each requirements.txt says why.
BY_OTHER_MEANS = {
    "ingest": {"matplotlib", "scikit-image", "scikit-learn"},
    "validate": {"pyarrow"},
}
# Asked for by a setting, a source or a file only, and then installed by the user: extras of relume, and DVC.
EXTRAS = {"bm3d", "distributed", "fsspec", "pillow_heif"}


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
    for file in filter(lambda name: name.endswith(".py"), files):  # and not parameters
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
    """Each listed package has its version in constraints.txt."""
    pinned = {normal(name) for name in re.findall(r"(?m)^([\w.-]+)==", Path("constraints.txt").read_text())}
    files = list(Path("components").glob("*/requirements.txt"))
    assert len(files) > 1
    for file in files:
        assert listed(file) <= pinned, file


def test_an_image_holds_what_its_stages_need(graph):
    """A target of the build file installs the requirements of the stages that name its image, and no others."""
    text = Path("infra/containers/Containerfile").read_text()
    targets = dict(re.findall(r"(?ms)^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", text))
    for image in {stage.meta["image"] for stage in graph.stages.values()}:
        kind = image.removeprefix("relume-")
        steps = {stage.component.partition(".")[2] for stage in graph.stages.values() if stage.meta["image"] == image}
        copied = re.findall(r"COPY components/(\w+)/requirements.txt /requirements/\1.txt", targets[kind])
        installed = re.search(r"install.sh ([\w ]+)\n", targets[kind])[1].split()
        assert set(copied) == set(installed) == steps
        assert kind in re.search(r"set -- ([a-z ]+)\n", Path("infra/containers/build.sh").read_text())[1].split()
