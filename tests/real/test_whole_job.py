"""The whole job, where every path has every allowed character: what it makes, and where its network goes.

From photographs to an image that the released model restored, on the real graph at a scale of seconds a stage.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.embedded_triton import EmbeddedTriton
from relume.images import read_image
from relume.ingestion.sources import BUILT_IN, PACKAGES, open_source
from tests.flows.tiny import make_tiny
from tests.real.embedded_triton import link_server
from tests.relume.test_network import leaves_this_machine, traced

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(3000)]

CHARACTERS = " a'b\"&;$#,?%()%(c)säöü"
PHOTOGRAPHS = 12
# In one process tree, so that one trace sees the servers as well.
JOB = """\
import json, os, signal, subprocess, sys
commands = json.loads(sys.argv[1])
for command in commands:
    line = "import sys; from relume.cli import main; sys.argv[0] = 'relume'; main()"
    with open("../errors", "w+") as errors:
        run = [sys.executable, "-c", line, *command]
        started = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=errors, text=True)
        seen = []
        for printed in started.stdout:
            seen.append(printed)
            if "is served by" in printed:  # `relume serve` goes on until it is ended
                started.send_signal(signal.SIGTERM)
        code = started.wait()
        errors.seek(0)
        print(json.dumps([command, code, "".join(seen), errors.read()]), flush=True)
os.remove("../errors")
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What became of the job.

    Attributes:
        top: The folder of everything.
        home: RELUME_HOME.
        outputs: Exit code, output and errors of each command, by its first word.
        restored: The image that Triton restored.
        trace: What strace wrote; None where it is missing.
    """

    top: Path
    home: Path
    outputs: dict[str, tuple[int, str, str]]
    restored: Path
    trace: Path | None


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    """Runs it."""
    top = tmp_path_factory.mktemp("job") / f"top{CHARACTERS}"
    root, home, photographs, out = (
        top / f"{name}{CHARACTERS}" for name in ("checkout", "home", "photographs", "outputs")
    )
    tiny = make_tiny(root, home)
    link_server(home)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["release"] |= {"min_gain_over_input_db": {"clipped": {50: -100.0}}, "min_gain_over_nlm_db": -100.0}
    params["release"]["latency_ms_per_tile"] = 60000
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    photographs.mkdir()
    for name in map(Path, BUILT_IN[-PHOTOGRAPHS:]):
        (photographs / f"{name.stem}{CHARACTERS}{name.suffix}").write_bytes(open_source(f"{PACKAGES}{name}"))
    photograph = next(photographs.glob("coffee*"))
    restored = out / f"restored{CHARACTERS}.png"
    restore = ["restore", str(photograph), "-o", str(restored), "--product", "denoise"]
    commands = [["pipeline", "run", "--source", str(photographs)], ["release"], restore]
    commands += [["up"], ["retrain", "--watch"], ["status"], ["doctor"], ["down"], ["serve"]]
    environment = {
        name: value for name, value in tiny.environment.items() if not name.startswith(("MLFLOW", "PREFECT"))
    }
    del environment["DVC_SITE_CACHE_DIR"]
    trace = top / "trace" if shutil.which("strace") else None
    try:
        done = subprocess.run(
            [*(traced(trace) if trace else []), sys.executable, "-c", JOB, json.dumps(commands)],
            cwd=root,
            env=environment | {"XDG_STATE_HOME": str(top / "state")},
            capture_output=True,
            text=True,
        )
    finally:
        EmbeddedTriton(home).stop()
    outputs = {command[0]: tuple(rest) for command, *rest in map(json.loads, done.stdout.splitlines())}
    return Job(top=top, home=home, outputs=outputs, restored=restored, trace=trace)


def test_every_command_works_with_every_character(job):
    """Each command ends with 0, the image is there, and nothing lies outside of the named folders."""
    assert len(job.outputs) == 9
    for code, output, errors in job.outputs.values():
        assert code == 0, output + errors
    assert "warning" not in job.outputs["pipeline"][1]
    assert read_image(job.restored).pixels.ndim == 3
    assert "by denoise-" in job.outputs["restore"][1]
    assert "champion  denoise-" in job.outputs["status"][1]
    assert {line.split()[1] for line in job.outputs["up"][1].splitlines()[:5]} == {"started", "running"}
    assert "denoise is served by denoise-" in job.outputs["serve"][1]
    names = {f"{name}{CHARACTERS}" for name in ("checkout", "home", "photographs", "outputs")}
    assert set(os.listdir(job.top)) == names | {"state", *(["trace"] if job.trace else [])}
    assert os.listdir(job.top.parent) == [job.top.name]


def test_the_job_reaches_loopback_only(job):
    """Of the network calls of the pipeline run, the release, the restore and their servers none leaves the machine."""
    if job.trace is None:
        pytest.skip("strace, which sees the network calls, is not installed")
    lines = job.trace.read_text(errors="replace").splitlines()
    assert any("AF_INET" in line for line in lines)
    assert leaves_this_machine(lines) == []
