import os
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from configobj import ConfigObj
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from flows.graph import Stage, read_graph, read_store
from flows.lock import merge
from flows.pipeline_flow import _checkout
from flows.run_commit import commit_run
from flows.runners import Run, StageCancelledError, container
from flows.runners.subprocess import SubprocessRunner, end_leftovers
from relume.errors import ServiceError, StageFailedError
from tests.flows.toy import copy_toy, wait_until


def runner_of(toy, *arguments, **options):
    """A runner for a run of the repository as it is now."""
    commit = commit_run(toy.root, "r1")
    run = Run(name="r1", root=toy.root, commit=commit, store=read_store(toy.root), home=toy.home)
    return SubprocessRunner(run, *arguments, **options)


def run_stage(toy, name, lock=""):
    """Runs one stage of the repository as it is now."""
    return runner_of(toy).run(read_graph(toy.root).stages[name], lock)


def run_all(toy, lock=""):
    """Runs all stages one after another, as the flow would; gives the outcomes and the merged lock."""
    graph, runner = read_graph(toy.root), runner_of(toy)
    outcomes = {}
    for name, stage in graph.stages.items():
        result = runner.run(stage, lock)
        outcomes[name] = result.outcome
        lock = merge(lock, [result.entry], list(graph.stages))
    return outcomes, lock


def in_thread(runner, stage, lock=""):
    """Runs a stage in a thread; gives the thread and the list that its error will be in."""
    errors = []

    def target():
        try:
            runner.run(stage, lock)
        except StageFailedError as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    return thread, errors


def test_the_merged_entries_are_what_dvc_repro_writes(toy, built):
    """Stage by stage in private clones gives, byte for byte, the dvc.lock that `dvc repro` leaves."""
    outcomes, lock = run_all(toy)
    assert set(outcomes.values()) == {"ran"}
    assert (built.root / "dvc.lock").read_text() == lock


def test_the_checkout_is_not_touched_and_clones_go(toy):
    """A stage leaves no file in the driver's checkout, and nothing but its log in the run's folder."""
    before = sorted(path for path in toy.root.rglob("*") if ".dvc" not in path.parts and ".git" not in path.parts)
    result = run_stage(toy, "first")
    after = sorted(path for path in toy.root.rglob("*") if ".dvc" not in path.parts and ".git" not in path.parts)
    assert after == before
    assert [path.name for path in (toy.home / "runs" / "r1").iterdir()] == ["first.log"]
    assert "first says hello" in (toy.home / "runs" / "r1" / "first.log").read_text()
    assert 0 < result.seconds < 60


def test_a_stage_runs_the_commit_and_not_what_is_edited_since(toy):
    """After the run's commit was made, edits of the working tree reach no stage of it."""
    runner = runner_of(toy)
    toy.write("components/first/__main__.py", "raise SystemExit('edited')\n")
    assert runner.run(read_graph(toy.root).stages["first"], "").outcome == "ran"


@pytest.mark.parametrize("with_lock", [True, False])
def test_known_work_is_not_repeated(built, with_lock):
    """With the lock of an earlier run, and without one, all is found in DVC's cache."""
    lock = (built.root / "dvc.lock").read_text()
    (built.root / "dvc.lock").unlink()
    outcomes, again = run_all(built, lock if with_lock else "")
    assert set(outcomes.values()) == {"cached"}
    assert again == lock
    assert built.ran() == []


def test_changed_upstream_outs_make_a_stage_run_again(built):
    """A stage whose own entry is in the lock runs again when what it reads is no longer what the entry names."""
    work = (built.root / "components/first/__main__.py").read_text()
    built.write("components/first/__main__.py", work.replace('work("first", []', 'work("first_anew", []'))
    outcomes, _ = run_all(built, (built.root / "dvc.lock").read_text())
    assert set(outcomes.values()) == {"ran"}


def test_outs_that_left_the_cache_are_made_again(built):
    """An entry whose outs are gone from the cache is not taken at its word."""
    shutil.rmtree(built.root / ".dvc" / "cache" / "files")
    lock = (built.root / "dvc.lock").read_text()
    assert run_stage(built, "first", lock).outcome == "ran"


@pytest.mark.parametrize("with_remote", [False, True])
def test_inputs_that_left_the_cache_are_named(built, tmp_path, with_remote):
    """What a stage reads and DVC cannot bring is named with the next command; what it does bring is not said."""
    if with_remote:
        built.shell("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    built.write("params.yaml", (built.root / "params.yaml").read_text().replace("width: 1", "width: 11"))
    lock, lines = (built.root / "dvc.lock").read_text(), []
    runner, stages = runner_of(built, lambda stage, line: lines.append(line)), read_graph(built.root).stages
    if not with_remote:
        assert runner.run(stages["pretrain@one"], lock).outcome == "ran"
        assert lines == ["> python -m components.pretrain --base one", "pretrain@one says hello"]
    shutil.rmtree(built.root / ".dvc" / "cache")
    with pytest.raises(StageFailedError, match=r"(?s)pretrain@one.*\n +data/first\n.*next: run `relume pipeline run`"):
        runner.run(stages["pretrain@one"], lock)


@pytest.mark.parametrize("scope", ["--local", "--project"])
@pytest.mark.parametrize("relative", [False, True])
def test_what_is_not_in_the_cache_comes_from_the_remote(built, tmp_path, scope, relative):
    """Outs that only the default remote has are pulled, from where its address is for the checkout."""
    lock, store = (built.root / "dvc.lock").read_text(), tmp_path / "st'o#r,e"
    address = os.path.relpath(store, built.root) if relative else str(store)
    built.shell("dvc", "remote", "add", scope, "--default", "store", address)
    built.shell("dvc", "push")
    shutil.rmtree(built.root / ".dvc" / "cache")
    assert run_stage(built, "pretrain@two", lock).outcome == "cached"


NAMES = st.text(
    st.characters(exclude_characters="/:", exclude_categories=("Cs", "Cc", "Z"), include_characters=" "), max_size=30
).map(lambda name: f"a{name}b")


@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(checkout=NAMES, store=NAMES.map(lambda name: name.replace("%(", "%")))  # which DVC takes for an option
@example(checkout=" '\"&;$#,?%()%(c)s${a}~\\ä ", store="' \"&;$#,?%()=\\äb")
def test_dvc_reads_the_paths_that_a_clone_is_given(toy, checkout, store):
    """Whatever checkout and remote are called, DVC in a clone has the cache and the remote of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        mine = copy_toy(toy, Path(folder) / checkout)
        config = ConfigObj(encoding="utf-8", interpolation=False)
        config['remote "store"'] = {"url": f"../../{store}"}
        config.filename = str(mine.root / ".dvc" / "config.local")
        config.write()
        stage = Stage(name="first", command="", deps=(), outs=())
        clone = runner_of(mine)._clone(stage, "")
        own, of_clone = read_store(mine.root), read_store(clone)
        assert of_clone.cache.resolve() == own.cache.resolve()
        assert own.remotes == {"store": mine.root.parent / store}
        assert of_clone.remotes["store"].resolve() == mine.root.parent / store


def test_data_on_another_disk_is_not_touched_by_a_clone(toy, tmp_path):
    """`data` may be a link that git ignores: a stage writes in its clone; what a run ends with goes to the target."""
    (tmp_path / "disk").mkdir()
    toy.write(".gitignore", "/data\n/models\n/reports\n__pycache__/\n")
    (toy.root / "data").symlink_to(tmp_path / "disk")
    result = run_stage(toy, "first")
    assert list((tmp_path / "disk").iterdir()) == []
    toy.write("dvc.lock", merge("", [result.entry], ["first"]))
    _checkout(toy.root, ["data/first"])
    assert (tmp_path / "disk" / "first" / "out.txt").is_file()


def test_deps_in_a_clone_are_read_only_links_into_the_cache(built):
    """A stage gets its deps as links without write permission, so that it cannot spoil the cache by writing to them."""
    built.write("params.yaml", (built.root / "params.yaml").read_text().replace("width: 1", "width: 11"))
    built.tell("fail", "pretrain@one", 1)  # a failed stage leaves its clone to look at
    with pytest.raises(StageFailedError):
        run_stage(built, "pretrain@one", (built.root / "dvc.lock").read_text())
    dep = built.home / "runs" / "r1" / "pretrain@one" / "clone" / "data" / "first" / "out.txt"
    cached = [path for path in (built.root / ".dvc" / "cache" / "files").rglob("*") if path.is_file()]
    assert dep.stat().st_ino in {path.stat().st_ino for path in cached}
    assert not any(path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for path in [dep, *cached])


def test_a_failed_stage_is_one_message_with_its_last_lines(toy):
    """The error names the stage, its last lines, its log and the next command; exit code 1 is a failure."""
    toy.tell("fail", "first", 1)
    with pytest.raises(StageFailedError) as caught:
        run_stage(toy, "first")
    assert caught.value.exit_code == 1
    for part in (
        "The stage failed: first",
        "error: first was told to fail",
        "first.log",
        "next: run `relume pipeline run`",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("code", [2, 3])
def test_the_exit_code_of_what_must_be_repaired_is_kept(toy, code):
    """A component that ends with 2, a user's mistake, or 3, a divergence, makes an error that ends so."""
    toy.tell("fail", "first", code)
    with pytest.raises(StageFailedError, match="fix what its message names") as caught:
        run_stage(toy, "first")
    assert caught.value.exit_code == code


def test_a_stage_that_takes_too_long_is_ended(toy):
    """After meta.timeout seconds the stage and all it started are ended, and the error says so."""
    toy.write("dvc.yaml", (toy.root / "dvc.yaml").read_text().replace("timeout: 60", "timeout: 2", 1))
    toy.tell("sleep", "first", 60)
    start = time.monotonic()
    with pytest.raises(StageFailedError, match="longer than its 2 seconds"):
        run_stage(toy, "first")
    assert time.monotonic() - start < 15
    assert "end" not in [what for _, what, _ in toy.journal()]
    assert components_alive(toy) == []


def components_alive(toy):
    """Command lines of living processes that work in the toy's clones."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "status"]):
        if str(toy.home) in (process.info["cwd"] or "") and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["cmdline"])
    return found


def test_cancelling_ends_what_runs_and_starts_nothing_more(toy):
    """`cancel` ends a running stage with its process group; a stage that comes later is refused."""
    toy.tell("sleep", "first", 60)
    runner, first = runner_of(toy), read_graph(toy.root).stages["first"]
    thread, errors = in_thread(runner, first)
    wait_until(toy.ran)
    runner.cancel()
    thread.join(timeout=20)
    assert isinstance(errors[0], StageCancelledError)
    assert components_alive(toy) == []
    with pytest.raises(StageCancelledError):
        runner.run(first, "")
    assert toy.ran() == ["first"]


@pytest.mark.parametrize("record", ["whole", "damaged"])
def test_what_a_killed_driver_left_is_ended(toy, record):
    """Processes and clones of a driver that is gone are found by their record, also by a damaged one, and ended."""
    toy.tell("sleep", "first", 60)
    driver = os.fork()
    if driver == 0:
        try:
            run_stage(toy, "first")
        finally:
            os._exit(0)
    wait_until(toy.ran)
    os.kill(driver, 9)
    os.waitpid(driver, 0)
    assert components_alive(toy)
    if record == "damaged":
        (toy.home / "runs" / "r1" / "first" / "process.json").write_text("{")
    end_leftovers(toy.home)
    assert components_alive(toy) == []
    assert not (toy.home / "runs" / "r1" / "first").exists()


def test_containers_that_may_be_left_need_their_engine(toy, monkeypatch):
    """Where a run may have left a container and no engine answers, nothing of that run is removed."""
    folder = toy.home / "runs" / "r1" / "first"
    (folder / "clone").mkdir(parents=True)
    (folder / container.RECORD).write_text("{}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{toy.home}/none.sock")
    with pytest.raises(ServiceError, match="No container engine answers"):
        end_leftovers(toy.home)
    assert (folder / "clone").is_dir()


@pytest.mark.parametrize(("cores", "at_once"), [(1, False), (2, True)])
def test_stages_share_the_cores_by_their_meta(built, cores, at_once):
    """With one core two stages of `cpu: 1` run one after the other, with two cores at once."""
    built.write("params.yaml", (built.root / "params.yaml").read_text().replace("width: ", "width: 1"))
    lock = (built.root / "dvc.lock").read_text()
    runner = runner_of(built, cores=cores)
    threads = []
    for stage, other in (("pretrain@one", "pretrain@two"), ("pretrain@two", "pretrain@one")):
        built.tell(*(("beside", stage, other) if at_once else ("sleep", stage, 3)))
        threads.append(in_thread(runner, read_graph(built.root).stages[stage], lock)[0])
    for thread in threads:
        thread.join()
    whats = [what for _, what, _ in built.journal()]
    assert whats == (["start", "start", "end", "end"] if at_once else ["start", "end", "start", "end"])


def test_stages_get_the_drivers_state_and_no_telemetry(toy, monkeypatch):
    """A stage gets RELUME_HOME, the driver's pid, what the run adds and telemetry off; a hook's GIT_DIR it does not."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    names = ["RELUME_HOME", "RELUME_DRIVER_PID", "RELUME_TRACKING_RUN", "DO_NOT_TRACK", "GIT_DIR"]
    toy.write(
        "components/first/__main__.py",
        f"import os\nprint([os.environ.get(name) for name in {names}])\n"
        + (toy.root / "components/first/__main__.py").read_text(),
    )
    lines = []
    runner = runner_of(toy, lambda stage, line: lines.append((stage, line)), {"RELUME_TRACKING_RUN": "m1"})
    runner.run(read_graph(toy.root).stages["first"], "")
    assert ("first", str([str(toy.home), str(os.getpid()), "m1", "1", None])) in lines
