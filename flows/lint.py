"""The graph's rules, checked before anything runs, and the code that each stage runs as its deps.

A stage is run again when the code it runs changes, and only then. That code is the import closure of its
component within this repository, found without running it. Model families are imported by name, so that
an edit of one does not retrain the others: a stage whose closure reaches the registry depends on the
families that the parameters name, those of the bases, of the fusion over them and, from the fine-tune on, of what
the fine-tune adapts; a stage of one base (a `foreach` over `pretrain.bases`) on the families of that base. The
stages of such a group share one list of deps in dvc.yaml, in which DVC can fill in a file named as the base's
architecture. Where that is not all by which the bases differ, each depends on what any of them runs.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from flows.families import REGISTRY, Families
from flows.graph import SCHEMA, Graph, Meta, Stage, read_graph
from relume import files
from relume.errors import GraphError, UserError
from relume.params import load_params
from relume.params_file import RECIPE
from relume.recipes.check import check_params
from relume.settings import problems, validated

CODE_ROOTS = ("relume", "components", "flows")
FAMILIES = "relume/models"
FINAL = "models/final"
MARK = "the code it runs, by `relume pipeline lint --fix`"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One broken rule: the stage, what is wrong, and how to fix it."""

    stage: str
    what: str
    repair: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.what} ({self.repair})"


@dataclass
class Code:
    """The Python files of a checkout that belong to the graph, and what each imports; files are parsed once.

    Args:
        root: The checkout.
    """

    root: Path
    _imports: dict[str, frozenset[str]] = field(default_factory=dict)

    def closure(self, starts: Iterable[str]) -> set[str]:
        """The files that importing `starts` can come to run, themselves included.

        Args:
            starts: Paths of Python files, relative to the checkout.

        Returns:
            Relative POSIX paths. Imports inside functions count, those under `if TYPE_CHECKING` do not, and
            neither do imports by name. A Python file, or one of parameters (.npz), that a module names by a string
            and that lies beside it counts too: it is read or copied as a file.
        """
        found: set[str] = set()
        waiting = list(starts)
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += self._imports_of(path)
        return found

    def _imports_of(self, path: str) -> frozenset[str]:
        if path not in self._imports:
            self._imports[path] = frozenset(self._find_imports(path) if path.endswith(".py") else ())
        return self._imports[path]

    def _find_imports(self, path: str) -> Iterator[str]:
        yield from self._packages(PurePosixPath(path).parent)
        try:
            tree = ast.parse((self.root / path).read_bytes(), path)
        except SyntaxError as error:
            raise UserError(
                "The file is not valid Python",
                where=f"{path}:{error.lineno}",
                why=error.msg,
                next_step=f"correct {path}",
            ) from None
        for node in _run_nodes(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield from self._module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node, path)
                yield from self._module(base)
                for alias in node.names:
                    yield from self._module(f"{base}.{alias.name}")
            elif (
                isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith((".py", ".npz"))
            ):
                named = PurePosixPath(path).parent / node.value
                if "/" not in node.value and (self.root / named).is_file():
                    yield str(named)

    def _absolute(self, node: ast.ImportFrom, path: str) -> str:
        if not node.level:
            return node.module or ""
        package = PurePosixPath(path).parent.parts
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])

    def _module(self, name: str) -> Iterator[str]:
        if name.partition(".")[0] not in CODE_ROOTS:
            return
        place = PurePosixPath(*name.split("."))
        if (self.root / place).is_dir():
            yield from self._packages(place)
        elif (self.root / f"{place}.py").is_file():
            yield f"{place}.py"

    def _packages(self, folder: PurePosixPath) -> Iterator[str]:
        for package in (folder, *folder.parents):
            if (self.root / package / "__init__.py").is_file():
                yield str(package / "__init__.py")


def _run_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def is_code(dep: str) -> bool:
    """Whether a dep is code of this repository rather than data."""
    return PurePosixPath(dep).parts[0] in CODE_ROOTS


def _base_of(stage: Stage) -> str | None:
    prefix = "pretrain.bases."
    return next((key.removeprefix(prefix) for key in stage.params if key.startswith(prefix)), None)


def code_deps(graph: Graph, stage: Stage, code: Code) -> set[str]:
    """The files of this repository that a stage runs.

    Args:
        graph: The graph of the checkout.
        stage: A stage with a component.
        code: The parsed files of the checkout.

    Returns:
        Relative POSIX paths, model families included; empty when the component does not exist.
    """
    start = f"{stage.component.replace('.', '/')}/__main__.py" if stage.component else ""
    if not (graph.root / start).is_file():
        return set()
    closure = code.closure([start])
    if REGISTRY not in closure:
        return closure
    families = Families(graph.root)
    base = _base_of(stage)
    if base is not None:
        return closure | code.closure(families.bases[base])
    return closure | code.closure(families.after_bases(final=FINAL in (*stage.deps, *stage.outs)))


def check(graph: Graph) -> list[Problem]:
    """Checks every stage of a graph against the rules.

    Returns:
        What is broken, in the order of the graph; an empty list when nothing is.
    """
    code = Code(graph.root)
    found: list[Problem] = []
    expected = {name: code_deps(graph, stage, code) for name, stage in graph.stages.items()}
    for name, stage in graph.stages.items():
        found += [*_check_component(graph.root, stage), *_check_meta(stage), *_check_paths(stage)]
        if not expected[name]:
            continue
        listed = {dep for dep in stage.deps if is_code(dep)}
        # The stages of a group share one list, so one may list what only another runs.
        group = name.partition("@")[0]
        shared = set().union(*(files for other, files in expected.items() if other.partition("@")[0] == group))
        repair = "relume pipeline lint --fix"
        if missing := sorted(expected[name] - listed):
            found.append(
                Problem(stage=name, what=f"its deps lack code that it runs: {', '.join(missing)}", repair=repair)
            )
        if idle := sorted(listed - shared):
            found.append(
                Problem(stage=name, what=f"its deps list code that it does not run: {', '.join(idle)}", repair=repair)
            )
    return [*found, *_check_params(graph.root)]


def _check_params(root: Path) -> Iterator[Problem]:
    """What stages would fail at, after those before them have trained for hours."""
    if (root / SCHEMA).is_file():
        for problem in check_params(load_params(root)).problems:
            stage, _, what = problem.partition(": ")
            yield Problem(stage=stage, what=what, repair=f"correct it in {RECIPE}")


def _check_component(root: Path, stage: Stage) -> Iterator[Problem]:
    if stage.component is None:
        repair = "write `cmd: python -m components.<stage>`"
        yield Problem(stage=stage.name, what=f"its command runs no component: {stage.command}", repair=repair)
    elif not (root / stage.component.replace(".", "/") / "__main__.py").is_file():
        place = f"{stage.component.replace('.', '/')}/__main__.py"
        yield Problem(stage=stage.name, what=f"its component {stage.component} does not exist", repair=f"write {place}")


def _check_meta(stage: Stage) -> Iterator[Problem]:
    try:
        validated(Meta, stage.meta)
    except ValidationError as error:
        for problem in problems(error, Meta, at=("meta",)):
            yield Problem(stage=stage.name, what=problem, repair="correct `meta:` of the stage in dvc.yaml")


def _check_paths(stage: Stage) -> Iterator[Problem]:
    words = re.split(r"[\s=]+", stage.command)
    for kind, paths in (("command", words), ("deps", stage.deps), ("outs", stage.outs)):
        for path in paths:
            bare = path.strip("'\"")
            if bare.startswith(("/", "~", "../")) or "://" in bare:
                repair = "use a path in the checkout; data from elsewhere comes in through the stage `ingest`"
                yield Problem(
                    stage=stage.name, what=f"a path in its {kind} leads out of the checkout: {bare}", repair=repair
                )


def fix(repository: str | Path = ".") -> bool:
    """Writes the code that each stage runs into dvc.yaml, after its other deps. Nothing else in the file changes.

    Returns:
        Whether dvc.yaml changed.

    Raises:
        GraphError: DVC refuses the graph.
    """
    from ruamel.yaml import YAML

    graph = read_graph(repository)
    path = graph.root / "dvc.yaml"
    yaml = YAML()
    yaml.width = 120
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    before = path.read_text(encoding="utf-8")
    document = yaml.load(before)
    code = Code(graph.root)
    for name, written in document["stages"].items():
        stages = [stage for stage in graph.stages.values() if stage.name.partition("@")[0] == name]
        found = [code_deps(graph, stage, code) for stage in stages]
        if found and all(found):
            depth = 8 if "do" in written else 6
            _write_code_deps(written.get("do", written), _code_lines(graph.root, stages, found), depth)
    if before == (after := _dumped(yaml, document)):
        return False
    files.write_text(path, after)
    return True


def _code_lines(root: Path, stages: list[Stage], found: list[set[str]]) -> list[str]:
    lines = set().union(*found)
    if _base_of(stages[0]) is None or REGISTRY not in lines:
        return sorted(lines)
    bases = Families(root).params["pretrain"]["bases"]
    own = [f"{FAMILIES}/{bases[_base_of(stage)]['architecture']}.py" for stage in stages]
    if all((mine in files) == (mine == its) for its, files in zip(own, found, strict=True) for mine in own):
        # DVC fills in the file of each base's architecture, so that one base does not depend on another's code.
        lines = lines - set(own) | {f"{FAMILIES}/${{item.architecture}}.py"}
    return sorted(lines)


def _write_code_deps(stage: Any, code: list[str], depth: int) -> None:
    from ruamel.yaml.comments import CommentedSeq

    data = [dep for dep in stage.get("deps", []) if not is_code(str(dep))]
    deps = CommentedSeq([*data, *code])
    if code:
        deps.yaml_set_comment_before_after_key(len(data), before=MARK, indent=depth)
    if "deps" in stage:
        stage["deps"] = deps
    else:
        stage.insert(list(stage).index("cmd") + 1, "deps", deps)


def _dumped(yaml: Any, document: Any) -> str:
    import io

    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def require_sound(graph: Graph) -> None:
    """Refuses a graph that breaks a rule.

    Raises:
        GraphError: Names every broken rule.
    """
    if found := check(graph):
        why = "".join(f"\n        {problem}" for problem in found)
        raise GraphError(
            f"The graph breaks {len(found)} of its rules",
            where=graph.root / "dvc.yaml",
            why=why,
            next_step="run `relume pipeline lint --fix`, and correct by hand what it does not fix",
        )
