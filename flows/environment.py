"""The environment variables of the processes that the flows start."""

import os
import sys
from pathlib import Path

from relume.network import keep_to_this_machine


def child_environment(home: Path) -> dict[str, str]:
    """This process's environment with telemetry off, this Python's programs first on the path, and the home.

    Args:
        home: RELUME_HOME.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",  # files of the platform are UTF-8 whatever the locale says
        "RELUME_HOME": str(home),
    }
    keep_to_this_machine(environment)
    return environment
