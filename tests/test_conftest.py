"""How the tests are spread: a worker that dies costs its one test, and the run ends."""

import subprocess
import sys
from pathlib import Path

import pytest

DIES = {
    "always": "import os\ndef test_dies(): os._exit(1)\ndef test_zz(): pass\n",
    "once": "import os\ndef test_dies(tmp_path_factory):\n    mark = {mark!r}\n    if not os.path.exists(mark):\n"
    "        open(mark, 'w').close()\n        os._exit(1)\ndef test_zz(): pass\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies", "dies_in", "outcome"),
    [("always", "test_first.py", "1 failed, 15 passed"), ("once", "test_last.py", "16 passed")],
)
def test_the_run_ends_when_a_worker_dies(tmp_path, dies, dies_in, outcome):
    """All other tests still run, those of the dead worker's file too; a test in which two workers died has failed."""
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    many = "import pytest\n@pytest.mark.parametrize('n', range({}))\ndef test(n): pass\n"
    (tests / "test_first.py").write_text(many.format(6))
    (tests / "test_last.py").write_text("def test(): pass\n")
    for number in range(5):
        (tests / f"test_middle_{number}.py").write_text(many.format(1 + number % 2))
    with open(tests / dies_in, "a") as file:
        file.write(DIES[dies].replace("{mark!r}", repr(str(tmp_path / "mark"))))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tests)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert outcome in ended.stdout, ended.stdout + ended.stderr
    assert f"WORKER DIED in tests/{dies_in}::test_dies; the test ran once more" in ended.stdout
    assert (f"FAILED tests/{dies_in}::test_dies" in ended.stdout) == (dies == "always")
