"""The runner of containers, with a real engine."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from mlflow import MlflowClient

from flows.graph import read_graph, read_store
from flows.lock import merge
from flows.run_commit import commit_run
from flows.runners import Run, StageCancelledError
from flows.runners.docker import DockerRunner, ImageMissingError
from flows.runners.subprocess import end_leftovers
from relume.errors import ConfigError, ServiceError, StageFailedError
from relume.home import tracking_uri
from tests.flows.runners.conftest import change_meta, containers, first_does, serve
from tests.flows.tiny import make_real, make_tiny
from tests.flows.toy import wait_until

exhaustive = pytest.mark.exhaustive  # the others are the cross-section of `make test`, where images are built


def make_demo(root, home):
    """The real graph as the demo runs it."""
    return make_real(root, home, {})


def runner_of(toy, *arguments, **options):
    """A runner for a run of the repository as it is now."""
    commit = commit_run(toy.root, "r1")
    run = Run(name="r1", root=toy.root, commit=commit, store=read_store(toy.root), home=toy.home)
    return DockerRunner(run, *arguments, **options)


def run_first(toy, *arguments):
    """Runs the first stage of the repository as it is now."""
    return runner_of(toy, *arguments).run(read_graph(toy.root).stages["first"], "")


def test_containers_give_the_lock_of_dvc_repro(engine, toy, built):
    """The tiny graph in containers, and by `dvc repro` in another clone with another cache, give equal dvc.lock."""
    graph, runner, lock = read_graph(toy.root), runner_of(toy), ""
    for stage in graph.stages.values():
        result = runner.run(stage, lock)
        assert (result.outcome, result.image) == ("ran", engine.images.get("toy").id)
        lock = merge(lock, [result.entry], list(graph.stages))
    assert (built.root / "dvc.lock").read_text() == lock


@exhaustive
def test_a_stage_that_is_done_needs_no_container(engine, toy):
    """What DVC has already is cached, and no image is recorded for it."""
    lock = merge("", [run_first(toy).entry], ["first"])
    result = runner_of(toy).run(read_graph(toy.root).stages["first"], lock)
    assert (result.outcome, result.image) == ("cached", None)
    assert toy.ran() == ["first"]


def test_a_step_is_no_root_and_writes_its_outs_and_state_only(engine, toy):
    """The root of the image, the repository's parts, other state and the driver's files refuse; nobody owns the cache.

    A step's own outs and checkpoints, and /tmp, it may write.
    """
    first_does(
        toy,
        "import os\nclone, home = os.getcwd(), os.environ['RELUME_HOME']\n"
        f"print('user', os.getuid(), os.path.exists({str(toy.root / 'params.yaml')!r}))\n"
        "for place in ['/etc/x', '/opt/relume/x', '/tmp/x', home + '/x', home + '/checkpoints/x', '.git/x', '.dvc/x',\n"
        f"              {str(toy.root / '.dvc/cache/x')!r}, 'components/x', 'params.yaml']:\n"
        "    try:\n        open(place, 'a').close()\n        print('writes', place)\n"
        "    except OSError as error:\n        print('refused', place)\n",
    )
    lines = []
    run_first(toy, lambda stage, line: lines.append(line))
    user = os.geteuid() or 10001
    assert f"user {user} False" in lines
    assert [line.split()[1] for line in lines if line.startswith("writes")] == [
        "/tmp/x",
        f"{toy.home}/checkpoints/x",
        *([] if os.geteuid() == 0 else ["components/x", "params.yaml"]),  # of the clone, which is thrown away
    ]
    cache = list((toy.root / ".dvc" / "cache").rglob("*"))
    assert {path.stat().st_uid for path in cache} == {os.geteuid()}


@pytest.mark.parametrize("who", ["the step", "a process of its own"])
def test_the_memory_limit_is_said_and_not_tried_again(engine, toy, who):
    """What the kernel kills at the limit ends with a message that names the limit and where to raise it."""
    change_meta(toy, "memory: 1Gi", "memory: 64Mi")
    eat = "b'x' * 10**9"
    if who == "the step":
        first_does(toy, eat)
    else:
        first_does(toy, f'import subprocess, sys\nsubprocess.run([sys.executable, "-c", "{eat}"], check=True)')
    with pytest.raises(StageFailedError) as caught:
        run_first(toy)
    for part in ("out of memory: first", "needs more than 64Mi", "first.log", "raise meta.memory of first in dvc.yaml"):
        assert part in str(caught.value)
    assert caught.value.exit_code == 2


@exhaustive
@pytest.mark.parametrize(("code", "kept"), [(1, 1), (2, 2), (3, 3), (137, 1)])
def test_no_exit_code_is_lost(engine, toy, code, kept):
    """A step that fails fails the stage as it does without a container; being killed is no lack of memory."""
    toy.tell("fail", "first", code)
    with pytest.raises(StageFailedError, match=f"(?s)exit code {code};.*first was told to fail") as caught:
        run_first(toy)
    assert caught.value.exit_code == kept


@exhaustive
def test_a_stage_that_takes_too_long_is_ended(engine, toy):
    """After meta.timeout seconds the container is ended and removed, and the error says so."""
    change_meta(toy, "timeout: 60", "timeout: 8")
    toy.tell("sleep", "first", 60)
    start = time.monotonic()
    with pytest.raises(StageFailedError, match="longer than its 8 seconds"):
        run_first(toy)
    assert time.monotonic() - start < 30


def test_cancelling_ends_the_container_which_gets_time_to_end(engine, toy):
    """`cancel` sends SIGTERM to the step's processes, also to those that a shell hides, and removes the container."""
    first_does(
        toy,
        "import pathlib, signal, sys, os\n"
        "note = pathlib.Path(os.environ['RELUME_HOME'], 'cache', 'ended')\n"
        "signal.signal(signal.SIGTERM, lambda *_: (note.touch(), sys.exit(1)))\n",
    )
    toy.tell("sleep", "first", 60)
    runner = runner_of(toy)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(runner.run, read_graph(toy.root).stages["first"], "")
        wait_until(toy.ran)
        runner.cancel()
        assert isinstance(running.exception(), StageCancelledError)
    assert (toy.notes / "ended").is_file()


@pytest.mark.parametrize("shell", ["lives", "is killed too"])
def test_a_killed_driver_leaves_no_container(engine, toy, shell, monkeypatch):
    """The shell of the container ends it when the driver is gone; without that, the next run's start does.

    What it is found by holds no key.
    """
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-key")
    toy.tell("sleep", "first", 300)
    driver = os.fork()
    if driver == 0:
        try:
            run_first(toy)
        finally:
            os._exit(0)
    wait_until(toy.ran)
    assert len(containers(engine, toy.home)) == 1
    assert subprocess.run(["grep", "-rq", "a-key", toy.home]).returncode == 1
    if shell == "is killed too":
        for process in psutil.process_iter(["cmdline"]):
            if str(toy.home) in " ".join(process.info["cmdline"] or ()) and process.pid != os.getpid():
                os.kill(process.pid, signal.SIGKILL)
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    if shell == "lives":
        wait_until(lambda: containers(engine, toy.home) == [])
    else:
        time.sleep(2)
        assert len(containers(engine, toy.home)) == 1
    end_leftovers(toy.home)
    assert containers(engine, toy.home) == []
    assert not (toy.home / "runs" / "r1" / "first").exists()


def test_a_missing_image_says_which_command_builds_it(engine, toy):
    """The check before a run refuses, and so does a run that was not checked; nothing is downloaded."""
    change_meta(toy, "image: toy", "image: relume-absent")
    for refused in (lambda: runner_of(toy).check(list(read_graph(toy.root).stages.values())), lambda: run_first(toy)):
        with pytest.raises(ImageMissingError, match=r"first \(relume-absent\)") as caught:
            refused()
        assert "sh infra/containers/build.sh absent" in str(caught.value)


def test_a_database_that_containers_do_not_see_is_refused(engine, toy, monkeypatch, tmp_path):
    """Only a database in the home's own folder is handed to steps: others have folders that are not relume's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    with pytest.raises(ConfigError, match=r"mine\.db"):
        runner_of(toy).check(list(read_graph(toy.root).stages.values()))


def test_without_an_engine_the_message_says_what_to_start(toy, monkeypatch):
    """An address where nothing answers is one message."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/socket")
    with pytest.raises(ServiceError, match="No container engine answers: unix:///nowhere/socket"):
        runner_of(toy)


@exhaustive
def test_an_engine_that_dies_is_one_message_and_what_it_ran_is_removed(engine, toy, podman, tmp_path, monkeypatch):
    """The stage fails with the engine's name; the container, which lives on, is found when there is an engine again."""
    service, address = serve(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", address)
    toy.tell("sleep", "first", 300)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_first, toy)
        wait_until(toy.ran)
        service.kill()
        service.wait()
        error = running.exception()
    assert isinstance(error, StageFailedError)
    assert "The container engine failed: first" in str(error)
    with pytest.raises(ServiceError):
        end_leftovers(toy.home)
    assert len(containers(engine, toy.home)) == 1
    monkeypatch.setenv("DOCKER_HOST", podman)
    end_leftovers(toy.home)


@exhaustive
def test_what_a_step_gets_of_the_environment(engine, toy, monkeypatch, tmp_path):
    """Credentials, also those in files, and what the run adds; not what else the driver has."""
    (tmp_path / "keys").write_text("of the file")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-key")
    monkeypatch.setenv("OTHER_SECRET", "another")
    names = ["AWS_SECRET_ACCESS_KEY", "OTHER_SECRET", "RELUME_TRACKING_RUN", "RELUME_HOME", "DO_NOT_TRACK"]
    first_does(
        toy,
        f"import os\nprint([os.environ.get(name) for name in {names}])\n"
        "print(open(os.environ['AWS_SHARED_CREDENTIALS_FILE']).read())\n",
    )
    toy.tell("fail", "first", 1)  # which leaves the stage's folder
    (tmp_path / "keys").chmod(0o644)
    lines = []
    runner = runner_of(toy, lambda stage, line: lines.append(line), {"RELUME_TRACKING_RUN": "m1"})
    with pytest.raises(StageFailedError):
        runner.run(read_graph(toy.root).stages["first"], "")
    assert str(["a-key", None, "m1", str(toy.home), "1"]) in lines
    assert "of the file" in lines


@exhaustive
def test_the_flow_runs_in_containers_when_params_say_so(engine, toy, built):
    """`runner: docker` in params.yaml is enough: outcomes, images, logs and dvc.lock come through the flow."""
    toy.write("params.yaml", (toy.root / "params.yaml").read_text() + "runner: docker\n")
    result, out, _ = toy.run()
    image = engine.images.get("toy").id
    assert {(row["outcome"], row["image"]) for row in result["stages"]} == {("ran", image)}
    assert "| pretrain@one says hello" in out
    assert (toy.root / "dvc.lock").read_text() == (built.root / "dvc.lock").read_text()
    assert (toy.root / "reports" / "metrics.json").is_file()


@exhaustive
def test_the_command_line_chooses_the_runner(toy, monkeypatch):
    """`--runner docker` comes before params.yaml; without an engine nothing starts, and the error is one message."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/socket")
    toy.write("params.yaml", (toy.root / "params.yaml").read_text() + "runner: subprocess\n")
    done = toy.shell("relume", "pipeline", "run", "--runner", "docker", check=False)
    assert done.returncode == 1
    assert "error: No container engine answers: unix:///nowhere/socket" in done.stderr
    assert toy.ran() == []


@exhaustive
def test_an_interrupted_flow_leaves_no_container(engine, toy):
    """Ctrl-C ends the run's containers before the command ends."""
    toy.write("params.yaml", (toy.root / "params.yaml").read_text() + "runner: docker\n")
    toy.tell("sleep", "first", 300)
    process = toy.start()
    wait_until(toy.ran, seconds=120)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert containers(engine, toy.home) == []


@exhaustive
def test_every_image_is_built_labelled_lists_what_it_holds_and_is_no_root(engine):
    """Labels of the commit and the licence, a user that is not root, a list of parts.

    Data carries no PyTorch, and DVC is in its own image alone.
    """
    built = subprocess.run(["sh", "infra/containers/build.sh"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    made_of = ["constraints.txt", *(f"infra/containers/{name}" for name in ("Containerfile", "install.sh", "locked"))]
    commit = subprocess.run(["git", "log", "-1", "--format=%H", "--", *made_of], capture_output=True, text=True).stdout
    for kind in ("data", "training", "evaluation", "dvc"):
        image = engine.images.get(f"relume-{kind}")
        assert f"relume-{kind}:latest {image.attrs['Size']} bytes" in built.stdout
        labels = {name.rpartition(".")[2]: value for name, value in image.labels.items()}
        assert (labels["title"], labels["licenses"]) == (f"relume-{kind}", "Apache-2.0")
        assert labels["revision"].removesuffix("-dirty") == commit.strip()
        assert image.attrs["Config"]["User"] == "10001:10001"
        code = (
            "import json; parts = json.load(open('/opt/relume/sbom.cdx.json'))['components'];"
            "print(*(part['name'] for part in parts))"
        )
        listed = engine.containers.run(image, ["python", "-c", code], remove=True, network_mode="none", read_only=True)
        parts = set(listed.decode().split())
        holds = {"torch": kind in ("training", "evaluation"), "numpy": kind != "dvc", "dvc": kind == "dvc"}
        assert {name: name in parts for name in holds} == holds


def test_an_unknown_kind_of_image_is_refused_with_those_there_are():
    """The build says which kinds there are, before it builds any."""
    done = subprocess.run(["sh", "infra/containers/build.sh", "data", "dta"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: there is no kind of image of this name: dta\n"
        "  next: choose one of: data training evaluation dvc platform postgres s3 prometheus triton\n"
    )


@exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("make", [make_tiny, make_demo], ids=["tiny", "demo"])
def test_the_real_graph_in_containers(engine, tmp_path, monkeypatch, make):
    """Every real stage, trainings included, in its own image: dvc.lock as `dvc repro` leaves it.

    MLflow has the trainings, and the hashes of the images with the run. `-s` shows how long both take.
    """
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    by_dvc = make(tmp_path / "by-dvc", tmp_path / "by-dvc-home")
    in_containers = make(tmp_path / "boxes", tmp_path / "boxes-home")
    params = (in_containers.root / "params.yaml").read_text()
    in_containers.write("params.yaml", params.replace("runner: subprocess", "runner: docker"))
    ids = {f"relume-{kind}": engine.images.get(f"relume-{kind}").id for kind in ("data", "training", "evaluation")}
    started = time.monotonic()
    result, out, _ = in_containers.run(seconds=3600)
    print(f"\n{time.monotonic() - started:.0f} s in containers:", result["stages"])
    graph = read_graph(in_containers.root)
    for row in result["stages"]:
        assert (row["outcome"], row["image"]) == ("ran", ids[graph.stages[row["stage"]].meta["image"]]), out
    assert "warning: " not in out
    started = time.monotonic()
    repro = by_dvc.shell("dvc", "repro", check=False)
    print(f"{time.monotonic() - started:.0f} s by dvc repro")
    assert repro.returncode == 0, repro.stdout + repro.stderr
    assert (in_containers.root / "dvc.lock").read_bytes() == (by_dvc.root / "dvc.lock").read_bytes()
    runs = MlflowClient(tracking_uri(in_containers.home)).search_runs(["1"])
    (parent,) = (run for run in runs if run.data.tags["relume.kind"] == "pipeline")
    assert {name: parent.data.tags[f"relume.image.{name}"] for name in ids} == ids
    assert len(runs) > 4
