"""Signatures of releases, checked by OpenSSF's library and, of the key's bytes, by cryptography alone."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relume import files
from relume.errors import BrokenFileError
from relume.serving.signing import SIGNATURE, SignatureError, require_signed, rotate_key, sign_release


@pytest.fixture
def keys(tmp_path):
    """Where a home's keys will be."""
    return tmp_path / "keys"


@pytest.fixture
def folder(tmp_path):
    """A folder as that of a release."""
    folder = tmp_path / "models" / "denoise-1"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text("name")
    (folder / "1" / "model.onnx").write_bytes(b"weights")
    (folder / "1" / "__pycache__").touch()
    return folder


def test_the_signature_is_that_of_the_key_over_the_hashes_of_all_files(folder, keys):
    """As computed here from the envelope and from the files; the private key is its user's alone."""
    sign_release(folder, keys)
    name = require_signed(folder, keys)
    assert os.stat(keys / "signing.pem").st_mode & 0o777 == 0o600
    public = (keys / "trusted" / f"{name}.pub").read_bytes()
    assert hashlib.sha256(public).hexdigest().startswith(name)
    envelope = json.loads((folder / SIGNATURE).read_text())["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    serialization.load_pem_public_key(public).verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    stated = {each["name"]: each["digest"] for each in json.loads(payload)["predicate"]["resources"]}
    files = ("config.pbtxt", "1/model.onnx", "1/__pycache__")
    assert stated == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


CHANGES = {
    "another byte": lambda folder: (folder / "1" / "model.onnx").write_bytes(b"Weights"),
    "a further file": lambda folder: (folder / "1" / "model.py").touch(),
    "a hidden file": lambda folder: (folder / ".gitignore").touch(),
    "a missing file": lambda folder: (folder / "config.pbtxt").unlink(),
    "a link": lambda folder: (folder / "1" / "model.py").symlink_to("model.onnx"),
    "no signature": lambda folder: (folder / SIGNATURE).unlink(),
    "half a signature": lambda folder: os.truncate(folder / SIGNATURE, 200),
    "a nested signature": lambda folder: (folder / SIGNATURE).write_text("[" * 100_000),
    "a key that is no text": lambda folder: _with(folder, "publicKey", {"hint": []}, part="verificationMaterial"),
    "another's signature": lambda folder: _with(folder, "signatures", [{"sig": base64.b64encode(b"x" * 70).decode()}]),
    "another payload": lambda folder: _with(
        folder, "payload", base64.b64encode(b'{"subject":[{"name":"x"}]}').decode()
    ),
}


def _with(folder, key, value, part="dsseEnvelope"):
    stated = json.loads((folder / SIGNATURE).read_text())
    stated[part][key] = value
    (folder / SIGNATURE).write_text(json.dumps(stated))


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_refused(folder, keys, change):
    """Whatever it is, by one message that names the folder; nor is it signed again while a signature is there."""
    sign_release(folder, keys)
    CHANGES[change](folder)
    with pytest.raises(SignatureError, match="denoise-1") as refused:
        require_signed(folder, keys)
    assert refused.value.why
    if (folder / SIGNATURE).exists():
        with pytest.raises(SignatureError):
            sign_release(folder, keys)


def test_a_release_under_another_name_is_refused(folder, keys):
    """So that an old one cannot be put in the place of a new one."""
    sign_release(folder, keys)
    other = shutil.copytree(folder, folder.with_name("denoise-2"))
    with pytest.raises(SignatureError, match="signed as denoise-1"):
        require_signed(other, keys)


def test_a_foreign_key_is_trusted_when_its_public_key_is_there(folder, keys, tmp_path):
    """And no longer when that is removed."""
    sign_release(folder, tmp_path / "others")
    sign_release(shutil.copytree(folder, folder.with_name("mine"), ignore=lambda *_: [SIGNATURE]), keys)
    with pytest.raises(SignatureError, match="not among the trusted"):
        require_signed(folder, keys)
    (public,) = (tmp_path / "others" / "trusted").iterdir()
    trusted = shutil.copy(public, keys / "trusted")
    assert require_signed(folder, keys) == public.stem
    os.unlink(trusted)
    with pytest.raises(SignatureError, match="not among the trusted"):
        require_signed(folder, keys)


def test_a_key_that_was_moved_away_is_followed_by_a_new_one(folder, keys):
    """What the old one signed stays trusted."""
    sign_release(folder, keys)
    old = require_signed(folder, keys)
    (keys / "signing.pem").unlink()
    other = shutil.copytree(folder, folder.with_name("denoise-2"), ignore=lambda *_: [SIGNATURE])
    sign_release(other, keys)
    assert require_signed(folder, keys) == old != require_signed(other, keys)


def test_a_damaged_key_is_named(folder, keys):
    """With what to do; nothing is signed."""
    keys.mkdir()
    (keys / "signing.pem").write_text("no key")
    with pytest.raises(BrokenFileError, match=r"signing\.pem"):
        sign_release(folder, keys)
    assert not (folder / SIGNATURE).exists()


def test_nothing_is_imported_before_it_is_needed():
    """Sigstore's clients take 0.4 s, for which commands that sign nothing have no use."""
    code = "import sys, relume.serving.repository; print('model_signing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.fixture
def releases(folder, keys):
    """Two releases that the home's key signed, and one of another machine, whose key is trusted."""
    other = keys.with_name("other")
    folders = [folder, *(folder.with_name(f"denoise-{number}") for number in (2, 3))]
    for each in folders[1:]:
        shutil.copytree(folder, each)
    for each in folders[:2]:
        sign_release(each, keys)
    sign_release(folders[2], other)
    shutil.copy(next((other / "trusted").iterdir()), keys / "trusted")
    return folders


def test_a_rotated_key_signs_all_that_the_old_one_signed(releases, keys):
    """The old one is no longer trusted; another machine's is, and its signature stays as it is."""
    before = [require_signed(each, keys) for each in releases]
    old, foreign = (keys / "signing.pem").read_bytes(), (releases[2] / SIGNATURE).read_bytes()
    name = rotate_key(releases, keys)
    assert [require_signed(each, keys) for each in releases] == [name, name, before[2]]
    assert name not in before
    assert (releases[2] / SIGNATURE).read_bytes() == foreign
    assert sorted(path.stem for path in (keys / "trusted").iterdir()) == sorted([name, before[2]])
    assert (keys / "signing.pem").read_bytes() != old
    assert os.stat(keys / "signing.pem").st_mode & 0o777 == 0o600
    (releases[0] / SIGNATURE).unlink()
    (keys / "signing.pem").write_bytes(old)  # who kept the old key signs nothing that is loaded
    with pytest.raises(SignatureError, match="not among the trusted"):
        sign_release(releases[0], keys)


@pytest.mark.parametrize("steps", range(7))
def test_a_rotation_that_was_cut_short_is_completed(releases, keys, monkeypatch, steps):
    """At any moment every release is signed by a trusted key; the next call ends with one key of this home."""
    left, replaced = iter(range(steps)), require_signed(releases[0], keys)

    def counting(call):
        def counted(*args, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return call(*args, **options)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", counting(os.replace))
        patch.setattr(type(keys), "unlink", counting(type(keys).unlink))
        with contextlib.suppress(KeyboardInterrupt):
            rotate_key(releases, keys)
            assert steps > 4
    for each in releases:
        require_signed(each, keys)
    name = rotate_key(releases, keys)
    assert [require_signed(each, keys) == name for each in releases] == [True, True, False]
    assert not (keys / "trusted" / f"{replaced}.pub").exists()
    assert not (keys / "signing.new.pem").exists()


def test_a_release_that_is_not_as_it_was_signed_is_not_signed_anew(releases, keys):
    """A rotation would make it trusted."""
    (releases[0] / "1" / "model.onnx").write_bytes(b"Weights")
    before = [(each / SIGNATURE).read_bytes() for each in releases]
    with pytest.raises(SignatureError):
        rotate_key(releases, keys)
    assert [(each / SIGNATURE).read_bytes() for each in releases] == before
