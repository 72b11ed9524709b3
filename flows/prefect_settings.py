"""Prefect on a laptop: its API on SQLite below RELUME_HOME beside the flow, unless there is a server to report to."""

import atexit
import contextlib
import json
import os
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from flows.home_schema import open_home
from flows.processes import (
    FREE_MEGABYTES,
    answers,
    on_free_ports,
    running_process,
    start_mark,
    start_process,
    stop_process,
)
from relume.errors import RelumeError, ServiceError
from relume.files import check_space
from relume.home import private_file, require_database, sqlite_address
from relume.reading import reading

START_SECONDS = 120.0  # 10 to 19 s on an idle machine


def use_local_prefect(home: Path) -> None:
    """Sets what Prefect reads from the environment when it is first imported; what is set already stays.

    A server is chosen by Prefect's own means, `PREFECT_API_URL` or a profile in ~/.prefect. Without either,
    flows report to the server of `relume up` while it runs, else to one of their own, which ends with this
    process. It is Prefect's ephemeral server in a session of its own: Prefect would start it in ours, where
    Ctrl-C reaches it before the flow has reported how it ended, and the flow then hangs for minutes.

    Args:
        home: RELUME_HOME.

    Raises:
        BrokenFileError: Its database is damaged or locked.
        ServiceError: The server does not start.
    """
    open_home(home)
    if "prefect" in sys.modules:  # a worker or an enclosing flow has chosen already
        return
    settings = {
        "PREFECT_HOME": str(home / "prefect"),
        # The flow prints its own summary; Prefect's log goes to its API.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        # By default a flow whose server ended tries for ten minutes, and most of that after it has said why it failed.
        "PREFECT_CLIENT_MAX_RETRIES": "2",
        "PREFECT_API_REQUEST_TIMEOUT": "20",
    }
    profiles = Path.home() / ".prefect" / "profiles.toml"
    if profiles.is_file():
        settings["PREFECT_PROFILES_PATH"] = str(profiles)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(*prefect_database(Path(os.environ["PREFECT_HOME"])))
    if "PREFECT_API_URL" not in os.environ and not _profile_has_server():
        os.environ["PREFECT_API_URL"] = prefect_address(home) or _start_server(home / "prefect" / "servers")


@contextlib.contextmanager
def prefect_errors(home: Path) -> Iterator[None]:
    """Makes one error of Prefect's client, whose server cannot keep what a flow reports or ended meanwhile.

    Args:
        home: RELUME_HOME.

    Raises:
        RelumeError: What the flow itself failed of, if it did.
        StorageError: The disk is full.
        ServiceError: The server failed otherwise.
    """
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        before = error.__context__
        while before:
            if isinstance(before, RelumeError):
                raise before from None
            before = before.__context__
        check_space(home, FREE_MEGABYTES)
        why = str(error).partition("\n")[0] or type(error).__name__
        next_step = "see why with `relume status`, then run the same command again"
        address = os.environ.get("PREFECT_API_URL")
        raise ServiceError("Prefect's server failed", where=address, why=why, next_step=next_step) from error


def prefect_address(home: Path) -> str | None:
    """The API of the Prefect server of `relume up` while it runs."""
    record = running_process(services_folder(home), "prefect")
    return f"{record.address}/api" if record else None


def prefect_api(home: Path) -> str | None:
    """The API that flows report to: the environment's, else that of `relume up` while it runs."""
    return os.environ.get("PREFECT_API_URL") or prefect_address(home)


def ask_prefect(api: str, path: str, body: dict[str, Any] | None = None, *, timeout: float) -> Any:
    """The answer of Prefect's REST API, without importing Prefect: to a GET, or to a POST of a body.

    Raises:
        OSError: It does not answer in time, or refuses.
        ValueError: What answers is no such API.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)


def prefect_database(folder: Path) -> tuple[str, str]:
    """The variable that names the database of Prefect's server, and its value; Prefect's own does not quote the path.

    Args:
        folder: PREFECT_HOME.
    """
    return "PREFECT_SERVER_DATABASE_CONNECTION_URL", sqlite_address(folder / "prefect.db", "sqlite+aiosqlite")


def services_folder(home: Path) -> Path:
    """Where the records and logs of MLflow, Prefect and the worker are."""
    return home / "services"


def _profile_has_server() -> bool:
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or Path(os.environ["PREFECT_HOME"]) / "profiles.toml")
    if not path.is_file():
        return False
    with reading(path, next_step="correct it, or move it aside"):
        profiles = tomllib.loads(path.read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
        return "PREFECT_API_URL" in profiles.get("profiles", {}).get(active, {})


def _start_server(folder: Path) -> str:
    """Starts the server of this process and gives the address of its API."""
    folder.mkdir(parents=True, exist_ok=True)
    private_file(folder.parent / "prefect.db")
    for record in folder.glob("[!.]*.json"):
        if record.stem != _owner(int(record.stem.partition("-")[0])):
            _stop(folder, record.stem)  # of a killed run: it may hold the database's lock while it makes its tables
    name = _owner(os.getpid())
    atexit.register(_stop, folder, name)

    def start(port: int) -> str:
        address = f"http://127.0.0.1:{port}"
        command = [
            *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
            *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
        ]
        start_process(
            name,
            command,
            folder=folder,
            ready=lambda: answers(f"{address}/api/health"),
            timeout=START_SECONDS,
            address=address,
            # No UI and none of the server's background services.
            env=os.environ
            | {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"},
        )
        return f"{address}/api"

    # Two servers that start together would both make the tables of an empty database, and one of them would end.
    with FileLock(folder / "starting.lock"):
        require_database(folder.parent / "prefect.db", "Prefect")
        return on_free_ports([None], start)


def _stop(folder: Path, name: str) -> None:
    stop_process(folder, name)
    (folder / f"{name}.log").unlink(missing_ok=True)


def _owner(pid: int) -> str:
    """The identity of a process: its start tick does not change when the clock is set."""
    return f"{pid}-{(start_mark(pid) or '').rpartition(':')[2]}"
