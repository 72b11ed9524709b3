"""A stage as a Job of Kubernetes: one pod, whose containers bring its inputs, run its command and keep its outs.

The first and the last have DVC and git and run in the image `relume-dvc`; the command runs between them in the stage's
own image. They share the volume WORK, the only thing of the pod that they may write. The pod needs nothing of the
driver's machine: the run's commit comes as a git bundle and all data through DVC's remote.

A training on several machines is as many Jobs. The first has the address at which the others join it, and the outs.
"""

import re
from typing import Any

from flows.graph import Stage
from flows.runners.container import FIRST, GRACE_SECONDS, STATE, USER

WORK = "/workspace"
HOME = f"{WORK}/home"  # RELUME_HOME of the pod; it is gone with it
FILES = "/run/relume"  # the files of the Secret
BUNDLE = "commit.bundle"
FETCH, STEP, KEEP = "fetch", "step", "keep"  # the containers
PORT = 29400  # of the first machine's pod, where those of a training meet; torchrun's own
KEPT_SECONDS = 24 * 3600  # a Job that ended while no driver was there

_FETCH = f"""\
cd {WORK}
mkdir -p carrier clone {" ".join(f"{HOME}/{name}" for name in STATE)}
cd carrier
git init --quiet
dvc init --quiet
cp {FILES}/config {FILES}/config.local .dvc/
cp {FILES}/{BUNDLE}.dvc .
dvc pull --quiet {BUNDLE}
cd ../clone
git init --quiet
echo "$COMMIT" > .git/shallow
git fetch --quiet ../carrier/{BUNDLE} HEAD
git checkout --quiet --detach FETCH_HEAD
cp {FILES}/config.local .dvc/
dvc config --local cache.type hardlink,symlink,copy
[ ! -s {FILES}/dvc.lock ] || cp {FILES}/dvc.lock .
[ $# -eq 0 ] || dvc pull --quiet "$@"
"""
_KEEP = f"""\
cd {WORK}/clone
dvc commit --quiet --force "$1"
dvc push --quiet --run-cache "$1"
"""


def names(name: str, machines: int) -> list[str]:
    """The names of a stage's Jobs, that of the first machine first."""
    return [name, *(f"{name}-{number}" for number in range(1, machines))]


def job(
    name: str,
    stage: Stage,
    *,
    commit: str,
    variables: list[str],
    labels: dict[str, str],
    machine: int = 0,
    address: str | None = None,
) -> dict[str, Any]:
    """The manifest of a stage's Job.

    Args:
        name: Of the stage's first Job, and of the Secret that all of them read.
        stage: The stage.
        commit: Full hash of the run's commit, which the bundle holds.
        variables: Names of the environment variables that the Secret holds.
        labels: Of the Job and of its pod.
        machine: Its number among the machines of a training.
        address: That of the first machine's pod, for the others.
    """
    meta, machines = stage.meta, stage.meta.get("machines", 1)
    limits = {"cpu": str(meta["cpu"]), "memory": meta["memory"]}
    gpus = {"nvidia.com/gpu": str(meta["gpu"])} if meta["gpu"] else {}
    environment = [
        *({"name": one, "valueFrom": {"secretKeyRef": {"name": name, "key": one}}} for one in variables),
        {"name": "COMMIT", "value": commit},
        {"name": "DVC_NO_ANALYTICS", "value": "1"},
        {"name": "DVC_SITE_CACHE_DIR", "value": "/tmp/dvc"},
    ]
    if machines > 1:
        own_address = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        environment += [
            {"name": "PET_NNODES", "value": str(machines)},
            {"name": "PET_NODE_RANK", "value": str(machine)},
            {"name": "PET_MASTER_ADDR", **({"value": address} if address else own_address)},
            {"name": "PET_MASTER_PORT", "value": str(PORT)},
        ]

    def container(kind: str, image: str, command: list[str], **more: Any) -> dict[str, Any]:
        mounts: list[dict[str, Any]] = [
            {"name": "work", "mountPath": WORK},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "files", "mountPath": FILES, "readOnly": True},
        ]
        return {
            "name": kind,
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "env": environment,
            "resources": {"requests": limits, "limits": limits},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": mounts + more.pop("mounts", []),
            **more,
        }

    dvc = dvc_image(meta["image"])
    fetch = container(FETCH, dvc, ["/bin/sh", "-euc", _FETCH, FETCH, *stage.inputs])
    step = container(
        STEP,
        meta["image"],
        ["/bin/sh", "-c", FIRST, STEP, stage.command],
        workingDir=f"{WORK}/clone",
        mounts=[
            {"name": "work", "mountPath": f"{WORK}/clone/{part}", "subPath": f"clone/{part}", "readOnly": True}
            for part in (".git", ".dvc")
        ]
        + [{"name": "memory", "mountPath": "/dev/shm"}],  # PyTorch's workers hand over batches there
    )
    step["resources"] = {"requests": limits | gpus, "limits": limits | gpus}
    keep = _KEEP if machine == 0 else "true"  # the first rank alone writes
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": names(name, machines)[machine], "labels": labels},
        "spec": {
            "backoffLimit": 0,  # Prefect tries again, as with every runner
            "activeDeadlineSeconds": meta["timeout"],
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": USER,
                        "runAsGroup": USER,
                        "fsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "initContainers": [fetch, step],  # they run one after the other
                    "containers": [container(KEEP, dvc, ["/bin/sh", "-euc", keep, KEEP, stage.name])],
                    "volumes": [
                        {"name": "work", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": meta["memory"]}},
                        {"name": "files", "secret": {"secretName": name}},
                    ],
                },
            },
        },
    }


def dvc_image(image: str) -> str:
    """The image with DVC that belongs to a stage's image: `relume-dvc` of the same registry and tag.

    Example:
        >>> dvc_image("registry.example/us/relume-data:2026.1")
        'registry.example/us/relume-dvc:2026.1'
    """
    return re.sub(r"[^/:]+(:[^/]+)?$", r"relume-dvc\1", image)
