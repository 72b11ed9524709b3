"""The local platform in the background: MLflow, Prefect with a worker and the scheduled deployment, Triton.

Everything listens on 127.0.0.1 and keeps its state, records and logs below RELUME_HOME. A server that the
environment names (MLFLOW_TRACKING_URI, PREFECT_API_URL) is used and not started.
"""

import dataclasses
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from flows.processes import free_port, last_line, running_process, start_process, stop_process
from relume.errors import ModelMissingError, RelumeError, ServiceError
from relume.home import relume_home

WORK_POOL = "relume"
MLFLOW_PORT, PREFECT_PORT = 5000, 4200
START_SECONDS = 120.0

# Nothing phones home; see the packages' own documentation for the names.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceReport:
    """What became of one service.

    Attributes:
        name: `mlflow`, `prefect`, `worker` or `triton`.
        state: `started`, `running` (it was already), `external` (the environment names one), `failed`, `skipped`
            or `stopped`.
        address: Where it listens, if it does.
        detail: Why it failed or was skipped, else empty.
    """

    name: str
    state: str
    address: str | None = None
    detail: str = ""


def folder() -> Path:
    """Where the records and logs of MLflow, Prefect and the worker lie."""
    return relume_home() / "services"


def up(root: Path = Path()) -> list[ServiceReport]:
    """Starts what is not running. What fails is reported and does not keep the others from starting.

    Args:
        root: The top of the checkout, whose prefect.yaml is deployed.

    Returns:
        One report a service.
    """
    folder().mkdir(parents=True, exist_ok=True)
    chains: list[list[tuple[str, Callable[[], ServiceReport]]]] = [
        [("mlflow", _start_mlflow)],
        [("prefect", _start_prefect), ("worker", lambda: _start_worker(root.resolve()))],
        [("triton", _start_triton)],
    ]
    with FileLock(folder() / "services.lock"), ThreadPoolExecutor(len(chains)) as pool:
        return [report for reports in pool.map(_start_chain, chains) for report in reports]


def down() -> list[ServiceReport]:
    """Stops everything that `up` or `relume serve` started; flow runs of the worker end with it."""
    from flows import triton

    reports = []
    with FileLock(_made(folder()) / "services.lock"):
        for name in ("worker", "prefect", "mlflow"):
            ran = stop_process(folder(), name)
            reports.append(ServiceReport(name=name, state="stopped" if ran else "skipped", detail=_not_running(ran)))
        ran = triton.stop()
        reports.append(ServiceReport(name="triton", state="stopped" if ran else "skipped", detail=_not_running(ran)))
    return reports


def serve(end: threading.Event, say: Callable[[str], None]) -> None:
    """Serves the champion in the foreground until `end` is set, and keeps the server up.

    Args:
        end: Set it to stop.
        say: Told what serves where, once it does.

    Raises:
        ModelMissingError: Nothing was released yet.
        ServiceError: The server does not start.
    """
    from flows import triton
    from flows.release.served_product import serve_champions

    champions = serve_champions()
    server = triton.running()
    if not champions or server is None:
        triton.stop()
        raise ModelMissingError("Nothing was released yet", next_step="relume release")
    for release in champions:
        say(f"{release.product} is served by {release.model} at {server.grpc} and {server.http}")
    triton.supervise(end)


def prefect_address() -> str | None:
    """The API of the local Prefect server while it runs, for a flow that is started beside it."""
    record = running_process(folder(), "prefect")
    return f"{record.address}/api" if record else None


def environment() -> dict[str, str]:
    """The environment of the services: this one's, with telemetry off and all state below RELUME_HOME."""
    home = relume_home()
    return (
        os.environ
        | TELEMETRY_OFF
        | {
            "RELUME_HOME": str(home),
            "PREFECT_HOME": str(home / "prefect"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else 12 processes and 1.5 GB instead of 2 of 260 MB
            # The worker's flows run `python` and `dvc` of this environment.
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONUNBUFFERED": "1",
        }
    )


def answers(url: str, *, timeout: float = 1.0) -> bool:
    """Whether an HTTP server answers a GET with 200."""
    try:
        # Loopback never goes through a proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as response:
            return response.status == 200
    except OSError:
        return False


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _not_running(ran: bool) -> str:
    return "" if ran else "was not running"


def _start_chain(chain: list[tuple[str, Callable[[], ServiceReport]]]) -> list[ServiceReport]:
    """Starts services of which each needs the one before it."""
    reports: list[ServiceReport] = []
    for name, start in chain:
        if reports and reports[-1].state == "failed":
            reports.append(ServiceReport(name=name, state="skipped", detail=f"{reports[-1].name} is not running"))
            continue
        try:
            reports.append(start())
        except RelumeError as error:
            detail = "; ".join(str(part) for part in (error.why, error.next_step) if part)
            reports.append(ServiceReport(name=name, state="failed", detail=f"{error.what}: {detail}"))
    return reports


def _start(name: str, command: list[str], *, address: str | None, ready: Callable[[], bool], **env: str) -> str:
    """Starts one service and says whether it was running already."""
    was_running = running_process(folder(), name) is not None
    start_process(
        name,
        command,
        folder=folder(),
        ready=ready,
        timeout=START_SECONDS,
        address=address,
        env=environment() | env,
        cwd=relume_home(),
    )
    return "running" if was_running else "started"


def _address(name: str, preferred_port: int) -> str:
    """Where the service listens, or will."""
    record = running_process(folder(), name)
    if record and record.address:
        return record.address
    return f"http://127.0.0.1:{free_port(preferred_port)}"


def _start_mlflow() -> ServiceReport:
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        from flows.release.registry import redacted

        return ServiceReport(name="mlflow", state="external", address=redacted(uri))
    home = _made(relume_home() / "mlflow")
    address = _address("mlflow", MLFLOW_PORT)
    port = address.rpartition(":")[2]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"),
        # Clients write artifacts to the folder themselves, so that they find them with and without the server.
        *("--no-serve-artifacts", "--default-artifact-root", (home / "artifacts").as_uri()),
    ]
    state = _start("mlflow", command, address=address, ready=lambda: answers(f"{address}/health"))
    return ServiceReport(name="mlflow", state=state, address=address)


def _start_prefect() -> ServiceReport:
    if api := os.environ.get("PREFECT_API_URL"):
        return ServiceReport(name="prefect", state="external", address=api)
    _made(relume_home() / "prefect")
    address = _address("prefect", PREFECT_PORT)
    port = address.rpartition(":")[2]
    state = _start(
        "prefect",
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
        address=address,
        ready=lambda: answers(f"{address}/api/health"),
        PREFECT_SERVER_UI_API_URL=f"{address}/api",
    )
    return ServiceReport(name="prefect", state=state, address=address)


def _start_worker(root: Path) -> ServiceReport:
    api = os.environ.get("PREFECT_API_URL") or prefect_address() or ""
    state = _start(
        "worker",
        [
            *(sys.executable, "-m", "prefect", "worker", "start", "--name", "relume"),
            *("--pool", WORK_POOL, "--type", "process", "--install-policy", "never"),
        ],
        address=None,
        ready=lambda: answers(f"{api}/work_pools/{WORK_POOL}"),
        PREFECT_API_URL=api,
    )
    _deploy(root, api)
    return ServiceReport(name="worker", state=state, detail="runs the deployment retrain/retrain on its schedule")


def _deploy(root: Path, api: str) -> None:
    """Creates or updates the deployments of prefect.yaml."""
    log = folder() / "deploy.log"
    with open(log, "ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=root,
            env=environment() | {"PREFECT_API_URL": api},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise ServiceError("The deployments were not created", why=last_line(log), next_step=f"read {log}")


def _start_triton() -> ServiceReport:
    from flows import triton
    from flows.release.served_product import serve_champions

    state = "running" if triton.status(timeout=0.1).server else "started"
    served = serve_champions()
    server = triton.start()
    detail = ", ".join(f"{r.product} is {r.model}" for r in served) or "nothing was released yet: relume release"
    return ServiceReport(name="triton", state=state, address=server.grpc, detail=detail)
