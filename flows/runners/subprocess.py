"""Runs each stage on this machine, in a private clone of the run's commit that shares DVC's cache by links.

Why a clone: two `dvc repro` in one workspace collide on DVC's lock, and a stage must run the code of the
run's commit, not what the user types meanwhile.
"""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO

from configobj import ConfigObj

from flows.dvc_commands import start_dvc
from flows.environment import child_environment
from flows.graph import Stage
from flows.lock import entry_of
from flows.processes import mark, record_process, stop_process
from flows.run_commit import clone_commit
from flows.runners import Run, StageCancelledError, StageResult
from relume.errors import NOT_WORTH_RETRYING, StageFailedError
from relume.home import tracking_uri

GRACE_SECONDS = 5.0  # from SIGTERM to SIGKILL
PROCESS = "process"  # name of the record of a stage's process
CONTAINER = "container.json"  # that of its container: RECORD of flows.runners.container, which imports Docker's client
JOB = "job.json"  # that of its Job in a Kubernetes cluster
NOT_RUN_HERE = 87  # exit code of a command that DVC is to run elsewhere, see flows.runners.kubernetes
TAIL = 12  # lines of the log in an error message

# What DVC says to a person at a prompt.
_NOISE = re.compile(
    r"dvc push|dvc config core\.autostage|git add dvc\.lock|To track the changes with git|To enable auto staging"
    r"|^A {7}\S|^\d+ files? (fetched|added)"
    rf"|exited with {NOT_RUN_HERE}$"
    r"|^Running stage|(Generating|Updating) lock file|^Data and pipelines are up to date|^Pulling data for stage"
)
_EXITED = re.compile(r"failed to run: .*, exited with (\d+)")


class CpuBudget:
    """Lets stages start while their `meta.cpu` fit into the cores of this machine.

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
    """Runs stages as processes of this machine.

    Args:
        run: The run that the stages belong to.
        on_line: Called with the stage's name and each line that it prints, from the stage's thread.
        environment: Variables that the stages get on top of this process's own.
        cores: Cores to share out among the stages; by default those this process may use.
    """

    def __init__(
        self,
        run: Run,
        on_line: Callable[[str, str], None] = lambda stage, line: None,
        environment: dict[str, str] | None = None,
        cores: float | None = None,
    ):
        self._run, self._on_line = run, on_line
        self._environment = environment or {}
        self._budget = CpuBudget(cores or len(os.sched_getaffinity(0)))
        self._cancelled = threading.Event()

    def run(self, stage: Stage, lock: str) -> StageResult:
        """See `flows.runners.Runner.run`."""
        with self._budget.take(stage.meta.get("cpu", 1), self._cancelled):
            if self._cancelled.is_set():
                raise StageCancelledError("The stage was not started", where=stage.name, why="the run was cancelled")
            start = time.monotonic()
            clone = self._clone(stage, lock)
            cached = self._reproduce(stage, clone)
            entry = entry_of((clone / "dvc.lock").read_text(encoding="utf-8"), stage.name)
            shutil.rmtree(self._run.stage_folder(stage))
            return StageResult(
                stage=stage.name,
                outcome="cached" if cached else "ran",
                seconds=time.monotonic() - start,
                entry=entry,
            )

    def check(self, stages: list[Stage]) -> dict[str, str]:
        """See `flows.runners.Runner.check`: a process needs nothing beforehand."""
        return {}

    def cancel(self) -> None:
        """See `flows.runners.Runner.cancel`."""
        self._cancelled.set()

    def _clone(self, stage: Stage, lock: str) -> Path:
        """Makes the private clone: the run's commit, the current dvc.lock, the driver's cache by links."""
        folder = self._run.stage_folder(stage)
        stop_process(folder, PROCESS, grace=GRACE_SECONDS)  # one that a killed driver left
        shutil.rmtree(folder, ignore_errors=True)
        clone = folder / "clone"
        clone_commit(self._run.root, self._run.commit, clone)
        (clone / "dvc.lock").unlink(missing_ok=True)
        if lock:
            (clone / "dvc.lock").write_text(lock, encoding="utf-8")
        local = self._run.root / ".dvc" / "config.local"
        config = ConfigObj(str(local) if local.is_file() else None, encoding="utf-8", interpolation=False)
        # A link beside it, since DVC replaces some characters of a path. Files that are linked to the cache are
        # read-only, which protects it, and outs are large.
        self._run.store.cache.mkdir(parents=True, exist_ok=True)
        (clone / ".dvc" / "cache").symlink_to(self._run.store.cache)
        config.setdefault("cache", {}).update({"dir": "cache", "type": ["hardlink", "symlink", "copy"]})
        for number, (name, place) in enumerate(self._run.store.remotes.items()):  # a relative one is of the checkout
            (clone / ".dvc" / f"remote-{number}").symlink_to(place)
            config.setdefault(f'remote "{name}"', {})["url"] = f"remote-{number}"
        config.filename = str(clone / ".dvc" / "config.local")
        config.write()
        return clone

    def _reproduce(self, stage: Stage, clone: Path) -> bool:
        seen = Output()
        # The deps first. Left to `repro --pull` or `--allow-missing`, DVC (3.67) takes a missing dep for the
        # one that the stage's old entry names, and so a stage for unchanged although the one before it changed.
        # Without a remote, `repro --pull` fails on a hit in the run cache.
        bring, pull = ("pull", ["--pull"]) if self._run.store.remote else ("checkout", [])
        commands = [[bring, *stage.inputs]] if stage.inputs else []
        commands.append(["repro", "--single-item", *pull, stage.name])
        for command in commands:
            if why := self._dvc(stage, clone, command, seen):
                raise self._failure(stage, why, seen.exit_code, self._tail(stage, seen))
        return not seen.ran

    def _tail(self, stage: Stage, seen: "Output") -> str:
        log = os.path.relpath(self._run.log(stage), self._run.root)
        return f"the last lines of {log}:" + "".join(f"\n        {line}" for line in seen.tail)

    def _dvc(self, stage: Stage, clone: Path, arguments: list[str], seen: "Output") -> str | None:
        """Runs one command of DVC to its end; gives why it failed, or None."""
        folder, log = self._run.stage_folder(stage), self._run.log(stage)
        process = start_dvc(clone, arguments, self._stage_environment(stage) | mark(folder, PROCESS))
        record_process(PROCESS, process, folder=folder, command=["dvc", *arguments], log=log)
        reader = threading.Thread(target=self._read, args=(stage, process.stdout, seen), daemon=True)
        reader.start()
        why = self._wait(stage, process)
        reader.join(timeout=GRACE_SECONDS)
        if why is None and process.returncode:
            why = f"its command ended with {seen.ending}"
        return why

    def _read(self, stage: Stage, output: IO[str] | Generator[str, None, None], seen: "Output") -> None:
        with open(self._run.log(stage), "a", encoding="utf-8") as log, contextlib.closing(output):
            for line in output:
                log.write(line)
                log.flush()
                line = line.rstrip()
                seen.add(line)
                if line and not _NOISE.search(line):
                    self._on_line(stage.name, line)

    def _wait(self, stage: Stage, process: subprocess.Popen) -> str | None:
        deadline = time.monotonic() + stage.meta.get("timeout", float("inf"))
        try:
            while process.poll() is None:
                if self._cancelled.wait(timeout=0.05):
                    raise StageCancelledError("The stage was cancelled", where=stage.name, why="the run was cancelled")
                if time.monotonic() > deadline:
                    return f"it ran longer than its {stage.meta['timeout']} seconds (meta.timeout in dvc.yaml)"
        finally:
            self._stop(stage)  # what the stage itself left running, too
        return None

    def _stop(self, stage: Stage) -> None:
        stop_process(self._run.stage_folder(stage), PROCESS, grace=GRACE_SECONDS)

    def _failure(self, stage: Stage, why: str, exit_code: int, output: str) -> StageFailedError:
        settled = exit_code in NOT_WORTH_RETRYING
        return StageFailedError(
            "The stage failed",
            exit_code=exit_code if settled else StageFailedError.exit_code,
            where=stage.name,
            why=f"{why}; {output}",
            next_step=("fix what its message names, then run " if settled else "run ") + "`relume pipeline run`",
        )

    def _stage_environment(self, stage: Stage) -> dict[str, str]:
        environment = child_environment(self._run.home)
        environment.pop("PYTHONSAFEPATH", None)  # the clone's code comes first on the path
        return (
            environment
            | {
                "DVC_SITE_CACHE_DIR": str(self._run.stage_folder(stage) / "dvc"),
                "MLFLOW_TRACKING_URI": tracking_uri(self._run.home),
                "RELUME_DRIVER_PID": str(os.getpid()),
                "RELUME_RUN": self._run.name,
                "SHELL": "/bin/sh",
            }
            | self._environment
        )


class Output:
    """What is remembered of the lines of a stage."""

    def __init__(self) -> None:
        self.ran = False
        self.exit_code = 0  # of the stage's own command, once DVC names it
        self._lines: deque[str] = deque(maxlen=TAIL)

    def add(self, line: str) -> None:
        self.ran |= line.startswith("Running stage")
        if match := _EXITED.search(line):
            self.exit_code = int(match[1])
        elif line and not _NOISE.search(line):
            self._lines.append(line)

    @property
    def ending(self) -> str:
        return f"exit code {self.exit_code}" if self.exit_code else "an error of DVC"

    @property
    def tail(self) -> list[str]:
        return list(self._lines)


def end_leftovers(home: Path) -> None:
    """Ends the processes, containers and Jobs and removes the clones that earlier runs left, killed or failed ones.

    Call it only while holding the driver's lock: with it, every clone there is belongs to a run that is over.

    Args:
        home: RELUME_HOME.

    Raises:
        ServiceError: There may be containers or Jobs, and no engine or cluster answers.
    """
    for record in (home / "runs").glob(f"*/*/{PROCESS}.json"):
        stop_process(record.parent, PROCESS, grace=GRACE_SECONDS)
    if records := list((home / "runs").glob(f"*/*/{CONTAINER}")):
        from flows.runners.docker import connect, end_containers

        engine = connect()
        for record in records:
            end_containers(record.parent, engine)
    for record in (home / "runs").glob(f"*/*/{JOB}"):
        from flows.runners.kubernetes import end_recorded_job

        end_recorded_job(record)
    for clone in (home / "runs").glob("*/*/clone"):
        shutil.rmtree(clone.parent)
