"""Runs each stage on this machine, in a private clone of the run's commit that shares DVC's cache by links.

Why a clone: two `dvc repro` in one workspace collide on DVC's lock, and a stage must run the code of the
run's commit, not what the user types meanwhile.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from flows.lock import entry_of
from flows.processes import record_process, stop_process
from flows.run_commit import clone_commit
from flows.runners import Step, StepCancelled, StepFailed, StepResult
from relume.errors import NOT_WORTH_RETRYING
from relume.home import tracking_uri

GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
PROCESS = "process"  # name of the record of a step's process
TAIL = 12  # lines of the log in an error message

# What DVC says to a person at a prompt.
_NOISE = re.compile(
    r"dvc push|dvc config core\.autostage|git add dvc\.lock|To track the changes with git|To enable auto staging"
    r"|^Running stage|(Generating|Updating) lock file|^Data and pipelines are up to date|^Pulling data for stage"
)
_EXITED = re.compile(r"failed to run: .*, exited with (\d+)")

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


class CpuBudget:
    """Lets steps start while their `meta.cpu` fit into the cores of this machine.

    Args:
        cores: The cores to share out.
    """

    def __init__(self, cores: float):
        self._cores = self._free = cores
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, cores: float, cancelled: threading.Event) -> Iterator[None]:
        """Waits for `cores` free cores (all of them, when there are fewer) and holds them."""
        cores = min(cores, self._cores)
        with self._changed:
            while self._free < cores and not cancelled.is_set():
                self._changed.wait(timeout=0.2)
            self._free -= cores
        try:
            yield
        finally:
            with self._changed:
                self._free += cores
                self._changed.notify_all()


class SubprocessRunner:
    """Runs steps as processes of this machine.

    Args:
        on_line: Called with the stage's name and each line that it prints, from the step's thread.
        environment: Variables that the steps get on top of this process's own.
        cores: Cores to share out among the steps; by default those this process may use.
    """

    def __init__(
        self,
        on_line: Callable[[str, str], None] = lambda stage, line: None,
        environment: dict[str, str] | None = None,
        cores: float | None = None,
    ):
        self._on_line = on_line
        self._environment = environment or {}
        self._budget = CpuBudget(cores or len(os.sched_getaffinity(0)))
        self._cancelled = threading.Event()

    def run(self, step: Step) -> StepResult:
        """See `flows.runners.Runner.run`."""
        with self._budget.take(step.stage.meta.get("cpu", 1), self._cancelled):
            if self._cancelled.is_set():
                raise StepCancelled("Stage not started", where=step.stage.name, why="the run was cancelled")
            start = time.monotonic()
            clone = _clone(step)
            cached = self._reproduce(step, clone)
            entry = entry_of((clone / "dvc.lock").read_text(), step.stage.name)
            shutil.rmtree(step.folder)
            return StepResult(
                stage=step.stage.name,
                outcome="cached" if cached else "ran",
                seconds=time.monotonic() - start,
                entry=entry,
            )

    def cancel(self) -> None:
        """See `flows.runners.Runner.cancel`."""
        self._cancelled.set()

    def _reproduce(self, step: Step, clone: Path) -> bool:
        seen = _Output()
        # The deps first. Left to `repro --pull` or `--allow-missing`, DVC (3.67) takes a missing dep for the
        # one that the stage's old entry names, and so a stage for unchanged although the one before it changed.
        # Without a remote, `repro --pull` fails on a hit in the run cache.
        bring, pull = ("pull", ["--pull"]) if step.run.store.remote else ("checkout", [])
        commands = [[bring, "--quiet", *step.stage.inputs]] if step.stage.inputs else []
        commands.append(["repro", "--single-item", *pull, step.stage.name])
        for command in commands:
            if why := self._dvc(step, clone, command, seen):
                raise self._failure(step, why, seen)
        return not seen.ran

    def _dvc(self, step: Step, clone: Path, arguments: list[str], seen: "_Output") -> str | None:
        """Runs one command of DVC to its end; gives why it failed, or None."""
        command = [sys.executable, "-m", "dvc", *arguments]
        process = subprocess.Popen(
            command,
            cwd=clone,
            env=_environment(step) | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that the whole stage can be ended at once
        )
        record_process(PROCESS, process, folder=step.folder, command=command, log=step.log)
        reader = threading.Thread(target=self._read, args=(step, process.stdout, seen), daemon=True)
        reader.start()
        why = self._wait(step, process)
        reader.join(timeout=GRACE_SECONDS)
        if why is None and process.returncode:
            why = f"its command ended with {seen.exited}"
        return why

    def _read(self, step: Step, output: IO[str], seen: "_Output") -> None:
        with open(step.log, "a", encoding="utf-8") as log, output:
            for line in output:
                log.write(line)
                log.flush()
                line = line.rstrip()
                seen.add(line)
                if line and not _NOISE.search(line):
                    self._on_line(step.stage.name, line)

    def _wait(self, step: Step, process: subprocess.Popen) -> str | None:
        deadline = time.monotonic() + step.stage.meta.get("timeout", float("inf"))
        try:
            while process.poll() is None:
                if self._cancelled.wait(timeout=0.05):
                    raise StepCancelled("Stage cancelled", where=step.stage.name, why="the run was ended")
                if time.monotonic() > deadline:
                    return f"it ran longer than its {step.stage.meta['timeout']} seconds (meta.timeout in dvc.yaml)"
        finally:
            stop_process(step.folder, PROCESS, grace=GRACE_SECONDS)  # also what the stage itself left running
        return None

    def _failure(self, step: Step, why: str, seen: "_Output") -> StepFailed:
        log = os.path.relpath(step.log, step.run.root)
        tail = "".join(f"\n        {line}" for line in seen.tail)
        settled = seen.exited in NOT_WORTH_RETRYING
        return StepFailed(
            "Stage failed",
            exit_code=int(seen.exited) if settled else StepFailed.exit_code,
            where=step.stage.name,
            why=f"{why}; the last lines of {log}:{tail}",
            next_step=("mend what the stage says, then: " if settled else "") + "relume pipeline run",
        )


class _Output:
    """What is remembered of the lines of a step."""

    def __init__(self) -> None:
        self.ran = False
        self.exited: int | str = "an error of DVC"  # the exit code of the stage's own command, once DVC names it
        self._lines: deque[str] = deque(maxlen=TAIL)

    def add(self, line: str) -> None:
        self.ran |= line.startswith("Running stage")
        if match := _EXITED.search(line):
            self.exited = int(match[1])
        elif line and not _NOISE.search(line):
            self._lines.append(line)

    @property
    def tail(self) -> list[str]:
        return list(self._lines)


def _clone(step: Step) -> Path:
    """Makes the private clone: the run's commit, the current dvc.lock, the driver's cache by links."""
    stop_process(step.folder, PROCESS, grace=GRACE_SECONDS)  # of a driver that was killed
    shutil.rmtree(step.folder, ignore_errors=True)
    clone = step.folder / "clone"
    clone_commit(step.run.root, step.run.commit, clone)
    (clone / "dvc.lock").unlink(missing_ok=True)
    if step.lock:
        (clone / "dvc.lock").write_text(step.lock)
    # Links first: outs are large, and files that are linked to the cache are read-only, which protects it.
    config = f'[cache]\n    dir = {step.run.store.cache}\n    type = "hardlink,symlink,copy"\n'
    driver = step.run.root / ".dvc" / "config.local"
    (clone / ".dvc" / "config.local").write_text((driver.read_text() if driver.is_file() else "") + config)
    return clone


def _environment(step: Step) -> dict[str, str]:
    dropped = ("GIT_", "DVC_")  # of a git hook or a stage that called us
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment.pop("PYTHONSAFEPATH", None)  # the clone's code comes first on the path
    home = step.run.home
    return (
        environment
        | TELEMETRY_OFF
        | {
            "DVC_SITE_CACHE_DIR": str(step.folder / "dvc"),
            "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri(),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "RELUME_DRIVER_PID": str(os.getpid()),
            "RELUME_HOME": str(home),
            "RELUME_RUN": step.run.name,
            "SHELL": "/bin/sh",
        }
    )


def end_leftovers(home: Path) -> None:
    """Ends the processes and removes the clones that earlier runs left, killed or failed ones.

    Call it only while holding the driver's lock: with it, every clone there is belongs to a run that is over.

    Args:
        home: RELUME_HOME.
    """
    for record in (home / "runs").glob(f"*/*/{PROCESS}.json"):
        stop_process(record.parent, PROCESS, grace=GRACE_SECONDS)
    for clone in (home / "runs").glob("*/*/clone"):
        shutil.rmtree(clone.parent)
