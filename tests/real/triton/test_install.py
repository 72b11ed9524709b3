"""The script that installs the embedded server's environment."""

import os
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]


def install(home, **environment):
    return subprocess.run(
        ["sh", "infra/triton/install.sh"],
        cwd=CHECKOUT,
        env={**os.environ, "RELUME_HOME": str(home), **environment},
        capture_output=True,
        text=True,
    )


def test_again(triton_environment):
    """Run again, the script says nothing and leaves the environment as it is."""
    before = (triton_environment / "stamp").stat()
    ended = install(triton_environment.parents[1])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    after = (triton_environment / "stamp").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_versions(triton_environment):
    """The environment holds numpy 1.26 (numpy 2 would give wrong tiles) and a tritonserver that runs."""
    code = "import numpy, onnxruntime; print(numpy.__version__, onnxruntime.__version__)"
    python = subprocess.run([triton_environment / "bin" / "python", "-c", code], capture_output=True, text=True)
    assert python.stdout.split() == ["1.26.4", "1.31.1"]
    server = subprocess.run(
        [triton_environment / "tritonserver" / "bin" / "tritonserver", "--help"], capture_output=True, text=True
    )
    assert "--model-control-mode" in server.stdout + server.stderr


def test_other_python(tmp_path):
    """With a Python that the server cannot embed, the script names its version and leaves nothing."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3.13\n")
    python.chmod(0o755)
    ended = install(tmp_path / "home", PYTHON=str(python))
    assert ended.returncode == 1
    assert "3.13" in ended.stderr
    assert "next:" in ended.stderr
    assert not (tmp_path / "home").exists()


def test_interrupted(tmp_path):
    """An installation that breaks off leaves no environment under the final name."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *venv*) mkdir -p "$4"; exit 3;; esac\nexec python3.11 "$@"\n')
    python.chmod(0o755)
    ended = install(tmp_path / "home", PYTHON=str(python))
    assert ended.returncode != 0
    assert sorted(path.name for path in (tmp_path / "home" / "triton").iterdir()) == ["install.lock"]
