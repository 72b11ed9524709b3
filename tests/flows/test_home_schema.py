"""A home of an earlier relume, and of a later one."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.home_schema import SCHEMA, open_home, schema_of
from flows.release.ledger import Ledger
from flows.turns import turn
from relume.cli import main
from relume.errors import ConfigError, LedgerError

EARLIER = Path(__file__).with_name("release") / "ledger_of_one_product.jsonl"


@pytest.fixture
def earlier(tmp_path):
    """A home as the first relume left it: no file states its schema, and its ledger has no head."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(EARLIER, home / "ledger.jsonl")
    return home


def test_a_new_home_states_its_schema(tmp_path):
    """From the first thing that is written to it."""
    open_home(tmp_path / "home")
    assert json.loads((tmp_path / "home" / "home.json").read_text()) == {"schema": SCHEMA}


def test_a_home_of_an_earlier_relume_is_upgraded(earlier):
    """By the first command that writes to it: from then on a cut ledger is found, which nothing said before."""
    lines = (earlier / "ledger.jsonl").read_bytes()
    assert schema_of(earlier) == 1
    with turn(earlier, earlier, "pipeline"):
        pass
    assert schema_of(earlier) == SCHEMA
    assert (earlier / "ledger.jsonl").read_bytes() == lines
    assert len(Ledger(earlier).entries()) == lines.count(b"\n")
    (earlier / "ledger.jsonl").write_bytes(lines[: lines[:-1].rfind(b"\n") + 1])
    with pytest.raises(LedgerError, match="the end was cut off"):
        Ledger(earlier).entries()


def test_an_upgrade_that_was_cut_short_is_done_again(earlier, monkeypatch):
    """A kill after the head and before the schema was written."""
    with monkeypatch.context() as patch:
        patch.setattr("flows.home_schema.write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            open_home(earlier)
    assert schema_of(earlier) == 1
    open_home(earlier)
    assert schema_of(earlier) == SCHEMA


def test_a_broken_ledger_is_not_upgraded(earlier):
    """Its head would state what is wrong."""
    text = (earlier / "ledger.jsonl").read_text()
    (earlier / "ledger.jsonl").write_text(text.replace("promoted", "refused", 1))
    with pytest.raises(LedgerError):
        open_home(earlier)
    assert not (earlier / "ledger.head.json").exists()
    assert schema_of(earlier) == 1


@pytest.mark.parametrize("command", ["status", "up", "rollback", "gc", "ledger show"])
def test_a_home_of_a_newer_relume_is_refused(earlier, monkeypatch, command):
    """By every command, and by every flow; nothing in it changes."""
    (earlier / "home.json").write_text(json.dumps({"schema": SCHEMA + 1}))
    monkeypatch.setenv("RELUME_HOME", str(earlier))
    before = {path: path.read_bytes() for path in earlier.rglob("*")}
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 2
    assert result.output.startswith("error: A newer relume wrote this; nothing was changed")
    with pytest.raises(ConfigError, match="update relume"):
        open_home(earlier)
    assert {path: path.read_bytes() for path in earlier.rglob("*")} == before


def test_the_help_is_there_for_any_home(earlier, monkeypatch):
    """Who reads it may look for what to do about the home."""
    (earlier / "home.json").write_text("{")
    monkeypatch.setenv("RELUME_HOME", str(earlier))
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    result = CliRunner().invoke(main, ["status"])
    assert (result.exit_code, "home.json" in result.output) == (2, True)
