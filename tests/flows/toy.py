"""A tiny graph in a repository of its own: first -> pretrain@one, pretrain@two -> last, with steps of milliseconds."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import flows
from flows.lint import fix
from flows.processes import free_port

DVC_YAML = """\
stages:
  first:
    cmd: python -m components.first
    deps:
      - sources.json
    params:
      - first
    outs:
      - data/first
    meta: {image: toy, cpu: 1, memory: 1Gi, gpu: 0, retries: 0, timeout: 60}
  pretrain:
    foreach: ${pretrain.bases}
    do:
      cmd: python -m components.pretrain --base ${key}
      deps:
        - data/first
      params:
        - training
        - pretrain.bases.${key}
      outs:
        - models/bases/${key}
      meta: {image: toy, cpu: 1, memory: 1Gi, gpu: 0, retries: 1, timeout: 60}
  last: # takes the folder of all bases
    cmd: python -m components.last
    deps:
      - models/bases
    outs:
      - reports/last
    metrics:
      - reports/metrics.json
    meta: {image: toy, cpu: 1, memory: 1Gi, gpu: 0, retries: 0, timeout: 60}
"""

RUN = """\
import json, sys
from pathlib import Path
from flows.pipeline import run
from relume.errors import RelumeError
from relume.home import relume_home
from relume.interrupts import end_like_ctrl_c
end_like_ctrl_c()
try:
    print("RESULT", json.dumps(run(Path(), relume_home(), sys.argv[1:] or None)))
except RelumeError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""

# The values are those that lose their form most easily between YAML, JSON and back.
PARAMS_YAML = """\
first: {rate: 2.0e-3, least: 1.0e-6, most: 1.0e+20, word: "yes", sigmas: {15: 1, 25: 2.50}}
training: {threads: 1, betas: [0.9, 0.999]}
pretrain:
  bases:
    one: {width: 1}
    two: {width: 2}
"""

WORK = '''\
"""What the toy steps share: they write down that they ran, and can be told to sleep, wait for another or fail."""
import os, pathlib, sys, time

NOTES = pathlib.Path(os.environ["RELUME_HOME"]) / "cache"  # a folder that steps in containers see


def told(what, stage):
    file = NOTES / f"{what}-{stage}"
    return file.read_text() if file.is_file() else ""


def work(stage, reads, out):
    with open(NOTES / "journal", "a") as journal:
        journal.write(f"{stage} start {time.time()}\\n")
    print(f"{stage} says hello")
    time.sleep(float(told("sleep", stage) or 0))
    while (other := told("beside", stage)) and f"{other} start" not in (NOTES / "journal").read_text():
        time.sleep(0.05)
    if code := told("fail", stage):
        if code.startswith("once "):
            (NOTES / f"fail-{stage}").unlink()
        print(f"error: {stage} was told to fail", file=sys.stderr)
        sys.exit(int(code.split()[-1]))
    text = "".join(file.read_text() for place in reads for file in sorted(pathlib.Path(place).rglob("*.txt")))
    pathlib.Path(out).mkdir(parents=True)
    (pathlib.Path(out) / "out.txt").write_text(f"{stage}\\n{text}")
    with open(NOTES / "journal", "a") as journal:
        journal.write(f"{stage} end {time.time()}\\n")
'''

STEPS = {
    "first": 'from components.work import work\nwork("first", [], "data/first")\n',
    "pretrain": (
        "import sys\nfrom components.work import work\nbase = sys.argv[-1]\n"
        'work(f"pretrain@{base}", ["data/first"], f"models/bases/{base}")\n'
    ),
    "last": (
        "import pathlib\nfrom components.work import work\n"
        'work("last", ["models/bases"], "reports/last")\n'
        'pathlib.Path("reports/metrics.json").write_text(\'{"psnr": 30.5}\\n\')\n'
    ),
}


class Toy:
    """A repository with the tiny graph, and what its steps did.

    Args:
        root: The repository.
        home: The folder of local state.
        **variables: Of the environment of its commands, on top of this process's.
    """

    def __init__(self, root: Path, home: Path, **variables: str):
        self.root, self.home, self.notes, self.variables = root, home, home / "cache", variables

    @property
    def environment(self) -> dict[str, str]:
        """What commands in the repository get: this Python first on the path, the toy's own folder of state."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(flows.__file__).parents[1]),
            "RELUME_HOME": str(self.home),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.home / "dvc-site"),
            **self.variables,
        }

    def shell(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs a command in the repository."""
        return subprocess.run(command, cwd=self.root, env=self.environment, check=check, capture_output=True, text=True)

    def start(self, *stages: str) -> subprocess.Popen:
        """Starts the flow in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", RUN, *stages],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *stages: str, code: int = 0, seconds: float = 200) -> tuple[dict, str, str]:
        """Runs the flow to its end, which must be `code`; gives its result, what it printed, and its errors."""
        process = self.start(*stages)
        out, errors = process.communicate(timeout=seconds)
        assert process.returncode == code, out + errors
        result: dict = next((json.loads(line[7:]) for line in out.splitlines() if line.startswith("RESULT ")), {})
        return result, out, errors

    def outcomes(self, *stages: str) -> dict[str, str]:
        """Runs the flow and gives the outcome of each stage."""
        return {row["stage"]: row["outcome"] for row in self.run(*stages)[0]["stages"]}

    def write(self, path: str, text: str) -> None:
        """Writes a file of the repository."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def tell(self, what: str, stage: str, value: object) -> None:
        """Tells a step to `sleep` seconds, to go on only `beside` another that has started, or to `fail` with an exit
        code (`once 1` for its first time only).
        """
        (self.notes / f"{what}-{stage}").write_text(str(value))

    def journal(self) -> list[tuple[str, str, float]]:
        """What the steps wrote down: stage, `start` or `end`, and when."""
        file = self.notes / "journal"
        rows = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
        return [(stage, what, float(when)) for stage, what, when in rows]

    def ran(self) -> list[str]:
        """The stages whose command ran, in order."""
        return [stage for stage, what, _ in self.journal() if what == "start"]

    def commit(self) -> str:
        """Commits everything and gives the hash."""
        self.shell("git", "add", "--all")
        self.shell("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "toy")
        return self.shell("git", "rev-parse", "HEAD").stdout.strip()


def make_toy(root: Path, home: Path) -> Toy:
    """Makes the repository with one commit, and the folder of local state."""
    root.mkdir(parents=True)
    toy = Toy(root, home)
    toy.notes.mkdir(parents=True)
    toy.shell("git", "init", "--quiet", "--initial-branch", "main")
    toy.shell("dvc", "init", "--quiet")
    toy.shell("dvc", "config", "core.autostage", "false")
    toy.write(".gitignore", "/data/\n/models/\n/reports/\n/.relume/\n__pycache__/\n")
    toy.write(".dvcignore", "__pycache__/\n")
    toy.write("dvc.yaml", DVC_YAML)
    toy.write("params.yaml", PARAMS_YAML)
    toy.write("sources.json", json.dumps({"sources": [], "files": []}))
    toy.write("components/__init__.py", '"""The steps."""\n')
    toy.write("components/work.py", WORK)
    for name, text in STEPS.items():
        toy.write(f"components/{name}/__init__.py", f'"""Step {name}."""\n')
        toy.write(f"components/{name}/__main__.py", text)
    fix(root)
    toy.commit()
    return toy


def copy_toy(template: Toy, folder: Path, **variables: str) -> Toy:
    """A copy of a repository and its folder of state, as fresh as the original."""
    shutil.copytree(template.root, folder / "toy", symlinks=True)
    shutil.copytree(template.home, folder / "home", symlinks=True)
    return Toy(folder / "toy", folder / "home", **template.variables | variables)


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Waits until `true()` holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Runs a real Prefect server on a free loopback port; gives the address of its API."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "server.log", "w") as log:
        server = subprocess.Popen(
            [*command, "--no-ui"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}/api"

    def ready() -> bool:
        assert server.poll() is None, (home / "server.log").read_text()
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{address}/health", timeout=2).status == 200
        return False

    try:
        wait_until(ready, seconds=120)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
