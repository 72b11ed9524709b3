"""The runner of Jobs, with a real API server and its Job controller, a real S3 server, and pods that podman plays."""

import json
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kubernetes
import numpy as np
import pytest

from flows.graph import read_graph, read_store
from flows.lock import entry_of, merge
from flows.run_commit import commit_run
from flows.runners import Run, StageCancelledError
from flows.runners.job import dvc_image
from flows.runners.kubernetes import KubernetesRunner
from flows.runners.subprocess import end_leftovers
from relume.errors import ConfigError, ServiceError, StageFailedError
from tests.flows.runners.cluster import FOLDER, PODMAN, PROGRAMS, Node, api_server
from tests.flows.runners.conftest import change_meta, first_does
from tests.flows.tiny import make_tiny
from tests.flows.toy import copy_toy, wait_until
from tests.real.mlflow_server import mlflow_server
from tests.real.object_store import object_store

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The configuration of a cluster with one node; `toy` is an image that the node has."""
    if not (PROGRAMS / "kube-apiserver").is_file():
        pytest.skip("needs an API server: sh infra/kubernetes/setup.sh")
    for kind in ("data", "training", "dvc"):
        if shutil.which("podman") is None or subprocess.run([*PODMAN, "image", "exists", f"relume-{kind}"]).returncode:
            pytest.skip(
                "needs podman and the images of steps: sh infra/containers/setup.sh, sh infra/containers/build.sh"
            )
    subprocess.run([*PODMAN, "tag", "relume-data", "toy"], check=True)
    folder = tmp_path_factory.mktemp("cluster")
    with api_server(folder) as config:
        node = Node(config, folder)
        yield config
        node.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An S3 server."""
    folder = tmp_path_factory.mktemp("s3") / "data"
    folder.mkdir()
    with object_store(folder, "dvc") as store:
        yield store


@pytest.fixture
def away(toy, cluster, store, tmp_path, monkeypatch):
    """The tiny graph with a remote on S3, for the cluster. A test leaves nothing in it."""
    environment = {"KUBECONFIG": str(cluster), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", **store.environment}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # The time that a Job takes to bring its data counts, and a busy machine needs minutes for that.
    toy.write("dvc.yaml", (toy.root / "dvc.yaml").read_text().replace("timeout: 60", "timeout: 900"))
    toy.shell("dvc", "remote", "add", "--default", "store", f"s3://dvc/{tmp_path.name}")
    toy.shell("dvc", "remote", "modify", "store", "endpointurl", store.endpoint)
    toy.commit()
    yield toy
    assert left() == []


def left():
    """The Jobs, pods, Secrets and containers of the runner that there are."""
    client = kubernetes.config.new_client_from_config(os.environ["KUBECONFIG"])
    core, batch = kubernetes.client.CoreV1Api(client), kubernetes.client.BatchV1Api(client)
    lists = (batch.list_namespaced_job, core.list_namespaced_pod, core.list_namespaced_secret)
    found = [item.metadata.name for kind in lists for item in kind("default", label_selector="relume.run").items]
    containers = [
        *PODMAN,
        "ps",
        "--all",
        "--quiet",
        "--filter",
        f"label={FOLDER}={Path(os.environ['KUBECONFIG']).parent}",
    ]
    return found + subprocess.run(containers, capture_output=True, text=True).stdout.split()


def runner_of(toy, *arguments, name="r1"):
    """A runner for a run of the repository as it is now, checked."""
    commit = commit_run(toy.root, name)
    runner = KubernetesRunner(
        Run(name=name, root=toy.root, commit=commit, store=read_store(toy.root), home=toy.home), *arguments
    )
    runner.check(list(read_graph(toy.root).stages.values()))
    return runner


def run_first(toy, *arguments):
    """Runs the first stage of the repository as it is now."""
    return runner_of(toy, *arguments).run(read_graph(toy.root).stages["first"], "")


def test_jobs_give_the_lock_of_dvc_repro_and_no_job_runs_for_what_the_remote_has(away, built, tmp_path):
    """The graph in Jobs, and by `dvc repro` in another clone with another cache, give equal dvc.lock.

    A third clone with an empty cache finds all of it in the run cache of the remote.
    """
    graph, runner, lock, image = read_graph(away.root), runner_of(away), "", image_of("toy")
    for stage in graph.stages.values():
        result = runner.run(stage, lock)
        assert (result.outcome, result.image) == ("ran", image)
        lock = merge(lock, [result.entry], list(graph.stages))
    assert (built.root / "dvc.lock").read_text() == lock
    assert not (away.home / "cache" / "journal").exists()  # nothing ran here
    other = copy_toy(away, tmp_path / "other")
    shutil.rmtree(other.root / ".dvc" / "cache")
    runner, again = runner_of(other, name="r2"), ""
    for stage in graph.stages.values():
        result = runner.run(stage, again)
        assert (result.outcome, result.image) == ("cached", None)
        again = merge(again, [result.entry], list(graph.stages))
    assert again == lock


def image_of(name):
    """The hash of an image of podman's."""
    found = subprocess.run([*PODMAN, "image", "inspect", "--format", "{{.Id}}", name], capture_output=True, text=True)
    return f"sha256:{found.stdout.strip()}"


def test_a_step_is_no_root_has_no_token_and_writes_its_volume_only(away):
    """Its lines come while it runs; the root of the image, git's and DVC's folders refuse; credentials are there."""
    first_does(
        away,
        "import os, subprocess\n"
        "print('user', os.getuid(), os.path.exists('/var/run/secrets'), os.environ['AWS_ACCESS_KEY_ID'])\n"
        "print('commit', os.path.exists('.git/shallow'), os.environ['RELUME_RUN'])\n"
        "for place in ['/etc/x', '/opt/relume/x', '/tmp/x', '/dev/shm/x', '.git/x', '.dvc/x', '/run/relume/x',\n"
        "              os.environ['RELUME_HOME'] + '/checkpoints/x']:\n"
        "    try:\n        open(place, 'a').close()\n        print('writes', place)\n"
        "    except OSError as error:\n        print('refused', place)\n",
    )
    lines = []
    run_first(away, lambda stage, line: lines.append(line))
    assert "user 10001 False relume-test" in lines
    assert "commit True r1" in lines
    assert [line.split()[1] for line in lines if line.startswith("writes")] == [
        "/tmp/x",
        "/dev/shm/x",
        "/workspace/home/checkpoints/x",
    ]
    assert "first says hello" in lines
    assert not [line for line in lines if "ERROR" in line or "exited with" in line]


def test_the_memory_limit_is_said_and_not_tried_again(away):
    """As in a container of Docker."""
    change_meta(away, "memory: 1Gi", "memory: 512Mi")
    first_does(away, "b'x' * 10**9")
    with pytest.raises(StageFailedError) as caught:
        run_first(away)
    for part in (
        "out of memory: first",
        "needs more than 512Mi",
        "first.log",
        "raise meta.memory of first in dvc.yaml",
    ):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("code", "kept"), [(1, 1), (2, 2), (3, 3), (137, 1)])
def test_no_exit_code_is_lost(away, code, kept):
    """A step that fails fails the stage as it does without a cluster; being killed is no lack of memory."""
    first_does(away, f"import sys; print('it fails'); sys.exit({code})")
    with pytest.raises(StageFailedError, match=f"(?s)exit code {code};.*it fails") as caught:
        run_first(away)
    assert caught.value.exit_code == kept


def test_a_stage_that_takes_too_long_is_ended(away):
    """The Job's controller ends it after meta.timeout seconds, and the error says so."""
    change_meta(away, "timeout: 900", "timeout: 25")
    first_does(away, "import time; time.sleep(300)")
    with pytest.raises(StageFailedError, match="longer than its 25 seconds"):
        run_first(away)


def test_cancelling_ends_the_pod(away):
    """`cancel` removes the Job, and with it the pod and the Secret, before the stage's thread ends."""
    first_does(away, "import time; print('it runs'); time.sleep(300)")
    lines = []
    runner = runner_of(away, lambda stage, line: lines.append(line))
    with ThreadPoolExecutor() as pool:
        running = pool.submit(runner.run, read_graph(away.root).stages["first"], "")
        wait_until(lambda: "it runs" in lines, seconds=600)
        runner.cancel()
        assert isinstance(running.exception(), StageCancelledError)
    assert left() == []


def test_what_a_killed_driver_left_is_removed_at_the_next_start(away):
    """Its Job runs on until then; what it is found by holds no key."""
    first_does(away, "import time; print('it runs'); time.sleep(300)")
    driver = os.fork()
    if driver == 0:
        try:
            run_first(away)
        finally:
            os._exit(0)
    log = away.home / "runs" / "r1" / "first.log"
    wait_until(lambda: log.is_file() and "it runs" in log.read_text(), seconds=600)
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    assert len(left()) == 4  # the Job, its pod, the Secret and the container
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert subprocess.run(["grep", "-rq", secret, away.home]).returncode == 1
    end_leftovers(away.home)
    assert left() == []
    assert not (away.home / "runs" / "r1" / "first").exists()


def test_an_image_that_no_registry_has_is_one_message(away):
    """The node says so, and the stage does not wait for it."""
    change_meta(away, "image: toy", "image: 'registry.invalid/absent:1'")
    with pytest.raises(StageFailedError, match=r"first \(registry\.invalid/relume-dvc:1\)") as caught:
        run_first(away)
    assert "ImagePullBackOff" in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_jobs_could_not_reach_is_refused_before_any_starts(away, monkeypatch, tmp_path):
    """A remote that is a folder, none, a database that is a file, photographs in a folder."""
    (tmp_path / "photographs").mkdir()
    listed = {"sources": [(tmp_path / "photographs").as_uri()], "files": []}
    away.write("sources.json", json.dumps(listed))
    with pytest.raises(ConfigError, match="photographs"):
        runner_of(away, name="r2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    with pytest.raises(ConfigError, match=r"mine\.db"):
        runner_of(away, name="r3")
    away.shell("dvc", "remote", "add", "--default", "near", str(tmp_path))
    with pytest.raises(ConfigError, match="folder of this machine"):
        runner_of(away, name="r4")
    away.shell("dvc", "config", "--unset", "core.remote")
    with pytest.raises(ConfigError, match="no default remote"):
        runner_of(away, name="r5")


@pytest.mark.parametrize(
    ("change", "message"), [(r".*", "No Kubernetes cluster is configured"), (r"(?<=1:)\d+", "does not answer")]
)
def test_without_a_cluster_the_message_says_what_to_set(away, monkeypatch, tmp_path, change, message):
    """No configuration, and one of a server that does not answer, are one message each."""
    (tmp_path / "config").write_text(re.sub(change, "9" * (change != ".*"), Path(os.environ["KUBECONFIG"]).read_text()))
    with monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(ServiceError, match=message):
            runner_of(away)


def test_the_flow_runs_in_jobs_when_params_say_so(away, built):
    """`runner: kubernetes` in params.yaml is enough: outcome, lines, image and dvc.lock come through the flow."""
    away.write("params.yaml", (away.root / "params.yaml").read_text() + "runner: kubernetes\n")
    result, out, _ = away.run("first", seconds=1200)
    assert [(row["outcome"], row["image"]) for row in result["stages"]] == [("ran", image_of("toy"))]
    assert "| first says hello" in out
    locks = [(root / "dvc.lock").read_text() for root in (away.root, built.root)]
    assert entry_of(locks[0], "first") == entry_of(locks[1], "first")
    assert (away.root / "data" / "first" / "out.txt").is_file()


def test_two_machines_train_like_one(cluster, store, tmp_path, monkeypatch):
    """A real training in two Jobs, which meet at the address of the first one's pod, ends as in one process, up to
    rounding; the outs are the first machine's, and nothing of either Job is left."""
    for name, value in ({"KUBECONFIG": str(cluster)} | store.environment).items():
        monkeypatch.setenv(name, value)
    tiny = make_tiny(tmp_path / "tiny", tmp_path / "home")
    graph = (tiny.root / "dvc.yaml").read_text()
    meta = "image: relume-training, cpu: 1, memory: 4Gi, gpu: 0"
    tiny.write("dvc.yaml", graph.replace(meta, f"{meta}, machines: 2"))
    tiny.shell("dvc", "remote", "add", "--default", "store", f"s3://dvc/{tmp_path.name}")
    tiny.shell("dvc", "remote", "modify", "store", "endpointurl", store.endpoint)
    tiny.commit()
    tiny.shell("dvc", "repro", "validate")
    lock, graph, lines = (tiny.root / "dvc.lock").read_text(), read_graph(tiny.root), []
    with mlflow_server(tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        runner = runner_of(tiny, lambda stage, line: lines.append(line))
        result = runner.run(graph.stages["pretrain@nafnet"], lock)
    assert (result.outcome, result.image) == ("ran", image_of("relume-training"))
    assert left() == []
    joined = [line for line in lines if "GLOBAL_RANK" in line]
    assert sorted(re.findall(r"GLOBAL_RANK: (\d), MEMBER: \d/(\d)", " ".join(joined))) == [("0", "2"), ("1", "2")]
    tiny.write("dvc.lock", merge(lock, [result.entry], list(graph.stages)))
    tiny.shell("dvc", "checkout", "pretrain@nafnet")
    history = tiny.root / "models" / "bases" / "nafnet" / "history.csv"
    by_two = np.loadtxt(history, delimiter=",", skiprows=1)
    tiny.shell("dvc", "repro", "--single-item", "--force", "pretrain@nafnet")
    by_one = np.loadtxt(history, delimiter=",", skiprows=1)
    np.testing.assert_allclose(by_two, by_one, rtol=2e-3)


def test_the_image_with_dvc_is_of_the_same_registry_and_tag():
    """However the stage's image is written."""
    assert dvc_image("relume-data") == "relume-dvc"
    assert dvc_image("relume-data:2026.1") == "relume-dvc:2026.1"
    assert dvc_image("registry.example:5000/us/relume-training:1") == "registry.example:5000/us/relume-dvc:1"
