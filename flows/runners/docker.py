"""Runs each stage's command in a container of its image, by Docker or by Podman, through Docker's API.

DVC stays beside the driver, in the private clone of `flows.runners.subprocess`, and is given a shell that runs the
stage's command in a container. So a step sees its clone and the folders of state it needs, and nothing else: no
repository, and DVC's cache only for reading. Images need neither git nor DVC.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

from flows.graph import Stage
from flows.runners import Run, StageResult, out_of_memory
from flows.runners.container import ENGINE_ERRORS, LABEL, OUT_OF_MEMORY, RECORD, STATE, USER, end_containers
from flows.runners.subprocess import SubprocessRunner
from relume.errors import ConfigError, ServiceError, StageFailedError, UserError
from relume.files import write_json, write_text
from relume.home import sqlite_file, tracking_uri
from relume.ingestion.lists import LIST, source_folders

MOST_PROCESSES = 1024
# What a step gets of the driver's environment, beside what the runner sets.
_HANDED_ON = ("AWS_", "LOGNAME", "MLFLOW_", "OMP_", "PYTHONUTF8", "RELUME_HOME", "RELUME_RUN")
_SHELL = "shell"


class ImageMissingError(UserError):
    """The engine has no image of a stage."""


class DockerRunner(SubprocessRunner):
    """Runs stages in containers of this machine, within the limits of their `meta`.

    Args:
        run: The run that the stages belong to.
        on_line: As for `SubprocessRunner`.
        environment: Variables that the stages get on top of those the runner sets.
        cores: As for `SubprocessRunner`.

    Raises:
        ServiceError: See `connect`.
    """

    def __init__(
        self,
        run: Run,
        on_line: Callable[[str, str], None] = lambda stage, line: None,
        environment: dict[str, str] | None = None,
        cores: float | None = None,
    ):
        super().__init__(run, on_line, environment, cores)
        self._engine = connect()
        self._images: dict[str, str] = {}  # by stage: a tag may point to another one when the stage ends

    def check(self, stages: list[Stage]) -> dict[str, str]:
        """See `flows.runners.Runner.check`."""
        address = tracking_uri(self._run.home)
        if (database := sqlite_file(address)) and not database.is_relative_to(self._run.home / "mlflow"):
            raise ConfigError(
                "Steps in containers cannot write to this database",
                where=f"MLFLOW_TRACKING_URI={address}",
                why=f"of SQLite's databases they see those in {self._run.home / 'mlflow'}",
                next_step="unset MLFLOW_TRACKING_URI, or set it to an MLflow server's address",
            )
        return {stage.meta["image"]: self._image(stage) for stage in stages}

    def run(self, stage: Stage, lock: str) -> StageResult:
        """See `flows.runners.Runner.run`."""
        try:
            result = super().run(stage, lock)
        except StageFailedError:
            (self._run.stage_folder(stage) / RECORD).unlink(missing_ok=True)  # its containers are ended
            raise
        except ENGINE_ERRORS as error:
            raise StageFailedError(
                "The container engine failed",
                where=stage.name,
                why=error,
                next_step="start it again, then run `relume pipeline run`, which removes what is left of the stage",
            ) from None
        return dataclasses.replace(result, image=self._images[stage.name]) if result.outcome == "ran" else result

    def _image(self, stage: Stage) -> str:
        """The hash of the stage's image, which names it whatever the tag points to."""
        name = stage.meta["image"]
        try:
            return self._engine.images.get(name).id
        except docker.errors.ImageNotFound:
            raise ImageMissingError(
                "The stage's image is not there",
                where=f"{stage.name} ({name})",
                why="the engine does not have it, and images of steps are built, not downloaded",
                next_step=f"run `sh infra/containers/build.sh {name.removeprefix('relume-').partition(':')[0]}`",
            ) from None

    def _clone(self, stage: Stage, lock: str) -> Path:
        clone = super()._clone(stage, lock)
        folder = clone.parent
        environment = handed_on(self._stage_environment(stage), self._environment)
        self._images[stage.name] = self._image(stage)
        create = self._container(stage, clone, environment)
        write_json(folder / RECORD, {"outs": stage.outs, "environment": list(environment), "create": create})
        program = Path(__file__).with_name("container.py")
        words = shlex.join([sys.executable, "-P", str(program), str(folder)])
        write_text(folder / _SHELL, f'#!/bin/sh\nexec {words} "$2"\n')  # it is given -c and the command
        (folder / _SHELL).chmod(0o700)
        return clone

    def _container(self, stage: Stage, clone: Path, environment: dict[str, str]) -> dict[str, Any]:
        """The arguments of docker's `create`."""
        meta, memory = stage.meta, stage.meta["memory"].removesuffix("i")
        user = os.geteuid() or USER
        read, written = [self._run.store.cache, clone / ".git", clone / ".dvc"], [clone]
        if LIST in stage.deps:
            read += source_folders(clone / LIST)
        # Such as a file of credentials or of certificates.
        read += [Path(value) for value in environment.values() if os.path.isabs(value) and os.path.isfile(value)]
        for folder in (self._run.home / name for name in STATE):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            written.append(folder)
            if user != os.geteuid():
                _hand_over(folder.resolve(), user)
        gpus = [docker.types.DeviceRequest(count=meta["gpu"], capabilities=[["gpu"]])] if meta["gpu"] else None
        return {
            "image": self._images[stage.name],
            "labels": {LABEL: str(clone.parent)},
            "user": f"{user}:{os.getegid() or USER}",
            "working_dir": str(clone),
            # A clone first: what lies in it is mounted over it.
            "mounts": [
                docker.types.Mount(str(place), str(place), "bind", read_only=place in read)
                for place in sorted({*read, *written})
            ],
            "mem_limit": memory,
            "memswap_limit": memory,  # no swap beyond it
            "shm_size": memory,  # counts as memory; PyTorch's workers hand over batches there
            "nano_cpus": int(min(meta["cpu"], os.cpu_count() or 1) * 1e9),  # Docker refuses more than there are
            "pids_limit": MOST_PROCESSES,
            "device_requests": gpus,
            "read_only": True,
            "tmpfs": {"/tmp": ""},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "network_mode": "host",  # a step reaches what the driver reaches, such as MLflow's server on loopback
        }

    def _stage_environment(self, stage: Stage) -> dict[str, str]:
        return super()._stage_environment(stage) | {
            "LOGNAME": "relume",  # for a user who has a number only
            "SHELL": str(self._run.stage_folder(stage) / _SHELL),
        }

    def _stop(self, stage: Stage) -> None:
        folder = self._run.stage_folder(stage)
        try:
            end_containers(folder, self._engine)
        finally:
            super()._stop(stage)
        end_containers(folder, self._engine)  # one that was about to be made

    def _failure(self, stage: Stage, why: str, exit_code: int, output: str) -> StageFailedError:
        if exit_code == OUT_OF_MEMORY:
            return out_of_memory(stage, output)
        return super()._failure(stage, why, exit_code, output)


def handed_on(environment: dict[str, str], added: dict[str, str]) -> dict[str, str]:
    """The variables of a stage's environment that its container gets.

    Args:
        environment: All of them, this process's included.
        added: Those that the run adds, which it gets whatever their names.
    """
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_HANDED_ON) or name.lower().endswith("_proxy") or name in added
    }


def connect() -> docker.DockerClient:
    """A client of the engine at DOCKER_HOST.

    Raises:
        ServiceError: None answers there, or it is one that does not run as root.
    """
    try:
        engine = docker.from_env()
        security = engine.info().get("SecurityOptions") or []
    except docker.errors.DockerException as error:
        raise ServiceError(
            "No container engine answers",
            where=os.environ.get("DOCKER_HOST", "Docker's own socket"),
            why=str(error).splitlines()[0],
            next_step="start Docker, or Podman as infra/containers/README.md says, and set DOCKER_HOST to its socket",
        ) from None
    if any("rootless" in option for option in security):
        raise ServiceError(
            "The container engine runs without root",
            why="there the numbers of users differ in a container, and steps could not write their outs",
            next_step="use an engine of root's, or the runner `subprocess`",
        )
    return engine


def _hand_over(folder: Path, user: int) -> None:
    """Gives a folder of state to the steps' user; root reads and writes it as before."""
    for place, _, files in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in files)):
            if os.lstat(path).st_uid != user:
                os.lchown(path, user, user)
