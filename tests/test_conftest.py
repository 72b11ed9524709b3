"""How the tests are spread: a worker that dies costs its one test, and the run ends."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("dies_in", ["test_first.py", "test_last.py"])
def test_the_run_ends_when_a_worker_dies(tmp_path, dies_in):
    """All other tests still run, those of the dead worker's file too; the run ends with the crash as a failure."""
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    many = "import pytest\n@pytest.mark.parametrize('n', range({}))\ndef test(n): pass\n"
    (tests / "test_first.py").write_text(many.format(6))
    (tests / "test_last.py").write_text("def test(): pass\n")
    for number in range(5):
        (tests / f"test_middle_{number}.py").write_text(many.format(1 + number % 2))
    with open(tests / dies_in, "a") as file:
        file.write("import os\ndef test_dies(): os._exit(1)\ndef test_zz(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tests)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "1 failed, 15 passed" in ended.stdout, ended.stdout + ended.stderr
    assert f"{dies_in}::test_dies" in ended.stdout
