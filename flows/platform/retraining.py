"""Starts the deployment `retrain` at once, as its schedule would, and follows it."""

import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.prefect_settings import ask_prefect, prefect_api
from flows.turns import activities
from relume.errors import RelumeError, ServiceError

_ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_LOOK_SECONDS = 2.0
_NO_PLACE = "Deployment concurrency limit reached."  # what Prefect says of a run that it cancels for the limit


class RetrainFailedError(RelumeError):
    """A retraining failed or was cancelled."""


def start(home: Path) -> str:
    """Starts a run of the deployment and gives its id.

    Raises:
        ServiceError: The platform does not run, or has no such deployment.
    """
    deployment = _ask(home, "deployments/name/retrain/retrain")
    return str(_ask(home, f"deployments/{deployment['id']}/create_flow_run", {})["id"])


def follow(home: Path, run: str, say: Callable[[str], None]) -> None:
    """Reports the state and the stages of a run, whenever they change, until it ends.

    Raises:
        RetrainFailedError: It failed or was cancelled, or was not begun, since another one is in progress.
        ServiceError: The platform was stopped meanwhile.
    """
    said = ""
    while True:
        state = _ask(home, f"flow_runs/{run}")["state"]
        if state["type"] in _ENDED:
            break
        doing = next((f", {each.doing}" for each in activities(home) if each.what == "retrain" and each.doing), "")
        stages = doing if state["type"] == "RUNNING" else ""
        line = f"{state['name'].lower()}{stages}"
        # The ages of stages change all the time; what counts is which stages.
        if (what := "".join(character for character in line if not character.isdigit())) != said:
            said = what
            say(line)
        time.sleep(_LOOK_SECONDS)
    if state["message"] == _NO_PLACE:
        raise RetrainFailedError(
            "The retraining was not begun",
            where=run,
            why="another retraining is in progress",
            next_step="see `relume status`, and start it again when that one has ended",
        )
    if state["type"] != "COMPLETED":
        raise RetrainFailedError(
            f"The retraining ended as {state['name'].lower()}",
            where=run,
            why=state["message"] or None,
            next_step="see `relume status`",
        )
    say(f"{state['name'].lower()}{': ' + state['message'] if state['name'] == 'Skipped' else ''}")


def _ask(home: Path, path: str, body: dict[str, Any] | None = None, *, tries: int = 30) -> dict[str, Any]:
    api = prefect_api(home)
    if api is None:
        raise ServiceError(
            "The platform is not running", why="its worker runs the retraining", next_step="run `relume up`"
        )
    try:
        return ask_prefect(api, path, body, timeout=30.0)
    except urllib.error.HTTPError as error:
        if error.code == 503 and tries > 1:  # its database is locked for a moment
            time.sleep(1.0)
            return _ask(home, path, body, tries=tries - 1)
        if error.code == 404:
            raise ServiceError(
                "Prefect does not have the deployment retrain/retrain", where=api, next_step="run `relume up`"
            ) from None
        raise ServiceError(
            "Prefect refuses the request", where=api, why=error, next_step="see `relume status`"
        ) from None
    except OSError as error:
        raise ServiceError("Prefect does not answer", where=api, why=error, next_step="run `relume up`") from None
