"""The local platform in the background: MLflow, Prefect with a worker and the scheduled deployment, Triton.

Everything listens on 127.0.0.1 and keeps its state, records and logs below RELUME_HOME. A server that the
environment names (MLFLOW_TRACKING_URI, PREFECT_API_URL) is used and not started.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from filelock import FileLock

from flows.embedded_triton import EmbeddedTriton
from flows.environment import child_environment
from flows.home_schema import open_home
from flows.platform.zombies import end_zombies
from flows.prefect_settings import prefect_address, prefect_api, prefect_database, services_folder
from flows.processes import (
    answers,
    last_line,
    on_free_ports,
    recorded_process,
    running_process,
    start_process,
    stop_process,
)
from flows.release.registry import redacted
from flows.release.served_product import serve_champions
from relume.errors import ModelMissingError, RelumeError, ServiceError
from relume.files import as_relume_error
from relume.home import private_file, require_database, require_usable, tracking_uri

WORK_POOL = "relume"
MLFLOW_PORT, PREFECT_PORT = 5000, 4200
HEALTH = {"mlflow": "/health", "prefect": "/api/health"}
START_SECONDS = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceReport:
    """The outcome of starting or stopping one service.

    Attributes:
        name: `mlflow`, `prefect`, `worker`, `triton` or `supervisor`.
        state: `started`, `running` (it was already), `external` (the environment names one), `failed`, `skipped`
            or `stopped`.
        address: Where it listens, if it does.
        detail: Why it failed or was skipped, else empty.
    """

    name: str
    state: str
    address: str | None = None
    detail: str = ""


def up(root: Path, home: Path) -> list[ServiceReport]:
    """Starts what is not running. What fails is reported and does not keep the others from starting.

    Args:
        root: The top of the checkout, whose prefect.yaml is deployed.
        home: RELUME_HOME.

    Returns:
        One report a service.

    Raises:
        ConfigError: The path of the checkout or the home has a character that other programs take for one of theirs.
    """
    require_usable(root.resolve(), next_step="move the checkout to another folder")
    starts = _starts(root.resolve(), home)
    chains = [[(name, starts[name]) for name in names] for names in (["mlflow"], ["prefect", "worker"], ["triton"])]
    with _lock(home), ThreadPoolExecutor(len(chains)) as pool:
        reports = [report for reports in pool.map(_start_chain, chains) for report in reports]
        reports.append(_start_supervisor(root.resolve(), home, reports))
    return reports


def start(root: Path, home: Path, name: str) -> ServiceReport:
    """Starts one service when it does not run."""
    with _lock(home):
        return _start_chain([(name, _starts(root, home)[name])])[0]


def answering(home: Path, name: str, *, timeout: float = 5.0) -> bool:
    """Whether a service that runs answers; one without an address does."""
    if name == "triton":
        return EmbeddedTriton(home).answering()
    record = running_process(services_folder(home), name)
    return record is None or name not in HEALTH or answers(f"{record.address}{HEALTH[name]}", timeout=timeout)


def _starts(root: Path, home: Path) -> dict[str, Callable[[], ServiceReport]]:
    """How each service is started."""
    return {
        "mlflow": partial(_start_mlflow, home),
        "prefect": partial(_start_prefect, home),
        "worker": partial(_start_worker, home, root),
        "triton": partial(_start_triton, home),
    }


def _start_supervisor(root: Path, home: Path, reports: list[ServiceReport]) -> ServiceReport:
    """Starts what starts services again that end by themselves: those that run now."""
    names = [report.name for report in reports if report.state in ("started", "running")]
    if not names:
        return _skipped("supervisor", "there is no service to supervise")
    record = running_process(services_folder(home), "supervisor")
    command = [sys.executable, "-m", "flows.platform.supervisor", str(root), str(home), *names]
    if record and list(record.command) != command:
        stop_process(services_folder(home), "supervisor")

    def start_it() -> ServiceReport:
        state = _start(home, "supervisor", command, address=None, ready=lambda: True)
        return ServiceReport(name="supervisor", state=state, detail="restarts services that end by themselves")

    return _start_chain([("supervisor", start_it)])[0]


def down(home: Path) -> list[ServiceReport]:
    """Stops everything that `up` or `relume serve` started; flow runs of the worker end with it."""
    # First, and not under the lock, which it may hold: else it would start again what ends here.
    supervised = stop_process(services_folder(home), "supervisor", grace=2.0)
    with _lock(home):
        ran = {name: stop_process(services_folder(home), name) for name in ("worker", "prefect", "mlflow")}
        EmbeddedTriton(home, trial=True).stop()
        ran["triton"] = EmbeddedTriton(home).stop()
    ran["supervisor"] = supervised
    return [
        ServiceReport(name=name, state="stopped") if did else _skipped(name, "was not running")
        for name, did in ran.items()
    ]


def serve(home: Path, end: threading.Event, say: Callable[[str], None]) -> None:
    """Serves the champions in the foreground until `end` is set, and keeps the server up.

    Args:
        home: RELUME_HOME.
        end: Set it to stop.
        say: Is given one line for each product that serves: by which release, and where.

    Raises:
        ModelMissingError: Nothing was released yet.
        ServiceError: The server does not start.
    """
    champions, triton = serve_champions(home), EmbeddedTriton(home)
    server = triton.running()
    if not champions or server is None:
        triton.stop()
        raise ModelMissingError("Nothing was released yet", next_step="run `relume release`")
    for release in champions:
        say(f"{release.product} is served by {release.model} at {server.grpc} and {server.http}")
    triton.supervise(end)


def environment(home: Path) -> dict[str, str]:
    """The environment of the services: that of all child processes, with Prefect's state below the home."""
    return child_environment(home) | {
        "PREFECT_HOME": str(home / "prefect"),
        **dict([prefect_database(home / "prefect")]),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else 12 processes and 1.5 GB instead of 2 of 260 MB
    }


def addresses(home: Path) -> dict[str, str]:
    """The variables by which other programs find MLflow, and Prefect while its server runs."""
    mlflow = running_process(services_folder(home), "mlflow")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or (mlflow and mlflow.address) or tracking_uri(home)
    api = prefect_api(home)
    return ({"PREFECT_API_URL": api} if api else {}) | {"MLFLOW_TRACKING_URI": uri}


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _lock(home: Path) -> FileLock:
    """Held while services are started or stopped."""
    open_home(home)
    return FileLock(_made(services_folder(home)) / "services.lock")


def _skipped(name: str, why: str) -> ServiceReport:
    return ServiceReport(name=name, state="skipped", detail=why)


def _start_chain(chain: list[tuple[str, Callable[[], ServiceReport]]]) -> list[ServiceReport]:
    """Starts services of which each needs the one before it."""
    reports: list[ServiceReport] = []
    for name, start in chain:
        if reports and reports[-1].state == "failed":
            reports.append(_skipped(name, f"{reports[-1].name} is not running"))
            continue
        try:
            reports.append(start())
        except (RelumeError, OSError) as caught:
            if (error := as_relume_error(caught)) is None:
                raise
            detail = "; ".join(str(part) for part in (error.where, error.why, error.next_step) if part)
            reports.append(ServiceReport(name=name, state="failed", detail=f"{error.what}: {detail}"))
    return reports


def _start(
    home: Path, name: str, command: list[str], *, address: str | None, ready: Callable[[], bool], **env: str
) -> str:
    """Starts one service and says whether it was running already."""
    folder = services_folder(home)
    before = running_process(folder, name)
    record = start_process(
        name,
        command,
        folder=folder,
        ready=ready,
        timeout=START_SECONDS,
        address=address,
        env=environment(home) | env,
        cwd=home,
    )
    return "running" if record == before else "started"


def _start_at(home: Path, name: str, preferred_port: int, start: Callable[[str], ServiceReport]) -> ServiceReport:
    """Starts a service at an address: where it listens or listened before, since others know that, if it can."""
    folder = services_folder(home)
    if (record := running_process(folder, name)) and record.address:
        return start(record.address)
    last = recorded_process(folder, name)
    stop_process(folder, name)  # what it left may hold the port
    if last and last.address:
        preferred_port = int(last.address.rpartition(":")[2])
    return on_free_ports([preferred_port], lambda port: start(f"http://127.0.0.1:{port}"))


def _start_mlflow(home: Path) -> ServiceReport:
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return ServiceReport(name="mlflow", state="external", address=redacted(uri))
    folder = _made(home / "mlflow")
    private_file(folder / "mlflow.db")
    if running_process(services_folder(home), "mlflow") is None:
        require_database(folder / "mlflow.db", "MLflow")

    def start(address: str) -> ServiceReport:
        port = address.rpartition(":")[2]
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"),
            *("--backend-store-uri", tracking_uri(home)),
            # Clients write artifacts to the folder themselves, so that they find them with and without the server.
            *("--no-serve-artifacts", "--default-artifact-root", (folder / "artifacts").as_uri()),
        ]
        state = _start(home, "mlflow", command, address=address, ready=lambda: answers(f"{address}/health"))
        return ServiceReport(name="mlflow", state=state, address=address)

    return _start_at(home, "mlflow", MLFLOW_PORT, start)


def _start_prefect(home: Path) -> ServiceReport:
    if api := os.environ.get("PREFECT_API_URL"):
        return ServiceReport(name="prefect", state="external", address=api)
    private_file(home / "prefect" / "prefect.db")
    if running_process(services_folder(home), "prefect") is None:
        require_database(home / "prefect" / "prefect.db", "Prefect")

    def start(address: str) -> ServiceReport:
        port = address.rpartition(":")[2]
        state = _start(
            home,
            "prefect",
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
            address=address,
            ready=lambda: answers(f"{address}/api/health"),
            PREFECT_SERVER_UI_API_URL=f"{address}/api",
        )
        return ServiceReport(name="prefect", state=state, address=address)

    return _start_at(home, "prefect", PREFECT_PORT, start)


def _start_worker(home: Path, root: Path) -> ServiceReport:
    api = os.environ.get("PREFECT_API_URL") or prefect_address(home) or ""
    state = _start(
        home,
        "worker",
        [
            *(sys.executable, "-m", "prefect", "worker", "start", "--name", "relume"),
            *("--pool", WORK_POOL, "--type", "process", "--install-policy", "never"),
        ],
        address=None,
        ready=lambda: answers(f"{api}/work_pools/{WORK_POOL}"),
        PREFECT_API_URL=api,
    )
    _deploy(home, root, api)
    with contextlib.suppress(OSError):  # the deployment `watch` tries again
        end_zombies(api)
    return ServiceReport(name="worker", state=state, detail="runs the deployment retrain/retrain on its schedule")


def _deploy(home: Path, root: Path, api: str) -> None:
    """Creates or updates the deployments of prefect.yaml."""
    log = services_folder(home) / "deploy.log"
    with open(log, "ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=root,
            env=environment(home) | {"PREFECT_API_URL": api},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise ServiceError(
            "Prefect did not create the deployments of prefect.yaml", why=last_line(log), next_step=f"read {log}"
        )


def _start_triton(home: Path) -> ServiceReport:
    triton = EmbeddedTriton(home)
    before = triton.running()
    served = serve_champions(home)
    server = triton.start()
    state = "running" if server == before else "started"
    detail = ", ".join(f"{r.product} is {r.model}" for r in served) or "nothing was released yet; run `relume release`"
    return ServiceReport(name="triton", state=state, address=server.grpc, detail=detail)
