"""The environment variables of the processes that the flows start."""

import os
import sys
from pathlib import Path

# No package reports its usage; the names are those of the packages' own documentation.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def child_environment(home: Path) -> dict[str, str]:
    """This process's environment with telemetry off, this Python's programs first on the path, and the home.

    Args:
        home: RELUME_HOME.
    """
    return (
        os.environ
        | TELEMETRY_OFF
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "RELUME_HOME": str(home),
        }
    )
