"""MLflow's and Prefect's servers on a real PostgreSQL, and its backup as docs/operations.md has it."""

import json
import os
import subprocess
import sys
import urllib.request

import pytest

from flows.processes import answers, free_port, start_process, stop_process
from flows.release.anchor import anchor_ledger, check_anchors, read_anchors, repair_ledger
from flows.release.ledger import Ledger, Release
from flows.release.registry import Registry
from relume.files import sha256_folder
from tests.flows.release.synthetic import make_package
from tests.real.postgres import postgres

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database():
    """The server."""
    with postgres() as server:
        yield server


def start_mlflow(folder, store):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    start_process(
        "mlflow",
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")),
        ],
        folder=folder,
        ready=lambda: answers(f"{address}/health"),
        timeout=120,
        address=address,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    return address


def test_mlflow_comes_back_from_a_dump(database, tmp_path, monkeypatch):
    """A release is registered, the database dumped, lost and restored: ledger, aliases and the package agree again."""
    database.run("createdb", "mlflow")
    address = start_mlflow(tmp_path, database.address("mlflow"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    home = tmp_path / "home"
    package = make_package(tmp_path / "package")
    try:
        registry = Registry(home)
        version, _ = registry.register(package, run_commit="c" * 40, params={}, files={})
        release = Release(product="denoise", package=package.sha256, version=version.number, model=package.model)
        for event in ("promoting", "promoted"):
            Ledger(home).append(event, release)
        registry.set_aliases("denoise", champion=version.number)
        anchor_ledger(Ledger(home), registry, "denoise")
        database.run("pg_dump", "--format", "custom", "--file", str(tmp_path / "mlflow.dump"), "mlflow")
    finally:
        stop_process(tmp_path, "mlflow")
    database.run("dropdb", "mlflow")
    database.run("createdb", "mlflow")
    database.run("pg_restore", "--exit-on-error", "--dbname", "mlflow", str(tmp_path / "mlflow.dump"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", start_mlflow(tmp_path, database.address("mlflow")))
    try:
        registry = Registry(home)
        check_anchors(Ledger(home), read_anchors(registry))
        assert registry.by_alias("denoise", "champion") == version
        fetched = registry.fetch(version, tmp_path / "fetched")
        assert sha256_folder(fetched.folder) == sha256_folder(package.folder)
        Ledger(home).path.unlink()  # and the registry on PostgreSQL repairs a lost ledger
        Ledger(home).head.unlink()
        repair_ledger(home, registry)
        assert Ledger(home).current("denoise") == release
    finally:
        stop_process(tmp_path, "mlflow")


FLOW = """\
from prefect import flow

@flow(name="kept")
def kept():
    return 7

kept()
"""


@pytest.mark.exhaustive
def test_prefect_comes_back_from_a_dump(database, tmp_path):
    """A flow's run is in the server's answers before and after its database was lost."""
    database.run("createdb", "prefect")
    store = database.address("prefect", "postgresql+asyncpg")

    def start():
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        start_process(
            "prefect",
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"],
            folder=tmp_path,
            ready=lambda: answers(f"{address}/api/health"),
            timeout=120,
            address=address,
            env=os.environ
            | {
                "PREFECT_HOME": str(tmp_path / "prefect"),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": store,
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
            },
        )
        return f"{address}/api"

    def runs(api):
        request = urllib.request.Request(
            f"{api}/flow_runs/filter", json.dumps({}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return [(run["id"], run["state"]["type"]) for run in json.load(response)]

    try:
        api = start()
        environment = os.environ | {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "prefect")}
        subprocess.run([sys.executable, "-c", FLOW], check=True, env=environment, capture_output=True)
        before = runs(api)
        database.run("pg_dump", "--format", "custom", "--file", str(tmp_path / "prefect.dump"), "prefect")
    finally:
        stop_process(tmp_path, "prefect")
    database.run("dropdb", "--force", "prefect")
    database.run("createdb", "prefect")
    database.run("pg_restore", "--exit-on-error", "--dbname", "prefect", str(tmp_path / "prefect.dump"))
    try:
        assert runs(start()) == before
        assert [state for _, state in before] == ["COMPLETED"]
    finally:
        stop_process(tmp_path, "prefect")
