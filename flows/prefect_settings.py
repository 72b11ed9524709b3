"""Prefect's settings on a laptop: its ephemeral API on SQLite below RELUME_HOME, unless the user chose a server."""

import os
import sys
from pathlib import Path

import psutil

from relume.files import read_json, write_json


def use_local_prefect(home: Path) -> None:
    """Sets what Prefect reads from the environment when it is first imported; what is set already stays.

    A server is chosen by Prefect's own means: `PREFECT_API_URL`, or a profile in ~/.prefect. Without
    either, Prefect's ephemeral API runs beside the flow and keeps its state in `home`/prefect.

    Args:
        home: RELUME_HOME.
    """
    if "prefect" in sys.modules:  # a worker or an enclosing flow has made the choice
        return
    settings = {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home / "prefect"),
        # 10 to 19 s on an idle machine; the default of 20 s fails under load.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The flow prints its own summary; Prefect's log goes to its API.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
    profiles = Path.home() / ".prefect" / "profiles.toml"
    if profiles.is_file():
        settings["PREFECT_PROFILES_PATH"] = str(profiles)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    _end_orphaned_server(home)


def note_server(home: Path) -> None:
    """Writes down the ephemeral server of this process, if it has one.

    It ends with the process, but not when the process is killed; the next run ends it then.

    Args:
        home: RELUME_HOME.
    """
    for child in psutil.Process().children():
        if any("prefect.server.api.server:create_app" in word for word in child.cmdline()):
            driver = psutil.Process()
            record = {"server": [child.pid, child.create_time()], "driver": [driver.pid, driver.create_time()]}
            write_json(_record(home), record)


def _record(home: Path) -> Path:
    return home / "prefect" / "ephemeral-server.json"


def _end_orphaned_server(home: Path) -> None:
    if not _record(home).is_file():
        return
    record = read_json(_record(home))
    server, driver = (_living(*record[role]) for role in ("server", "driver"))
    if driver is None:
        if server is not None:
            server.terminate()
        _record(home).unlink()


def _living(pid: int, created: float) -> psutil.Process | None:
    """The process, if the one of that number is still the one that was created then."""
    try:
        process = psutil.Process(pid)
        return process if process.create_time() == created else None
    except psutil.NoSuchProcess:
        return None
