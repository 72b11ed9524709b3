"""What every step shares: validated parameters, one error format, and an end with its driver."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import yaml
from pydantic import BaseModel, ValidationError

from relume.errors import ConfigError, RelumeError

P = TypeVar("P", bound=BaseModel)


def load_params(section: str, model: type[P], path: str | Path = "params.yaml") -> P:
    """Reads one section of params.yaml, given as a dotted name such as `pretrain.bases.nafnet`.

    Raises:
        ConfigError: The file or section is missing, or a key is unknown or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError("No parameters", where=path, next_step="run the step from the top of a relume checkout")
    value = yaml.safe_load(path.read_text()) or {}
    for key in section.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ConfigError("Missing section", where=f"{path}: {section}", next_step=f"add `{section}` to {path}")
        value = value[key]
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}={e.get('input')!r}: {e['msg']}" for e in error.errors(include_url=False)
        )
        raise ConfigError(
            "Invalid parameters", where=f"{path}: {section}", why=problems, next_step=f"mend {section} in {path}"
        ) from None


def run_step(main: Callable[[], None]) -> None:
    """Runs a step's `main` and ends the process: 0, or the error's exit code (see `relume.errors`), 1 for a defect.

    A RelumeError is printed as one message without a traceback; anything else keeps its traceback,
    because it is a defect and the traceback is what mends it.
    """
    _end_with_driver()
    try:
        main()
    except RelumeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def _end_with_driver() -> None:
    """Ends this process soon after `dvc` or the flow that started it died.

    `kill -9` of dvc leaves the stage's shell and this process running; they would go on writing to
    outs and hold the training lock while the stage is started again.
    """
    watched = []
    if driver := os.environ.get("RELUME_DRIVER_PID"):
        watched.append(int(driver))
    if "DVC_STAGE" in os.environ:
        watched += [process.pid for process in psutil.Process().parents()[:2]]
    alive = []
    for pid in watched:
        try:
            alive.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            os._exit(1)

    def watch() -> None:
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in alive):
            time.sleep(0.5)
        print("error: the process that started this step is gone; ending", file=sys.stderr, flush=True)
        os._exit(1)

    if alive:
        threading.Thread(target=watch, name="end-with-driver", daemon=True).start()
