"""A stage's command in a container, as the shell that DVC runs it with; also what finds and ends such containers.

DVC runs this file by its path, so it imports nothing of relume: the clone it works in holds another commit's.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import docker
import requests

RECORD = "container.json"  # beside a stage's clone: says how its container is made, and that there may be one
LABEL = "relume.stage"  # of a container; the value is its stage's folder
OUT_OF_MEMORY = 86  # exit code, between this file and the runner, of what the kernel killed at its memory limit
USER = 10001  # of a step, where it is not the driver's own
# The folders of RELUME_HOME that steps write: caches, checkpoints, MLflow's database and artifacts, Data Docs.
STATE = ("cache", "checkpoints", "mlflow", "validation")
GRACE_SECONDS = 5  # from SIGTERM to SIGKILL
ENGINE_ERRORS = (docker.errors.DockerException, requests.RequestException)

# The first process of a container. It hands SIGTERM to every other one, and sees whether the kernel killed one of them
# for memory: no engine says so reliably, and a killed helper process leaves its parent with an error of its own.
FIRST = """\
trap 'kill -TERM -1' TERM
/bin/sh -c "$1" &
while :; do
    wait $!
    code=$?
    kill -0 $! 2>/dev/null || break
done
events="/sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control"
if [ $code -ne 0 ] && grep -qs '^oom_kill [1-9]' $events; then
    code=OUT_OF_MEMORY
fi
exit $code
""".replace("OUT_OF_MEMORY", str(OUT_OF_MEMORY))


def run(folder: Path, command: str) -> int:
    """Runs a command in the container that a record describes, with its output on standard output.

    Args:
        folder: The stage's folder; the clone below it is the container's working folder.
        command: A shell command.

    Returns:
        The command's exit code, or OUT_OF_MEMORY.
    """
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    clone, user = folder / "clone", int(record["create"]["user"].partition(":")[0])
    client = docker.from_env(timeout=None)
    _give(clone, record["outs"], user)
    container = client.containers.create(
        command=["/bin/sh", "-c", FIRST, "step", command],
        # By name: what a record holds stays on the disk when a stage fails, and some values are keys.
        environment={name: os.environ[name] for name in record["environment"]},
        **record["create"],
    )
    try:
        threading.Thread(target=_end_with_driver, args=(container,), daemon=True).start()
        container.start()
        for chunk in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        # Removed only after that: the exit code goes with the container.
        code = container.wait()["StatusCode"]
        container.reload()
        return OUT_OF_MEMORY if container.attrs["State"].get("OOMKilled") else code
    finally:
        _take_back(clone, user)
        container.remove(force=True)


def end_containers(folder: Path, engine: docker.DockerClient) -> None:
    """Ends and removes the containers of a stage.

    Args:
        folder: The stage's folder.
        engine: A client of the engine.
    """
    for attempts_left in (2, 1, 0):
        # Sparse: asking after each one fails for one that is gone by then.
        for container in engine.containers.list(all=True, sparse=True, filters={"label": f"{LABEL}={folder}"}):
            try:
                container.stop(timeout=GRACE_SECONDS)
                container.remove(force=True)
            except docker.errors.APIError:
                # Its shell may remove it at the same moment, which engines answer in several ways.
                if not attempts_left:
                    raise
                time.sleep(0.2)
                break
        else:
            return


def _give(clone: Path, outs: list[str], user: int) -> None:
    """Lets the user of the container write where the stage's outs go; only root has to, others run it as themselves."""
    if os.geteuid() == user:
        return
    for out in outs:
        folder = (clone / out).parent
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, *folder.parents):
            if place.is_relative_to(clone):
                os.chown(place, user, user)


def _take_back(clone: Path, user: int) -> None:
    """Makes what the container's user owns the driver's: a later container must not change what is in the cache."""
    if os.geteuid() == user:
        return
    for folder, _, files in os.walk(clone):
        for place in (folder, *(os.path.join(folder, name) for name in files)):
            if os.lstat(place).st_uid == user:
                os.lchown(place, os.geteuid(), os.getegid())


def _end_with_driver(container: Any) -> None:
    """Ends the container soon after the driver or DVC died: it is no child of theirs."""
    parent, driver = os.getppid(), int(os.environ["RELUME_DRIVER_PID"])
    while os.getppid() == parent and os.path.exists(f"/proc/{driver}"):
        time.sleep(0.5)
    container.stop(timeout=GRACE_SECONDS)


if __name__ == "__main__":
    try:
        sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
    except ENGINE_ERRORS as error:
        sys.exit(f"error: the container engine failed: {error}")
