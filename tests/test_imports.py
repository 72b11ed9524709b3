"""The house plan: an import may only point down, and what must start fast imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"relume": 1, "components": 2, "flows": 3}
# The library knows nothing of the tools that orchestrate, version and track it.
NOT_IN_RELUME = {"prefect", "dvc", "mlflow"}
HEAVY = ("torch", "prefect", "mlflow", "great_expectations", "dvc", "onnxruntime", "lightning_fabric", "pandas")


def imported_names(path: Path) -> set[str]:
    """The top-level packages that a module imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def modules() -> list[Path]:
    """Every module of the three floors but the roof, the one file that may reach everywhere."""
    found = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
    return [path for path in found if path != ROOT / "relume" / "cli.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    """A module imports nothing from a floor above its own, and the library none of the orchestration tools."""
    floor = path.relative_to(ROOT).parts[0]
    names = imported_names(path)
    assert not {name for name in names if FLOORS.get(name, 0) > FLOORS[floor]}
    if floor == "relume":
        assert not names & NOT_IN_RELUME


@pytest.mark.parametrize("module", ["relume.cli", "flows.platform.status", "flows.platform.doctor", "flows.restore"])
def test_what_must_start_fast_imports_nothing_heavy(module):
    """Importing it loads none of the heavy packages."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert loaded.strip() == ""
