"""What the registry remembers of the ledger, in a real MLflow store."""

import ctypes
import errno
import json
import shutil

import pytest
from click.testing import CliRunner

from flows.embedded_triton import EmbeddedTriton
from flows.release import anchor
from flows.release.anchor import (
    anchor_in_release,
    anchor_ledger,
    check_anchors,
    check_releases,
    read_anchors,
    repair_ledger,
)
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from relume.cli import main
from relume.errors import LedgerError, RelumeError
from relume.serving.signing import SignatureError, keys_of, require_signed, sign_release
from tests.flows.release.test_ledger import A, B, C, promote, release

OTHER = release("d", "deblur")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose registry knows two products; to be copied, for a new store takes seconds."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry(home)
    for product in ("denoise", "deblur"):
        registry._client.create_registered_model(product)
    return home


@pytest.fixture
def registry(home, tmp_path, monkeypatch):
    """The registry of the test's home."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("RELUME_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry(tmp_path)


@pytest.fixture
def ledger(tmp_path, registry):
    """A ledger of two products, which the registry remembers: 6 lines when `deblur`, 4 when `denoise` was released."""
    found = Ledger(tmp_path)
    promote(found, A, B)
    anchor_ledger(found, registry, "denoise")
    promote(found, OTHER)
    anchor_ledger(found, registry, "deblur")
    return found


def said(*command):
    """What `relume ledger` prints, and how it ends."""
    result = CliRunner().invoke(main, ["ledger", *command])
    return result.exit_code, result.output


def test_a_sound_ledger_goes_on_from_what_is_remembered(ledger, registry):
    """Also when it grew since."""
    promote(ledger, C)
    check_anchors(ledger, read_anchors(registry))
    assert said("verify") == (0, "8 lines, whole and in their order; the registry remembers 6 of them\n")
    assert said("repair") == (0, "there is nothing to repair\n")


def cut(ledger):
    """Removes the last release with its head, as somebody would who knows both files."""
    lines = ledger.path.read_bytes().splitlines(keepends=True)[:4]
    ledger.path.write_bytes(b"".join(lines))
    ledger.head.write_text(json.dumps({"lines": 4, "hash": json.loads(lines[-1])["hash"]}))


def rewrite(ledger):
    """Another history of as many lines, sound in itself."""
    forget(ledger)
    promote(ledger, A, C, OTHER)


def forget(ledger):
    """Both files are gone."""
    ledger.path.unlink()
    ledger.head.unlink()


def damage(ledger):
    """The head is no JSON, and a line was changed."""
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b"promoting", b"promoted_", 1))
    ledger.head.write_text("{")


@pytest.mark.parametrize(("harm", "exit_code"), [(cut, 1), (rewrite, 1), (forget, 1), (damage, 2)])
def test_what_was_done_to_both_files_is_found_and_repaired(ledger, registry, tmp_path, harm, exit_code):
    """A cut end, another history, a lost and a broken ledger are said, and made as the registry remembers them."""
    harm(ledger)
    with pytest.raises(RelumeError):
        check_anchors(ledger, read_anchors(registry))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("ledger*json*")}
    code, output = said("verify")
    assert code == exit_code
    assert "ledger" in output
    repaired = repair_ledger(tmp_path, registry)
    assert [ledger.previous("denoise"), ledger.current("denoise"), ledger.current("deblur")] == [A, B, OTHER]
    assert all(any(release.model in line for line in repaired) for release in (A, B, OTHER))
    kept = {path.name.partition(".broken")[0]: path.read_bytes() for path in tmp_path.glob("ledger*broken*")}
    assert kept == {name: data for name, data in before.items() if not name.endswith("lock")}
    assert said("verify") == (0, "3 lines, whole and in their order; the registry remembers 3 of them\n")


def test_a_ledger_that_was_rewritten_does_not_become_what_is_remembered(ledger, registry):
    """The next release warns, and the registry keeps what it had."""
    remembered = read_anchors(registry)
    rewrite(ledger)
    with pytest.raises(LedgerError, match="line 6 is another one than when deblur was last released"):
        anchor_ledger(ledger, registry, "denoise")
    assert read_anchors(registry) == remembered


def test_half_a_line_is_cut_off(ledger):
    """A crash in an append leaves it; nothing else changes."""
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"index": 6')
    assert said("repair")[1] == "half a line, which a crash had left at the end of the ledger, was cut off\n"
    assert ledger.path.read_bytes() == whole


def test_the_lines_of_a_product_are_shown(ledger):
    """Number, time, event and release."""
    code, output = said("show", "--product", "deblur")
    rows = [line.split() for line in output.splitlines()]
    assert code == 0
    assert [(row[0], *row[2:]) for row in rows] == [
        ("5", "promoting", "deblur-dddddddd"),
        ("6", "promoted", "deblur-dddddddd"),
    ]


def signed(home, ledger, model):
    """The folder of a release, as `publish_signed` leaves it."""
    folder = EmbeddedTriton(home).repository / model
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text("name")
    anchor_in_release(ledger, folder)
    sign_release(folder, keys_of(home))
    return folder


def test_a_signed_release_remembers_the_ledger_as_well(ledger, registry, tmp_path):
    """A ledger that was cut is found by it alone where the registry was cut, too; repair signs it anew."""
    signed(tmp_path, ledger, "deblur-dddddddd")
    promote(ledger, C)
    assert said("verify")[1].endswith("the registry remembers 6 of them, 1 signed release up to 6\n")
    cut(ledger)
    registry._client.delete_registered_model_tag("deblur", "ledger")
    with pytest.raises(LedgerError, match="line 6 was the last when deblur-dddddddd was made"):
        check_releases(ledger, tmp_path)
    assert said("verify")[0] == 1
    assert "is in the new ledger" in said("repair")[1]
    assert said("verify")[0] == 0


@pytest.mark.parametrize("step", range(6))
def test_a_kill_while_releases_are_signed_anew_leaves_all_signed(ledger, registry, tmp_path, monkeypatch, step):
    """At every step of it: what serves can be loaded, and the next repair does the rest."""
    folders = [signed(tmp_path, ledger, model) for model in ("deblur-dddddddd", "denoise-bbbbbbbb")]
    cut(ledger)
    names = ["anchor_in_release", "sign_release", "_exchange"]
    name, calls = names[step % 3], []
    original = getattr(anchor, name)

    def killed(*arguments):
        calls.append(name)
        if len(calls) > step // 3:  # of the first release, or of the second
            raise SystemExit(137)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(anchor, name, killed)
        with pytest.raises(SystemExit):
            repair_ledger(tmp_path, registry)
    for folder in folders:
        require_signed(folder, keys_of(tmp_path))
    repair_ledger(tmp_path, registry)
    assert said("verify")[0] == 0
    assert sorted(path.name for path in folders[0].parent.iterdir()) == [folder.name for folder in folders]


def test_folders_are_exchanged_where_the_file_system_cannot(ledger, registry, tmp_path, monkeypatch):
    """NFS refuses it; what a release remembers is signed anew all the same, and nothing is left beside it."""
    folder = signed(tmp_path, ledger, "deblur-dddddddd")
    cut(ledger)

    class Refusing:
        def renameat2(self, *_):
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing())
    repair_ledger(tmp_path, registry)
    assert said("verify")[0] == 0
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_release_remembers_is_part_of_what_was_signed(ledger, tmp_path):
    """Who cuts the ledger cannot cut that without the key."""
    folder = signed(tmp_path, ledger, "deblur-dddddddd")
    text = folder / "ledger.json"
    text.write_text(text.read_text().replace("6", "4"))
    with pytest.raises(SignatureError):
        check_releases(ledger, tmp_path)
