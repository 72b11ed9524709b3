"""Garbage of a whole home: a real registry, git and DVC."""

import json
import os
import shutil

import filelock
import pytest
from click.testing import CliRunner

from flows.garbage.collect import collect
from flows.release.anchor import anchor_ledger
from flows.release.ledger import Ledger, Release
from flows.release.registry import Registry
from flows.release.served_product import ReleaseInProgressError, release_lock
from flows.run_commit import commit_run
from flows.turns import RunInProgressError, turn
from relume.cli import main
from relume.errors import LedgerError
from relume.params import GarbageSettings
from tests.flows.release.synthetic import make_package
from tests.flows.toy import Toy, copy_toy

LATER = 4e9
KEY = "ab" * 12


@pytest.fixture(scope="module")
def used_template(toy_template, tmp_path_factory):
    """A home that was used: two packages registered, of which the ledger names one, runs, checkpoints, remains."""
    folder = tmp_path_factory.mktemp("used")
    toy = copy_toy(toy_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry, ledger = Registry(toy.home), Ledger(toy.home)
    for name, blur in (("named", 1.0), ("unnamed", 1.5)):
        package = make_package(folder / name, blur=blur)
        version, _ = registry.register(package, run_commit="c" * 40, params={}, files={})
        commit_run(toy.root, f"package-{package.sha256[:16]}")
        if name == "named":
            release = Release(
                product=package.product, package=package.sha256, version=version.number, model=package.model
            )
            ledger.append("promoting", release)
            ledger.append("promoted", release)
            anchor_ledger(ledger, registry, package.product)
    for run in ("first", "second", "third"):
        (toy.home / "runs" / run).mkdir(parents=True)
        commit_run(toy.root, run)
    for age, run in enumerate(("third", "second", "first")):
        os.utime(toy.home / "runs" / run, (1e9 - age, 1e9 - age))
    for path in (
        f"checkpoints/{KEY}.safetensors",
        f"checkpoints/{KEY}.lock",
        ".ledger.head.abcd1234.json",
        "reports/kept",
    ):
        (toy.home / path).parent.mkdir(exist_ok=True)
        (toy.home / path).write_text("x")
        os.utime(toy.home / path, (1e9, 1e9))
    return toy


@pytest.fixture
def used(used_template, tmp_path, monkeypatch) -> Toy:
    """A copy of it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy_toy(used_template, tmp_path)


def packages(toy):
    registry = Registry(toy.home)
    return {run.package: (run.artifacts / "package").is_dir() for run in registry.packages()}


def state(toy):
    """Every file of the home, and git's refs; not what opening a home, a database or a lock changes."""
    names = {path.relative_to(toy.home).as_posix() for path in toy.home.rglob("*") if path.is_file()}
    kept = sorted(
        name for name in names if not name.startswith(("home.json", "mlflow/mlflow.db", "dvc-site", "runs/driver"))
    )
    return [name for name in kept if not name.endswith(".lock")], toy.shell("git", "for-each-ref").stdout


def test_what_is_listed_is_removed_and_nothing_else(used):
    """First the list alone; then the two oldest runs, the unnamed package, the checkpoint and the half-written file."""
    package = Ledger(used.home).entries()[0].release.package
    policy = GarbageSettings(runs=1, days=1)
    before = state(used)
    listed = collect(used.root, used.home, policy, remove=False, now=LATER)
    assert state(used) == before
    removed = collect(used.root, used.home, policy, remove=True, now=LATER)
    assert removed == listed
    assert [path.name for path in removed.runs] == ["second", "first"]
    assert [path.name for path in removed.checkpoints] == [f"{KEY}.safetensors"]
    assert [path.name for path in removed.unfinished] == [".ledger.head.abcd1234.json"]
    assert packages(used) == {package: True}
    assert Registry(used.home).find("denoise", package) is not None
    assert sorted(path.name for path in (used.home / "runs").iterdir() if path.is_dir()) == ["third"]
    refs = used.shell("git", "for-each-ref", "--format=%(refname:lstrip=3)", "refs/relume").stdout.split()
    assert refs == [f"package-{package[:16]}", "third"]
    assert (used.home / "reports" / "kept").is_file()
    assert collect(used.root, used.home, policy, remove=True, now=LATER).lines() == []


def test_what_is_young_stays(used):
    """Whatever refers to it."""
    assert collect(used.root, used.home, GarbageSettings(runs=1, days=1e5), remove=True, now=LATER).packages == []
    assert len(packages(used)) == 2


def test_a_training_that_runs_keeps_its_checkpoint(used):
    """However old: its process holds the lock."""
    with filelock.FileLock(used.home / "checkpoints" / f"{KEY}.lock"):
        found = collect(used.root, used.home, GarbageSettings(), remove=True, now=LATER)
    assert found.checkpoints == []
    assert (used.home / "checkpoints" / f"{KEY}.safetensors").is_file()


def test_nothing_is_removed_where_the_ledger_was_lost(used):
    """No line names anything then; the registry remembers that there were some."""
    kept = Ledger(used.home).path.rename(used.home / "elsewhere")
    Ledger(used.home).head.unlink()
    before = state(used)
    with pytest.raises(LedgerError, match="not the one that the registry remembers"):
        collect(used.root, used.home, GarbageSettings(runs=1, days=0), remove=True, now=LATER)
    assert state(used) == before
    # A ledger that was put aside by a repair still names its packages.
    kept.rename(used.home / "ledger.jsonl.broken-20260101T000000Z")
    shutil.copy(used.home / "ledger.jsonl.broken-20260101T000000Z", used.home / "ledger.jsonl")
    assert len(collect(used.root, used.home, GarbageSettings(), remove=False, now=LATER).packages) == 1


def test_a_shared_cache_is_left_alone(used, tmp_path):
    """Other checkouts may use it; the line says what knows them."""
    used.shell("dvc", "config", "--local", "cache.dir", str(tmp_path / "shared"))
    path = tmp_path / "shared" / "files" / "md5" / "00" / ("0" * 30)
    path.parent.mkdir(parents=True)
    path.touch()
    found = collect(used.root, used.home, GarbageSettings(), remove=True, now=LATER)
    assert found.cache == []
    assert "which other checkouts may use" in found.lines()[-1]
    assert path.is_file()


def test_runs_and_releases_hold_it_up(used):
    """Nothing is looked at while one is in progress."""
    with release_lock(used.home), pytest.raises(ReleaseInProgressError):
        collect(used.root, used.home, GarbageSettings(), remove=True)
    holder = filelock.FileLock(used.home / "runs" / "driver.lock")
    with holder, pytest.raises(RunInProgressError):
        collect(used.root, used.home, GarbageSettings(), remove=True)
    with turn(used.home, used.root, "retrain"):  # a lock that was left would refuse this
        pass


def test_the_command_lists_first(used, monkeypatch):
    """It says what would go and how; with --remove that is gone."""
    monkeypatch.chdir(used.root)
    monkeypatch.setenv("RELUME_HOME", str(used.home))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(used.home / "dvc-site"))
    (used.root / "params.yaml").write_text((used.root / "params.yaml").read_text() + "garbage: {runs: 2, days: 0}\n")
    listed = CliRunner().invoke(main, ["gc"])
    assert listed.exit_code == 0, listed.output
    assert "1 old pipeline run" in listed.output
    assert listed.output.endswith("nothing was removed; next: relume gc --remove\n")
    removed = CliRunner().invoke(main, ["gc", "--remove"])
    assert removed.output.splitlines()[:-1] == listed.output.splitlines()[:-1]
    assert removed.output.endswith("\nremoved\n")
    assert CliRunner().invoke(main, ["gc"]).output == "there is no garbage\n"


def test_the_deployment_lists_until_it_may_remove(used, monkeypatch):
    """The flow reads `garbage.remove`; a run in progress makes it skip."""
    from flows.garbage.flow import garbage_collect

    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(used.home / "dvc-site"))
    policy = "\ngarbage: {runs: 1, days: 0, remove: "
    values = (used.root / "params.yaml").read_text()
    for remove in ("false", "true"):
        (used.root / "params.yaml").write_text(f"{values}{policy}{remove}}}\n")
        found = garbage_collect.fn(str(used.root), str(used.home))
        assert any("2 old pipeline runs" in line for line in found)
        assert len(packages(used)) == (2 if remove == "false" else 1)
    with filelock.FileLock(used.home / "runs" / "driver.lock"):
        assert garbage_collect.fn(str(used.root), str(used.home), wait=0).name == "Skipped"


def test_a_damaged_list_stops_it(built, monkeypatch):
    """A folder's list in the cache that cannot be read names nothing; nothing is removed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from relume.errors import BrokenFileError

    folder = next((built.root / ".dvc" / "cache").rglob("*.dir"))
    folder.chmod(0o644)
    folder.write_text(json.dumps([{"relpath": "x"}]))
    with pytest.raises(BrokenFileError, match="md5"):
        collect(built.root, built.home, GarbageSettings(days=0), remove=True, now=LATER)
