"""A real MLflow server for tests."""

import contextlib
import os
import sys
import urllib.request
from pathlib import Path

from flows.processes import free_port, start_process, stop_process


@contextlib.contextmanager
def mlflow_server(folder: Path):
    """Runs MLflow's server on loopback with a database and artifacts in a folder; gives its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=1).status == 200
        except OSError:
            return False

    start_process(
        "mlflow",
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder / 'server.db'}"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        folder=folder,
        ready=healthy,
        timeout=120,
        address=address,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    try:
        yield address
    finally:
        stop_process(folder, "mlflow")
