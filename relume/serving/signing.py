"""Signatures of releases: a server loads the folder of a release only if a key that its home trusts has signed it.

A signature covers the name of the folder and the bytes of all its files. It is that of OpenSSF Model Signing, ECDSA
over P-256, made and checked without a network. The home has a pair of keys, made at the first release:

    keys/signing.pem         what signs; its user alone may read it
    keys/trusted/KEY.pub     what checks; KEY begins the SHA-256 of the file, and names who signed

`rotate_key` makes a new pair, signs with it what the old one signed, and removes the old one. When signing.pem was
moved away a new pair is made as well, and what the old one signed stays trusted until its public key is removed. A
public key that is added makes what another machine signed trusted.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relume.errors import ReleaseError
from relume.files import atomic_file, storing
from relume.reading import reading

if TYPE_CHECKING:
    from model_signing.hashing import Config as Hashing

SIGNATURE = "release.sig"
_KEY_LENGTH = 16  # characters of a key's name


class SignatureError(ReleaseError):
    """A release is not signed by a key that the home trusts, or is not what was signed; no server is given it."""


def keys_of(home: Path) -> Path:
    """The folder of a home's keys."""
    return home / "keys"


def sign_release(release: Path, keys: Path) -> None:
    """Signs the folder of a release in which there is no signature yet, with the home's key, which is made if need be.

    Args:
        release: The folder, named as Triton serves it.
        keys: The folder of the keys.

    Raises:
        SignatureError: It is signed already, but not as `require_signed` wants it.
        BrokenFileError: The key is damaged.
    """
    if not (release / SIGNATURE).is_file():
        _sign(release, _signing_key(keys))
    require_signed(release, keys)


def _sign(release: Path, key: Path) -> None:
    """Signs a folder with a key, in place of the signature that it has."""
    from model_signing.signing import Config

    with reading(key, next_step="move it away: the next release makes another one, and old signatures stay valid"):
        signing = Config().use_elliptic_key_signer(private_key=key)
    # Beside the folder: what a kill left in it would be a further file, which no signature allows.
    whole = release.with_name(f".{release.name}.{SIGNATURE}")
    with storing(whole):
        signing.set_hashing_config(_hashing()).sign(release, whole)
        with open(whole, "rb") as file:
            os.fsync(file.fileno())
        os.replace(whole, release / SIGNATURE)


def rotate_key(releases: Iterable[Path], keys: Path) -> str:
    """Makes a new pair of keys, signs with it what the old one signed, and ends the trust in the old one.

    A call that was cut short is completed by the next one. Keys of other machines stay trusted.

    Args:
        releases: The folders of all releases that may be served.
        keys: The folder of the keys.

    Returns:
        The name of the new key.

    Raises:
        SignatureError: A release is not signed as it must be; no signature was changed.
        BrokenFileError: A key is damaged.
    """
    folders, old, new = list(releases), keys / "signing.pem", keys / "signing.new.pem"
    for release in folders:
        require_signed(release, keys)
    if not new.is_file():
        _make_pair(keys, new)
    replaced, name = _name_of(old) if old.is_file() else None, _name_of(new)
    for release in folders:
        if require_signed(release, keys) == replaced:
            _sign(release, new)
    if replaced:
        (keys / "trusted" / f"{replaced}.pub").unlink(missing_ok=True)
    os.replace(new, old)  # last: until then the next call knows that this one was not completed
    return name


def signing_key(keys: Path) -> str | None:
    """The name of the key that signs a home's releases; None before the first one."""
    key = keys / "signing.pem"
    return _name_of(key) if key.is_file() else None


def _name_of(key: Path) -> str:
    """The name of a private key's public one."""
    from cryptography.hazmat.primitives import serialization

    with reading(key, next_step="move it away: the next release makes another one"):
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    return _named(private.public_key())[0]


def _named(public: Any) -> tuple[str, bytes]:
    """The name of a public key, and its file."""
    from cryptography.hazmat.primitives import serialization

    data = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(data).hexdigest()[:_KEY_LENGTH], data


def require_signed(release: Path, keys: Path) -> str:
    """Checks that a folder is the release that a trusted key has signed.

    Args:
        release: The folder, named as Triton serves it.
        keys: The folder of the keys.

    Returns:
        The name of the key.

    Raises:
        SignatureError: It is not.
    """
    from model_signing.verifying import Config

    signature = release / SIGNATURE
    if not signature.is_file():
        raise _refused(release, "it has no signature", next_step="run `relume up`, which signs it if it is its package")
    try:
        stated = json.loads(signature.read_text(encoding="utf-8"))
        name = str(stated["verificationMaterial"]["publicKey"]["hint"])[:_KEY_LENGTH]
        signed = json.loads(base64.b64decode(stated["dsseEnvelope"]["payload"]))["subject"][0]["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise _refused(release, "its signature cannot be read") from None
    trusted = {path.stem: path for path in (keys / "trusted").glob("*.pub")}
    if name not in trusted:
        next_step = f"if you trust that key, copy its public key to {keys / 'trusted'}; else {_AGAIN}"
        raise _refused(release, f"the key {name} is not among the trusted ones", next_step=next_step)
    try:
        checking = Config().use_elliptic_key_verifier(public_key=trusted[name])
        checking.set_hashing_config(_hashing()).verify(release, signature)
    except Exception as error:  # the library raises many kinds over a signature that is not its own
        why = str(error).partition(": Expected ")[0].replace('["', "").replace('"]', "")
        raise _refused(release, why or "the signature is not one of that key") from None
    if signed != release.name:
        raise _refused(release, f"it was signed as {signed}")
    return name


_AGAIN = "remove its folder, then run `relume up`, which writes it again from its package"


def _refused(release: Path, why: str, *, next_step: str = _AGAIN) -> SignatureError:
    return SignatureError(
        "The release is not one that a trusted key has signed; no server loads it",
        where=release,
        why=why,
        next_step=next_step,
    )


def _hashing() -> "Hashing":
    """Of all files but the signature: the library leaves out those of git, too, unless it is asked not to."""
    from model_signing.hashing import Config

    return Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _signing_key(keys: Path) -> Path:
    """The private key, made with its public one if it is not there."""
    key = keys / "signing.pem"
    if not key.is_file():
        _make_pair(keys, key)
    return key


def _make_pair(keys: Path, key: Path) -> None:
    """Makes a private key at a place, and its public one among the trusted."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pair = ec.generate_private_key(ec.SECP256R1())
    name, public = _named(pair.public_key())
    private = pair.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The public key first: what the private one signs must be trusted.
    for path, data, mode in ((keys / "trusted" / f"{name}.pub", public, 0o644), (key, private, 0o600)):
        with atomic_file(path, mode=mode) as temporary:
            temporary.write_bytes(data)
