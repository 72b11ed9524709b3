"""Each step's requirements.txt, from which its image is built, against what the step's code imports."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from flows.graph import Graph, read_graph
from flows.lint import CODE_ROOTS, Code, code_deps

# Runs in Triton's own environment; `export` copies it and does not import it.
NOT_IMPORTED = {f"relume/serving/triton_{name}_model.py" for name in ("graphs", "openvino", "python")}
# Needed without an import in our code; each requirements.txt says why.
BY_OTHER_MEANS = {
    "ingest": {"av", "matplotlib", "rawpy", "scikit-image", "scikit-learn"},
    "validate": {"pyarrow"},
}
# Asked for by a setting, a source or a file only, and then installed by the user: extras of relume, and DVC. The image
# that ingests has those that read camera raw and videos.
EXTRAS = {"av", "bm3d", "distributed", "fsspec", "pillow_heif", "rawpy"}


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


def locked(layer: str) -> dict[str, str]:
    """The versions that an image's list of packages has, each with at least one hash."""
    text = Path(f"infra/containers/locked/{layer}.txt").read_text()
    entries = re.findall(r"(?m)^([\w.-]+)==(\S+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}[ \\]*\n)+)", text)
    assert len(entries) == len(re.findall(r"(?m)^\S+==", text))
    return {normal(name): version for name, version, _ in entries}


def test_an_image_holds_what_its_stages_need(graph):
    """Its list has the requirements of the stages that name it, at the pinned versions; PyTorch alone is not in it."""
    text = Path("infra/containers/Containerfile").read_text()
    targets = dict(re.findall(r"(?ms)^FROM (?:\S+) AS (\w+)\n(.*?)(?=^FROM|\Z)", text))
    pins = re.findall(r"(?m)^([\w.-]+)==(\S+)$", Path("constraints.txt").read_text())
    pinned = {normal(name): version for name, version in pins}
    images = {stage.meta["image"] for stage in graph.stages.values()} | {"relume-dvc"}
    for kind in (image.removeprefix("relume-") for image in images):
        steps = {stage.component for stage in graph.stages.values() if stage.meta["image"] == f"relume-{kind}"}
        files = [Path(step.replace(".", "/")) / "requirements.txt" for step in steps]
        needed = set().union(*(listed(file) for file in files or [Path("infra/containers/dvc.txt")]))
        held = locked(kind)
        assert needed - set(held) <= {"torch"}, f"{kind}: sh infra/containers/lock.sh"
        assert {name: pinned.get(name, version) for name, version in held.items()} == held, "run lock.sh"
        assert f"COPY infra/containers/locked/{kind}.txt /requirements/locked/" in targets[kind]
        assert f"sh /requirements/install.sh {kind}\n" in targets[kind]
        assert kind in re.search(r"set -- ([a-z ]+)\n", Path("infra/containers/build.sh").read_text())[1].split()
    for kind in ("training", "evaluation"):  # they begin with this layer
        assert locked("networks").items() <= locked(kind).items()


def test_the_image_of_the_services_holds_what_relume_needs():
    """All of pyproject.toml but PyTorch, and the drivers of Kubernetes and PostgreSQL, at the pinned versions."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {
        normal(re.split(r"[\[ ]", text)[0])
        for text in [*project["dependencies"], *extras["kubernetes"], *extras["postgres"]]
    }
    pins = {normal(name): at for name, at in re.findall(r"(?m)^([\w.-]+)==(\S+)$", Path("constraints.txt").read_text())}
    held = locked("platform")
    assert needed - held.keys() == {"torch"}, "sh infra/containers/lock.sh"
    assert {name: pins.get(name, version) for name, version in held.items()} == held, "run lock.sh"
    assert locked("networks").items() <= held.items()
    assert locked("s3").items() <= pins.items()


@pytest.mark.exhaustive
def test_a_file_that_is_not_the_locked_one_is_not_installed(tmp_path):
    """pip compares each file with the list of an image, and ends where one has another hash."""
    entry = re.search(r"(?m)^six==.*?(?=^\S)", Path("infra/containers/locked/dvc.txt").read_text(), re.DOTALL)
    assert entry
    for text, installed in [(entry[0], True), (re.sub(r"sha256:.{8}", "sha256:00000000", entry[0]), False)]:
        (tmp_path / "list.txt").write_text(text.rstrip().rstrip("\\") + "\n")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "--no-cache-dir"]
        command += ["--target", str(tmp_path / "site"), "--requirement", str(tmp_path / "list.txt")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode == 0) is installed, done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr
