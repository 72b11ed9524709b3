"""The scheduled deployment for real: a worker runs retrain in a checkout, from photographs to the served product."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

from flows.embedded_triton import EmbeddedTriton
from flows.lint import fix
from flows.platform import retraining, services
from flows.platform.retraining import RetrainFailedError
from flows.platform.status import read_status
from flows.prefect_settings import prefect_address
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from flows.turns import turn
from relume import s3 as relume_s3
from relume.home import relume_home
from relume.ingestion.sources import write_sources
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.triton_client import TritonRestorer
from tests.flows.release.synthetic import make_package, make_photographs
from tests.flows.toy import wait_until
from tests.real.embedded_triton import CHECKOUT, link_server
from tests.real.releases import write_parameters

pytestmark = pytest.mark.slow

DVC_YAML = """\
stages:
  package:
    cmd: python -m components.package
    deps:
      - sources.json
    outs:
      - package
    meta: {image: toy, cpu: 1, memory: 1Gi, gpu: 0, retries: 0, timeout: 60}
"""
# Stands for the whole graph: the more photographs, the better the model. The models were made beforehand.
STEP = """\
import json, shutil
count = len(json.load(open("sources.json"))["files"])
shutil.copytree(f"prepared/{count}", "package")
"""
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A committed checkout whose graph is one stage, with a RELUME_HOME and the platform up."""
    home, folder = tmp_path / "home", tmp_path / "checkout"
    link_server(home)
    monkeypatch.setenv("RELUME_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc-site"))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)

    make_photographs(tmp_path / "photographs", count=1)
    make_graph(folder, tmp_path / "photographs")
    yield folder
    services.down(home)


def make_graph(folder: Path, photographs: Path) -> None:
    """Makes the checkout, which lists a folder of photographs; how many they are chooses the package."""
    make_photographs(folder / "data" / "curated" / "held_out" / "test")
    for count, blur in ((1, 0.8), (2, 1.0)):
        make_package(folder / "prepared" / str(count), blur=blur)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    write_parameters(folder)
    (folder / ".gitignore").write_text("/data/\n/package/\n__pycache__/\n")
    deployments = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())
    for deployment in deployments["deployments"]:
        del deployment["schedules"]  # a quarter of an hour may end, or it may be three o'clock, in the middle of a test
    (folder / "prefect.yaml").write_text(yaml.safe_dump(deployments))
    (folder / "flows").symlink_to(CHECKOUT / "flows")
    (folder / "components" / "package").mkdir(parents=True)
    (folder / "components" / "__init__.py").write_text('"""The step."""\n')
    shutil.copy(CHECKOUT / "components" / "step.py", folder / "components")
    (folder / "components" / "package" / "__init__.py").write_text('"""The step."""\n')
    (folder / "components" / "package" / "__main__.py").write_text(STEP)
    write_sources([photographs], folder / "sources.json")
    run(folder, "git", "init", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    run(folder, sys.executable, "-m", "dvc", "config", "core.autostage", "false")
    fix(folder)
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "checkout")


def run(folder: Path, *command: str) -> str:
    """Runs a command in a folder."""
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(path: str, body: dict | None = None) -> dict:
    """One request to the local Prefect server."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{prefect_address(relume_home())}/{path}", data, {"Content-Type": "application/json"}
    )
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != 503:  # SQLite is locked for a moment; Prefect's own client asks again as well
                raise
            time.sleep(1)
    raise AssertionError(f"Prefect answers 503 to {path}")


def run_deployment(name: str = "retrain") -> str:
    """Starts a deployment now, as its schedule would, and gives the state it ends in."""
    deployment = ask(f"deployments/name/{name}/{name}")
    started = ask(f"deployments/{deployment['id']}/create_flow_run", {})
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        state = ask(f"flow_runs/{started['id']}")["state"]
        if state["type"] in ENDED:
            return f"{state['type']} {state['message'] or ''}".strip()
        time.sleep(1)
    return "TIMED OUT"


def states(runs: list[str]) -> list[str]:
    """The states of runs, in the order of the alphabet."""
    return sorted(ask(f"flow_runs/{run}")["state"]["type"] for run in runs)


def events() -> list[str]:
    """The ledger's events."""
    return [entry.event for entry in Ledger(relume_home()).entries()]


def test_retraining_from_new_photographs_to_the_served_product(root, tmp_path):
    """The worker releases the first package, nothing when nothing is new, and again when a photograph came."""
    assert {report.state for report in services.up(root, relume_home())} == {"started"}
    assert run_deployment() == "COMPLETED"
    assert events() == ["registered", "promoting", "promoted"]
    first = Ledger(relume_home()).current("denoise")

    with turn(relume_home(), root, "pipeline"):  # a second run waits for its turn, and `status` shows it
        started = retraining.start(relume_home())
        wait_until(lambda: [run.state for run in read_status(root, relume_home()).runs] == ["running", "waiting"], 120)
        wait_until(lambda: states([started]) == ["RUNNING"], 120)
        second = retraining.start(relume_home())  # the deployment has one place, which the first one keeps
        with pytest.raises(RetrainFailedError, match="not begun") as refused:
            retraining.follow(relume_home(), second, [].append)
        assert "another retraining is in progress" in str(refused.value)
    said = []
    retraining.follow(relume_home(), started, said.append)
    assert said[-1] == "completed"
    assert events() == ["registered", "promoting", "promoted"]

    shutil.copy(root / "data" / "curated" / "held_out" / "test" / f"{1:016x}.png", tmp_path / "photographs")
    with turn(relume_home(), root, "pipeline"):  # so that the first does not end before the worker sees the second
        at_once = [retraining.start(relume_home()) for _ in range(2)]  # either may get the place, and one alone
        wait_until(lambda: "CANCELLED" in states(at_once), 300)
    wait_until(lambda: ENDED.issuperset(states(at_once)), 300)
    assert states(at_once) == ["CANCELLED", "COMPLETED"]
    assert events()[3:] == ["registered", "promoting", "promoted"]
    assert Ledger(relume_home()).previous("denoise") == first

    picture = np.random.default_rng(1).integers(0, 256, (80, 90, 3), np.uint8)
    with TritonRestorer(EmbeddedTriton(relume_home()).start().grpc, "denoise") as restorer:
        assert np.array_equal(
            restorer.restore(picture).image, OnnxRestorer(root / "package" / "serving").restore(picture).image
        )

    # The registered lineage is of the new state: its commit holds the dvc.lock that names this package.
    registry = Registry(relume_home())
    version = registry.by_alias("denoise", "champion")
    commit = registry._client.get_run(version.run_id).data.params["run_commit"]
    assert run(root, "git", "show", f"{commit}:dvc.lock") == (root / "dvc.lock").read_text()
    assert len(json.loads(run(root, "git", "show", f"{commit}:sources.json"))["files"]) == 2
    assert registry._client.get_run(version.run_id).data.params["outs.package"].endswith(".dir")

    gate = ask("artifacts/filter", {"artifacts": {"key": {"any_": ["gate"]}}})
    assert len(gate) == 2
    assert "Gate of package" in (services.services_folder(relume_home()) / "worker.log").read_text()


def retrainings() -> list[str]:
    """The states of all retrainings that were begun, the first one first."""
    begun = {
        "deployments": {"name": {"any_": ["retrain"]}},
        "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
    }
    return [run["state"]["type"] for run in ask("flow_runs/filter", begun | {"sort": "START_TIME_ASC"})]


@pytest.mark.exhaustive
def test_photographs_that_arrive_on_s3_begin_one_retraining(root, tmp_path, s3, monkeypatch):
    """The deployment `watch` begins it when an upload has settled, none beside it, and none when nothing is new."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    relume_s3._make_client.cache_clear()
    photographs = sorted((root / "data" / "curated" / "held_out" / "test").glob("*.png"))

    def upload(number: int) -> None:
        s3.client().put_object(Bucket="photos", Key=f"watched/{number}.png", Body=photographs[number].read_bytes())

    upload(0)
    write_sources(["s3://photos/watched"], root / "sources.json")
    run(
        root,
        "git",
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "commit",
        "--quiet",
        "-am",
        "photographs on S3",
    )
    services.up(root, relume_home())
    assert run_deployment() == "COMPLETED"
    assert run_deployment("watch") == "COMPLETED"  # nothing is new
    upload(1)
    assert run_deployment("watch") == "COMPLETED"  # perhaps not all of it is there
    assert retrainings() == ["COMPLETED"]
    with turn(relume_home(), root, "pipeline"):
        assert run_deployment("watch") == "COMPLETED"
        wait_until(lambda: "waiting" in [each.state for each in read_status(root, relume_home()).runs], 120)
        assert run_deployment("watch") == "COMPLETED"  # one is under way
        assert retrainings() == ["COMPLETED", "RUNNING"]
    wait_until(lambda: retrainings() == ["COMPLETED", "COMPLETED"], 120)
    assert events() == ["registered", "promoting", "promoted"] * 2
    assert run_deployment("watch") == "COMPLETED"
    assert retrainings() == ["COMPLETED", "COMPLETED"]
    relume_s3._make_client.cache_clear()


def test_a_package_of_another_state_is_not_released(root):
    """When sources, params or code changed since the package was built, its lineage would be false: refused."""
    from flows.release.lineage import read_lineage
    from flows.release.package import open_package
    from relume.errors import UserError

    run(root, sys.executable, "-m", "dvc", "repro", "--quiet")
    package = open_package(root / "package")
    lineage = read_lineage(root, package, relume_home())
    assert run(root, "git", "show", f"{lineage.run_commit}:dvc.lock") == lineage.files["dvc.lock"]
    (root / "sources.json").write_text((root / "sources.json").read_text() + "\n")
    with pytest.raises(UserError, match="relume pipeline run"):
        read_lineage(root, package, relume_home())
