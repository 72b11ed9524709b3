"""Flow runs that Prefect takes for running although their process has ended.

A process that is killed cannot report its end. Its run would stay Running for ever, and hold the one place that its
deployment has, so that no later run begins.
"""

import os
import socket
from pathlib import Path
from typing import Any

from flows.prefect_settings import ask_prefect

_VARIABLE = "PREFECT__FLOW_RUN_ID"  # which the worker gives to the process of a run
_SECONDS = 10.0


def find_zombies(api: str) -> dict[str, str]:
    """The runs of this machine's workers whose process has ended: their names by their ids.

    Args:
        api: Address of Prefect's API.

    Raises:
        OSError: It does not answer.
    """
    wanted = {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}, "deployment_id": {"is_null_": False}}
    runs: list[dict[str, Any]] = ask_prefect(api, "flow_runs/filter", {"flow_runs": wanted}, timeout=_SECONDS)
    # Another machine's processes cannot be seen from here.
    here = [run for run in runs if (run["infrastructure_pid"] or "").partition(":")[0] == socket.gethostname()]
    living = _living() if here else set()
    return {run["id"]: run["name"] for run in here if run["id"] not in living}


def end_zombies(api: str) -> list[str]:
    """Reports the end of such runs to Prefect, as crashes.

    Returns:
        Their names.

    Raises:
        OSError: Prefect does not answer.
    """
    found = find_zombies(api)
    for run in found:
        state = {"type": "CRASHED", "message": "Its process ended without a word, as by kill -9."}
        ask_prefect(api, f"flow_runs/{run}/set_state", {"state": state, "force": True}, timeout=_SECONDS)
    return list(found.values())


def _living() -> set[str]:
    """The ids of the runs that processes of this user say they are."""
    found, prefix = set(), f"{_VARIABLE}=".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended, or is another user's
                continue
            found |= {os.fsdecode(value.removeprefix(prefix)) for value in variables if value.startswith(prefix)}
    return found
