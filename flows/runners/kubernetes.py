"""Runs each stage as a Job of a Kubernetes cluster, from any machine that reaches the cluster and DVC's remote.

DVC beside the driver decides whether a stage runs, with a shell that only says that it has to. What the Job made comes
back through DVC's run cache in the remote, so that the same DVC as ever writes dvc.lock.
"""

import contextlib
import functools
import io
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes.client import ApiClient, ApiException, BatchV1Api, CoreV1Api, VersionApi
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from flows.dvc_commands import run_dvc
from flows.graph import Stage
from flows.lock import read_lock
from flows.run_commit import clone_commit, git
from flows.runners import Run, StageCancelledError, StageResult, out_of_memory
from flows.runners.container import OUT_OF_MEMORY
from flows.runners.docker import handed_on
from flows.runners.job import BUNDLE, FILES, HOME, STEP, job, names
from flows.runners.subprocess import JOB, NOT_RUN_HERE, Output, SubprocessRunner
from relume.errors import ConfigError, ServiceError, StageFailedError, UserError
from relume.files import write_json, write_text
from relume.home import sqlite_file, tracking_uri
from relume.ingestion.lists import LIST, source_folders
from relume.reading import read_json

API_ERRORS = (ApiException, HTTPError)
LABEL = "relume.run"  # of a Job and its pod; the value is the run's name
PATIENCE = Retry(total=8, backoff_factor=0.5, status_forcelist=[500, 502, 503, 504])  # two minutes without the API
SECONDS_TO_END = 60  # for the pod of a Job that was deleted, its 5 seconds after SIGTERM included
_CANNOT_START = ("ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


@dataclass
class _Watched:
    """A Job that is followed: its pod, what that printed, the threads that read it, and why no node takes it."""

    name: str
    pod: Any = None
    output: Output = field(default_factory=Output)
    readers: dict[tuple[str, str], threading.Thread] = field(default_factory=dict)
    waits: str = ""


class _NotRunHereError(StageFailedError):
    """DVC has no results of the stage: its command has to run."""


class KubernetesRunner(SubprocessRunner):
    """Runs stages as Jobs in the namespace of the current context of kubectl's configuration.

    Args:
        run: The run that the stages belong to.
        on_line: As for `SubprocessRunner`.
        environment: Variables that the stages get on top of those the runner sets.

    Raises:
        ServiceError: See `connect`.
    """

    def __init__(
        self,
        run: Run,
        on_line: Callable[[str, str], None] = lambda stage, line: None,
        environment: dict[str, str] | None = None,
    ):
        super().__init__(run, on_line, environment, cores=math.inf)  # the cluster shares out its own
        self._client, self._namespace = connect()
        self._core, self._batch = CoreV1Api(self._client), BatchV1Api(self._client)
        self._images: dict[str, str] = {}  # by stage: what the node says it ran
        self._carried: dict[str, str] = {}  # files of every pod

    def check(self, stages: list[Stage]) -> dict[str, str]:
        """See `flows.runners.Runner.check`; it also brings the run's commit to the remote. Nodes choose the images."""
        store = self._run.store
        if store.remote is None or store.remote in store.remotes:
            raise ConfigError(
                "Jobs need a DVC remote that the cluster reaches",
                where=self._run.root / ".dvc" / "config",
                why="the default remote is a folder of this machine" if store.remote else "there is no default remote",
                next_step="dvc remote add --default NAME s3://BUCKET/FOLDER",
            )
        if sqlite_file(address := tracking_uri(self._run.home)):
            raise ConfigError(
                "Jobs cannot write to this database",
                where=f"MLFLOW_TRACKING_URI={address}",
                why="it is a file of this machine",
                next_step="set MLFLOW_TRACKING_URI to the address of an MLflow server that the cluster reaches",
            )
        folder = self._run.folder / "commit"
        shutil.rmtree(folder, ignore_errors=True)
        clone_commit(self._run.root, self._run.commit, folder / "clone")
        try:
            if any(LIST in stage.deps for stage in stages) and (local := source_folders(folder / "clone" / LIST)):
                raise ConfigError(
                    "Jobs see no folders of this machine",
                    where=f"{LIST}: {local[0]}",
                    why="its photographs are read by the first stage",
                    next_step="put them into a bucket and list that: relume data scan s3://BUCKET/FOLDER",
                )
            self._carry_commit(folder)
        finally:
            shutil.rmtree(folder)
        return {}

    def run(self, stage: Stage, lock: str) -> StageResult:
        """See `flows.runners.Runner.run`."""
        try:
            result = super().run(stage, lock)
        except API_ERRORS as error:
            raise StageFailedError(
                "The Kubernetes API failed",
                where=stage.name,
                why=_reason(error),
                next_step="run `relume pipeline run` when it answers, which removes what is left of the stage",
            ) from None
        if stage.name not in self._images:
            return result
        return StageResult(**vars(result) | {"outcome": "ran", "image": self._images[stage.name]})

    def _carry_commit(self, folder: Path) -> None:
        """Brings the run's commit to the remote as a git bundle, which DVC keeps by its hash as it keeps data.

        Args:
            folder: Holds a clone at the commit; is used up.
        """
        clone, carrier = folder / "clone", folder / "carrier"
        (clone / ".git" / "shallow").write_text(
            f"{self._run.commit}\n", encoding="utf-8"
        )  # no history: it may be large
        git(clone, "init", "--quiet", str(carrier))
        git(clone, "bundle", "create", "--quiet", str(carrier / BUNDLE), "HEAD")
        local = self._run.root / ".dvc" / "config.local"
        config = {
            "config": (clone / ".dvc" / "config").read_text(encoding="utf-8"),
            # Keys for the remote may be in it, a cache of this machine is of no use.
            "config.local": local.read_text(encoding="utf-8") if local.is_file() else "",
        }
        for arguments in (["init"], ["add", BUNDLE], ["push", BUNDLE]):
            done = run_dvc(carrier, *arguments)
            if done.returncode:
                raise ServiceError(
                    "The run's commit could not be brought to the DVC remote",
                    where=self._run.store.remote,
                    why=done.stderr.strip(),
                    next_step="check the remote with `dvc push`",
                )
            if arguments[0] == "init":
                for name, text in config.items():
                    (carrier / ".dvc" / name).write_text(text, encoding="utf-8")
        self._carried = config | {f"{BUNDLE}.dvc": (carrier / f"{BUNDLE}.dvc").read_text(encoding="utf-8")}

    def _clone(self, stage: Stage, lock: str) -> Path:
        clone = super()._clone(stage, lock)
        write_text(clone.parent / "shell", f"#!/bin/sh\nexit {NOT_RUN_HERE}\n")
        (clone.parent / "shell").chmod(0o700)
        return clone

    def _stage_environment(self, stage: Stage) -> dict[str, str]:
        return super()._stage_environment(stage) | {"SHELL": str(self._run.stage_folder(stage) / "shell")}

    def _reproduce(self, stage: Stage, clone: Path) -> bool:
        with contextlib.suppress(_NotRunHereError):
            return super()._reproduce(stage, clone)
        self._run_job(stage, clone)
        try:
            return super()._reproduce(stage, clone)
        except _NotRunHereError:
            raise StageFailedError(
                "The results of the stage did not come back",
                where=stage.name,
                why="its Job ended well, but DVC's run cache in the remote does not have them",
                next_step="run `relume pipeline run`",
            ) from None

    def _failure(self, stage: Stage, why: str, exit_code: int, output: str) -> StageFailedError:
        if exit_code == NOT_RUN_HERE:
            return _NotRunHereError("The command has to run")
        if exit_code == OUT_OF_MEMORY:
            return out_of_memory(stage, output)
        return super()._failure(stage, why, exit_code, output)

    def _run_job(self, stage: Stage, clone: Path) -> None:
        """Runs the stage's Job, or those of its machines, to the end, and removes them however that is."""
        word = re.sub(r"[^a-z0-9]+", "-", stage.name.lower()).strip("-")[:40]
        name = f"relume-{word}-{uuid.uuid4().hex[:8]}"
        if stage.inputs:  # those that an earlier run made without a cluster are on this machine alone
            seen = Output()
            if why := self._dvc(stage, clone, ["push", "--quiet", *stage.inputs], seen):
                raise self._failure(stage, why, seen.exit_code, self._tail(stage, seen))
        record, machines = clone.parent / JOB, stage.meta.get("machines", 1)
        write_json(record, {"name": name, "machines": machines})
        variables = handed_on(self._stage_environment(stage), self._environment)
        variables |= {"RELUME_HOME": HOME, "LOGNAME": "relume"}  # for a user who has a number only
        files = self._carried | {"dvc.lock": read_lock(clone)}
        for variable, value in variables.items():  # such as a file of credentials or of certificates
            if os.path.isabs(value) and os.path.isfile(value):
                files[f"file-{variable}"] = Path(value).read_text(encoding="utf-8")
                variables[variable] = f"{FILES}/file-{variable}"
        labels = {LABEL: self._run.name}
        secret = {"metadata": {"name": name, "labels": labels}, "stringData": variables | files}
        manifest = functools.partial(
            job, name, stage, commit=self._run.commit, variables=list(variables), labels=labels
        )
        try:
            self._core.create_namespaced_secret(self._namespace, secret)
            self._batch.create_namespaced_job(self._namespace, manifest())
            watched = [_Watched(each) for each in names(name, machines)]
            if machines > 1:
                address = self._address(stage, watched[0])
                for machine in range(1, machines):
                    self._batch.create_namespaced_job(self._namespace, manifest(machine=machine, address=address))
            self._follow(stage, watched)
        finally:
            end_jobs(self._client, self._namespace, name, machines)
        record.unlink()

    def _address(self, stage: Stage, first: "_Watched") -> str:
        """The address of the first machine's pod, once a node has it; a Job that fails before has none."""
        address = ""
        while not address and not self._has_ended(stage, first):
            address = first.pod.status.pod_ip if first.pod else ""
            self._cancelled.wait(timeout=0.5)
        return address

    def _follow(self, stage: Stage, watched: list["_Watched"]) -> None:
        """Hands on what the pods of Jobs print until all Jobs end.

        Raises:
            StageFailedError: One did not end well.
        """
        while [each for each in watched if not self._has_ended(stage, each)]:
            self._cancelled.wait(timeout=0.5)
        steps = [one for one in _containers(watched[0].pod) if one.name == STEP]
        self._images[stage.name] = steps[0].image_id

    def _has_ended(self, stage: Stage, watched: "_Watched") -> bool:
        """Looks at a Job once, and hands on what its containers print from their start on.

        Returns:
            Whether it ended well.

        Raises:
            StageFailedError: It did not.
        """
        if self._cancelled.is_set():
            raise StageCancelledError("The stage was cancelled", where=stage.name, why="the run was cancelled")
        state = self._batch.read_namespaced_job_status(watched.name, self._namespace).status
        pods = _pods(self._core, self._namespace, watched.name)
        pod: Any = max(pods, key=lambda one: one.metadata.creation_timestamp, default=None)
        watched.pod = pod
        for container in _containers(pod):
            key = (pod.metadata.uid, container.name)
            if container.state.waiting is None and key not in watched.readers:
                lines = self._lines(pod.metadata.name, container.name)
                reader = threading.Thread(target=self._read, args=(stage, lines, watched.output), daemon=True)
                watched.readers[key] = reader
                reader.start()
            if container.state.waiting and container.state.waiting.reason in _CANNOT_START:
                raise _cannot_start(stage, container)
        if not watched.waits and (waits := _unschedulable(pod)):
            watched.waits = waits
            self._on_line(stage.name, f"waits for a node: {waits}")
        failed = next((one for one in state.conditions or () if one.type == "Failed"), None)
        # A pod that is being deleted is the Job's, which says why.
        phase = pod.status.phase if pod and not pod.metadata.deletion_timestamp else None
        if not failed and phase not in ("Succeeded", "Failed"):
            return False
        for reader in watched.readers.values():
            reader.join(timeout=10)
        if phase == "Succeeded":
            return True
        raise self._ending(stage, pod, failed, self._tail(stage, watched.output))

    def _lines(self, pod: str, container: str) -> Generator[str, None, None]:
        """What a container prints, until it ends; asked for again from where it broke off."""
        given = 0
        with contextlib.suppress(*API_ERRORS):  # the pod or the API is gone, which the stage's own thread says
            while True:
                response = self._core.read_namespaced_pod_log(
                    pod, self._namespace, container=container, follow=True, _preload_content=False
                )
                response.auto_close = False  # it is read to its end by the wrapper
                with contextlib.closing(response), contextlib.suppress(HTTPError):
                    lines = io.TextIOWrapper(response, encoding="utf-8", errors="replace")
                    for number, line in enumerate(lines, start=1):
                        if number > given:
                            given = number
                            yield line
                now = self._core.read_namespaced_pod_status(pod, self._namespace)
                if all(one.state.running is None for one in _containers(now) if one.name == container):
                    return

    def _ending(self, stage: Stage, pod: Any, failed: Any, output: str) -> StageFailedError:
        """Why a Job failed, by what its containers, its pod and its own condition say."""
        if failed and failed.reason == "DeadlineExceeded":
            why = f"it ran longer than its {stage.meta['timeout']} seconds (meta.timeout in dvc.yaml)"
            return self._failure(stage, why, 0, output)
        for container in _containers(pod):
            end = container.state.terminated
            if end and end.exit_code:
                if end.reason == "OOMKilled":
                    return out_of_memory(stage, output)
                if container.name == STEP:
                    return self._failure(
                        stage, f"its command ended with exit code {end.exit_code}", end.exit_code, output
                    )
                why = f"the container `{container.name}` of its pod ended with exit code {end.exit_code}"
                return self._failure(stage, why, 0, output)
        said = pod.status if pod else failed
        return self._failure(stage, f"its pod was ended: {said.reason}: {said.message}", 0, output)


def connect() -> tuple[ApiClient, str]:
    """A client of the cluster that the current context of kubectl's configuration names, and its namespace.

    Raises:
        ServiceError: There is no configuration, or the API does not answer.
    """
    # By name: the client itself reads the variable when it is imported.
    file, configuration = os.environ.get("KUBECONFIG", "~/.kube/config"), kubernetes.client.Configuration()
    try:
        kubernetes.config.load_kube_config(file, client_configuration=configuration)
        context = kubernetes.config.list_kube_config_contexts(file)[1]["context"]
        configuration.retries = False
        VersionApi(ApiClient(configuration)).get_code(_request_timeout=10)
    except kubernetes.config.ConfigException as error:
        raise ServiceError(
            "No Kubernetes cluster is configured",
            where=file,
            why=error,
            next_step="set KUBECONFIG to a file with which `kubectl get jobs` works",
        ) from None
    except API_ERRORS as error:
        raise ServiceError(
            "The Kubernetes API does not answer",
            where=configuration.host,
            why=_reason(error),
            next_step="check it with `kubectl get jobs`",
        ) from None
    configuration.retries = PATIENCE
    return ApiClient(configuration), context.get("namespace", "default")


def end_recorded_job(record: Path) -> None:
    """Ends the Job that a killed driver left, with its pod and its Secret.

    Raises:
        ServiceError: See `connect`.
    """
    client, namespace = connect()
    facts = read_json(record)
    end_jobs(client, namespace, facts["name"], facts.get("machines", 1))


def end_jobs(client: ApiClient, namespace: str, name: str, machines: int) -> None:
    """Removes a stage's Jobs and their Secret, and waits until their pods have ended.

    Raises:
        ServiceError: A pod is still there after a minute.
    """
    core, until = CoreV1Api(client), time.monotonic() + SECONDS_TO_END
    batch, jobs = BatchV1Api(client), names(name, machines)
    for delete, which, options in (
        *((batch.delete_namespaced_job, each, {"propagation_policy": "Background"}) for each in jobs),
        (core.delete_namespaced_secret, name, {}),
    ):
        try:
            delete(which, namespace, **options)
        except ApiException as error:
            if error.status != 404:
                raise
    while any(_pods(core, namespace, each) for each in jobs):
        if time.monotonic() > until:
            raise ServiceError(
                "The pod of a stage does not end",
                where=f"{namespace}/{name}",
                next_step=f"kubectl delete pod --force --selector 'job-name in ({','.join(jobs)})'",
            )
        time.sleep(0.2)


def _pods(core: CoreV1Api, namespace: str, job: str) -> list[Any]:
    return core.list_namespaced_pod(namespace, label_selector=f"job-name={job}").items


def _containers(pod: Any) -> list[Any]:
    """The states of a pod's containers, in the order in which they run."""
    if pod is None:
        return []
    return [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]


def _unschedulable(pod: Any) -> str:
    """Why no node takes a pod, or nothing."""
    conditions = (pod.status.conditions if pod else None) or ()
    return next((one.message for one in conditions if (one.type, one.status) == ("PodScheduled", "False")), "")


def _cannot_start(stage: Stage, container: Any) -> StageFailedError:
    return StageFailedError(
        "The stage's image cannot be started",
        exit_code=UserError.exit_code,
        where=f"{stage.name} ({container.image})",
        why=f"{container.state.waiting.reason}: {container.state.waiting.message}",
        next_step="build it with `sh infra/containers/build.sh`, push it, and name it in the stage's meta.image",
    )


def _reason(error: ApiException | HTTPError) -> str:
    return f"{error.status} {error.reason}" if isinstance(error, ApiException) else str(error)
