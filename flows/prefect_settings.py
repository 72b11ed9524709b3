"""Prefect's settings on a laptop: its ephemeral API on SQLite below RELUME_HOME, unless the user chose a server."""

import os
import sys
from pathlib import Path


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
