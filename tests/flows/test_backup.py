"""A backup of a home, with a real registry and databases that programs write to meanwhile."""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import stat
import tarfile
import threading

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows import backup as backups
from flows.backup import BackupError, read_backup, restore_backup, write_backup
from flows.home_schema import SCHEMA
from flows.monitoring.requests import Requests
from flows.release.anchor import anchor_ledger, check_anchors, read_anchors
from flows.release.ledger import Ledger, Release
from flows.release.registry import Registry
from flows.release.served_product import ReleaseInProgressError, release_lock, stored_package
from relume.cli import main
from relume.errors import BrokenFileError, ConfigError
from relume.files import sha256_folder
from relume.monitoring.statistics import Statistics
from tests.flows.release.synthetic import make_package

ROW = Statistics(seconds=1.0, noise=2.0, sharpness=3.0, clipped=0.0, removed=1.0, seams=0.0)


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A home with a registered release, requests, settings and keys, and things that no backup holds."""
    home = tmp_path_factory.mktemp("used") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry(home)
        package = make_package(home.parent / "package")
        version, _ = registry.register(package, run_commit="c" * 40, params={}, files={})
    release = Release(product=package.product, package=package.sha256, version=version.number, model=package.model)
    for event in ("registered", "promoting", "promoted"):
        Ledger(home).append(event, release)
    registry.set_aliases("denoise", champion=version.number)
    anchor_ledger(Ledger(home), registry, "denoise")
    with contextlib.closing(Requests(home)) as requests:
        for moment in range(5):
            requests.add(release.model, ROW, now=float(moment))
    for name, text in {
        "keys/signing.pem": "secret",
        "keys/trusted/ab.pub": "public",
        "triton/models/denoise-1/1/model.py": "x = 1\n",
        "config.yaml": "default_product: photo\n",
        "ledger.jsonl.broken-20260101T000000Z": "old\n",
        "runs/one/first.log": "not in it\n",
        "checkpoints/.half.abcd1234.safetensors": "not in it\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


@pytest.fixture
def home(used, tmp_path, monkeypatch):
    """A copy of it at a place of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    shutil.copytree(used, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def file(home, tmp_path):
    """A backup of it, without the private key."""
    write_backup(home, tmp_path / "backup.tar", keys=False)
    return tmp_path / "backup.tar"


def lose(home):
    home.rename(home.with_name("lost"))


def test_a_lost_home_comes_back(home, file):
    """Ledger, anchors, aliases, the package byte for byte, requests and settings; services' things and keys do not."""
    release, before = Ledger(home).current("denoise"), Ledger(home).entries()
    package = sha256_folder(stored_package(release, home).folder)
    lose(home)
    restored = restore_backup(home, file)
    assert Ledger(home).entries() == before
    registry = Registry(home)
    check_anchors(Ledger(home), read_anchors(registry))
    assert registry.by_alias("denoise", "champion").number == release.version
    assert sha256_folder(stored_package(release, home).folder) == package
    with contextlib.closing(Requests(home)) as requests:
        assert len(requests.first(release.model, 10)["noise"]) == 5
    assert (home / "config.yaml").read_text() == "default_product: photo\n"
    assert (home / "ledger.jsonl.broken-20260101T000000Z").read_text() == "old\n"
    assert (home / "keys" / "trusted" / "ab.pub").is_file()
    assert not (home / "keys" / "signing.pem").exists()
    assert not (home / "runs" / "one").exists()
    assert not list((home / "checkpoints").glob("*"))
    assert not restored.keys
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, home / "mlflow" / "mlflow.db")} == {0o600}


def test_the_private_key_only_on_request(home, tmp_path):
    """With it, it is its user's alone again."""
    assert write_backup(home, tmp_path / "with.tar", keys=True).keys
    lose(home)
    restore_backup(home, tmp_path / "with.tar")
    assert (home / "keys" / "signing.pem").read_text() == "secret"
    assert stat.S_IMODE((home / "keys" / "signing.pem").stat().st_mode) == 0o600


def test_databases_are_whole_while_programs_write(home, tmp_path):
    """Two rows that are always equal are equal in every copy."""
    path, end = home / "monitoring" / "requests.db", threading.Event()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE pair (one INTEGER, two INTEGER)")
        database.execute("INSERT INTO pair VALUES (0, 0)")

    def write():
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as database:
            while not end.is_set():
                with database:
                    database.execute("UPDATE pair SET one = one + 1")
                    database.execute("UPDATE pair SET two = two + 1")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            write_backup(home, tmp_path / f"{number}.tar", keys=False)
    finally:
        end.set()
        writer.join()
    counts = []
    for number in range(3):
        other = tmp_path / f"home{number}"
        restore_backup(other, tmp_path / f"{number}.tar")
        with contextlib.closing(sqlite3.connect(other / "monitoring" / "requests.db")) as database:
            counts.append(database.execute("SELECT one, two FROM pair").fetchone())
    assert all(one == two for one, two in counts)
    assert counts[0][0] < counts[2][0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_backup_is_refused_and_changes_nothing(file, tmp_path, data):
    """A cut end or a changed byte, wherever, unless it is one that says nothing, such as padding."""
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from([whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]])
    )
    (tmp_path / "damaged.tar").write_bytes(damaged)
    other = tmp_path / "other"
    try:
        restore_backup(other, tmp_path / "damaged.tar")
    except (BackupError, BrokenFileError):
        assert not other.exists()
    else:
        shutil.rmtree(tmp_path / "sound", ignore_errors=True)
        restore_backup(tmp_path / "sound", file)
        assert content(other) == content(tmp_path / "sound")
        shutil.rmtree(other)


def content(home):
    return {
        path.relative_to(home): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.suffix != ".lock" and "backup" not in path.name
    }


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "keys/../../escaped", "bin/sh", "keys\0/x"])
def test_names_that_lead_out_are_refused(home, file, tmp_path, name):
    """Even where the hash fits."""
    with tarfile.open(file) as tar:
        stated = json.load(tar.extractfile("backup.json"))
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        digest = backups._add(tar, name, io.BytesIO(b"x"), 1)
        text = json.dumps(stated | {"files": {name: digest}}).encode()
        backups._add(tar, "backup.json", io.BytesIO(text), len(text))
    lose(home)
    with pytest.raises(BackupError):
        restore_backup(home, tmp_path / "evil.tar")
    assert not home.exists()
    assert not (tmp_path / "escaped").exists()


def test_links_are_refused(home, tmp_path):
    """A member that is no file leads wherever it says."""
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("keys/signing.pem")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(BackupError, match="is no file"):
        read_backup(tmp_path / "evil.tar")


def test_a_home_with_state_is_refused(home, file):
    """Nothing of it changes; the message says how to move it away."""
    Ledger(home).append("abandoned", Ledger(home).entries()[0].release)
    before = content(home)
    with pytest.raises(BackupError, match=r"files are not those of the backup(?s:.*)mv "):
        restore_backup(home, file)
    assert content(home) == before


@pytest.mark.parametrize("after", [0, 1, 5, 12])
def test_a_restoration_that_was_cut_short_is_completed(home, file, monkeypatch, after):
    """By the same call, wherever it ended; the ledger comes last, so that a part is never taken for the whole."""
    lose(home)
    whole = home.with_name("whole")
    restore_backup(whole, file)
    write, calls = backups.atomic_file, iter(range(1000))

    def ends(path, **options):
        if next(calls) == after:
            raise KeyboardInterrupt
        return write(path, **options)

    monkeypatch.setattr(backups, "atomic_file", ends)
    with pytest.raises(KeyboardInterrupt):
        restore_backup(home, file)
    monkeypatch.setattr(backups, "atomic_file", write)
    assert Ledger(home).entries() == ()
    restore_backup(home, file)
    assert content(home) == content(whole)


def test_a_backup_of_a_newer_relume_is_refused(home, tmp_path, monkeypatch):
    """It says which schema is known."""
    monkeypatch.setattr(backups, "SCHEMA", SCHEMA + 1)
    write_backup(home, tmp_path / "newer.tar", keys=False)
    lose(home)
    with pytest.raises(ConfigError, match=f"schema is {SCHEMA + 1}, and this relume knows {SCHEMA}"):
        restore_backup(home, tmp_path / "newer.tar")
    assert not home.exists()


def test_no_backup_while_a_release_is_in_progress(home, tmp_path):
    """Ledger and registry would not fit together."""
    with release_lock(home), pytest.raises(ReleaseInProgressError):
        write_backup(home, tmp_path / "backup.tar", keys=False)
    assert not (tmp_path / "backup.tar").exists()


def test_a_damaged_database_is_said(home, tmp_path):
    """On the day of the backup, not on that of the restoration; an earlier backup stays."""
    (tmp_path / "backup.tar").write_text("earlier")
    path = home / "monitoring" / "requests.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(BrokenFileError, match=r"requests\.db"):
        write_backup(home, tmp_path / "backup.tar", keys=False)
    assert (tmp_path / "backup.tar").read_text() == "earlier"


def test_the_commands(home, tmp_path, monkeypatch):
    """One has to say whether the key is in it; what is not in it is said; a server's store is its own."""
    file = str(tmp_path / "backup.tar")

    def run(*words):
        result = CliRunner().invoke(main, ["backup", *words])
        return result.exit_code, result.output

    assert run("write", file)[0] == 2
    code, output = run("write", file, "--without-key")
    assert code == 0
    assert "without the private key\nwarning: " in output
    assert run("check", file)[1].endswith("whole\n")
    lose(home)
    assert run("restore", file)[1].endswith("next    relume up\n")
    assert run("check", str(tmp_path / "nothing.tar")) == (
        2,
        f"error: There is no such backup: {tmp_path}/nothing.tar\n  next: name a file of `relume backup`\n",
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@mlflow.example.com")
    output = run("write", file, "--without-key")[1]
    assert "MLflow's store is https://mlflow.example.com; back it up there" in output
