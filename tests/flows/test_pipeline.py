"""The flow on the tiny graph, against one Prefect server that all tests of this file share."""

import hashlib
import json
import signal
import threading

import filelock
import psutil
import pytest
from dvc.lock import make_lock

from tests.flows.toy import STEPS, prefect_server, wait_until


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    """The Prefect server that the flows of this file report to."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", address)
        yield address


def test_the_flow_leaves_what_dvc_repro_leaves(toy, built):
    """Separate caches, one run by `dvc repro` and one by the flow: dvc.lock and outs are the same, byte for byte."""
    result, out, _ = toy.run()
    assert [row["outcome"] for row in result["stages"]] == ["ran"] * 4
    assert (toy.root / "dvc.lock").read_bytes() == (built.root / "dvc.lock").read_bytes()
    for place in ("data/first/out.txt", "models/bases/two/out.txt", "reports/last/out.txt", "reports/metrics.json"):
        assert (toy.root / place).read_bytes() == (built.root / place).read_bytes()
    assert "up to date" in toy.shell("dvc", "status").stdout
    for stage in ("first", "pretrain@one", "pretrain@two", "last"):
        assert f"{stage} says hello" in out


def test_a_second_run_and_dvc_repro_find_all_done(built):
    """What `dvc repro` made the flow does not make again, and the other way round."""
    lock = (built.root / "dvc.lock").read_bytes()
    assert set(built.outcomes().values()) == {"cached"}
    assert (built.root / "dvc.lock").read_bytes() == lock
    assert "up to date" in built.shell("dvc", "repro").stdout
    assert built.ran() == []


def test_independent_stages_run_at_the_same_time(built):
    """The two bases, neither of which reads from the other, overlap; the stage after them waits for both."""
    built.write("params.yaml", (built.root / "params.yaml").read_text().replace("width: ", "width: 1"))
    built.tell("beside", "pretrain@one", "pretrain@two")
    built.tell("beside", "pretrain@two", "pretrain@one")
    built.run()
    steps = [(stage.partition("@")[0], what) for stage, what, _ in built.journal()]
    assert steps[:4] == [("pretrain", "start")] * 2 + [("pretrain", "end")] * 2
    # Their outs did not change, so the last stage had nothing to do.
    assert len(steps) == 4


def test_another_dvc_command_is_named(toy):
    """While another one holds DVC's lock the outs cannot be checked out: the run says so; the next one has them all."""
    with make_lock(str(toy.root / ".dvc" / "tmp" / "lock")):
        _, _, errors = toy.run(code=2)
    assert "Another dvc command holds DVC's lock" in errors
    assert "run the same command again" in errors
    assert "run `dvc checkout`" not in errors
    assert set(toy.outcomes().values()) == {"cached"}
    assert (toy.root / "reports/last/out.txt").is_file()


def test_chosen_stages_run_with_what_they_need_and_the_rest_stays(built):
    """Running one stage brings its upstream, and leaves the entries of the others in dvc.lock."""
    lock = (built.root / "dvc.lock").read_text()
    assert list(built.outcomes("pretrain@one")) == ["first", "pretrain@one"]
    assert (built.root / "dvc.lock").read_text() == lock


@pytest.mark.slow
def test_a_diverged_training_is_not_tried_again(toy):
    """Exit code 3 of a stage with a retry is the run's own after one try."""
    toy.tell("fail", "pretrain@two", 3)
    _, out, errors = toy.run("pretrain@two", code=3)
    assert toy.ran().count("pretrain@two") == 1
    assert "trying again" not in out
    assert "fix what its message names" in errors


@pytest.mark.slow
def test_a_failed_stage_keeps_what_finished(toy):
    """The other branch is finished and in dvc.lock, downstream does not run, and the error says what to do next."""
    toy.tell("fail", "pretrain@two", 2)
    _, out, errors = toy.run(code=2)
    lock = (toy.root / "dvc.lock").read_text()
    assert "pretrain@one:" in lock
    assert "pretrain@two:" not in lock
    assert (toy.root / "models/bases/one/out.txt").is_file()
    assert "last" not in toy.ran()
    assert "not run" in out
    for part in ("The stage failed: pretrain@two", "was told to fail", "relume pipeline run"):
        assert part in errors
    # A user's mistake is not tried again, although the stage has a retry.
    assert toy.ran().count("pretrain@two") == 1
    (toy.notes / "fail-pretrain@two").unlink()
    assert toy.outcomes() == {"first": "cached", "pretrain@one": "cached", "pretrain@two": "ran", "last": "ran"}


@pytest.mark.slow
def test_a_failure_is_tried_again_as_often_as_meta_says(toy):
    """A stage with one retry that fails once is run twice and the run is well; its log holds both."""
    toy.tell("fail", "pretrain@two", "once 1")
    _, out, _ = toy.run()
    assert toy.ran().count("pretrain@two") == 2
    assert "trying again" in out
    toy.tell("fail", "first", 1)  # it has no retry
    toy.write("sources.json", "{}\n")
    toy.run(code=1)
    assert toy.ran().count("first") == 2


def test_an_unsound_graph_starts_nothing(toy):
    """The linter comes first: no stage runs, no ref is made."""
    toy.write("dvc.yaml", (toy.root / "dvc.yaml").read_text().replace("      - components/work.py\n", "", 1))
    _, _, errors = toy.run(code=2)
    assert "relume pipeline lint --fix" in errors
    assert toy.ran() == []
    assert toy.shell("git", "for-each-ref", "refs/relume").stdout == ""


def test_two_runs_in_one_checkout_do_not_collide(toy):
    """While a run is in progress a second one is refused with a clear message."""
    (toy.home / "runs").mkdir()
    with filelock.FileLock(toy.home / "runs" / "driver.lock"):
        _, _, errors = toy.run(code=2)
    assert "Another run is in progress" in errors
    assert toy.ran() == []


def test_uncommitted_edits_are_part_of_the_run_and_stay_uncommitted(toy):
    """The run is of the edited code; branch, index and the edit are as before."""
    work = (toy.root / "components/last/__main__.py").read_text()
    toy.write("components/last/__main__.py", work.replace('work("last"', 'work("edited"'))
    before = toy.shell("git", "status", "--porcelain").stdout
    toy.run()
    assert toy.ran()[-1] == "edited"
    assert toy.shell("git", "status", "--porcelain").stdout.replace("?? dvc.lock\n", "") == before


def test_a_run_is_of_the_users_own_list(toy):
    """A run ingests the home's list, which git never sees; a plain `dvc repro` goes back to the tracked one."""
    own = toy.home / "sources.json"
    gone = {"address": "file:///private/gone.png", "bytes": 1, "hash": "sha256:0"}
    own.write_text(json.dumps({"files": [gone], "sources": ["file:///private"]}))
    toy.write("components/first/__main__.py", STEPS["first"] + 'print("listed", open("sources.json").read())\n')
    toy.commit()
    _, out, _ = toy.run("first")
    assert 'listed {"files": [{"address": "file:///private' in out
    assert "warning: 1 of the listed photographs are gone or changed, such as file:///private/gone.png" in out
    assert toy.shell("git", "status", "--porcelain").stdout == "?? dvc.lock\n"
    listed = hashlib.md5(own.read_bytes()).hexdigest()
    assert listed in (toy.root / "dvc.lock").read_text()
    assert "file:///private" not in toy.shell("dvc", "repro", "first").stdout
    assert listed not in (toy.root / "dvc.lock").read_text()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ending_the_run_ends_its_stages(toy, end):
    """Ctrl-C, SIGTERM or the end of the terminal ends the flow, and with it the processes of the stages."""
    toy.tell("sleep", "first", 100)
    process = toy.start()
    wait_until(toy.ran)
    process.send_signal(end)
    reader = threading.Thread(target=process.communicate)
    reader.start()
    reader.join(timeout=60)
    assert process.returncode not in (None, 0)
    left = [p for p in psutil.process_iter(["cwd"]) if str(toy.home) in (p.info["cwd"] or "")]
    assert left == []
    assert toy.ran() == ["first"]


@pytest.mark.slow
def test_a_killed_run_is_finished_by_the_next(toy):
    """After kill -9 of the flow a new run ends what was left and repeats no finished stage."""
    toy.tell("sleep", "pretrain@two", 100)
    process = toy.start()
    wait_until(lambda: ("pretrain@one", "end") in [(stage, what) for stage, what, _ in toy.journal()])
    wait_until(lambda: "pretrain@two" in toy.ran())
    wait_until(lambda: "pretrain@one" not in [path.name for path in toy.home.glob("runs/*/pretrain@one")])
    process.kill()
    process.communicate()
    toy.tell("sleep", "pretrain@two", 0)
    assert toy.outcomes() == {"first": "cached", "pretrain@one": "cached", "pretrain@two": "ran", "last": "ran"}
    left = [p for p in psutil.process_iter(["cwd"]) if str(toy.home) in (p.info["cwd"] or "")]
    assert left == []
