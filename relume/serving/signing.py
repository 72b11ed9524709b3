"""Signatures of releases: a server loads the folder of a release only if a key that its home trusts has signed it.

A signature covers the name of the folder and the bytes of all its files. It is that of OpenSSF Model Signing, ECDSA
over P-256, made and checked without a network. The home has a pair of keys, made at the first release:

    keys/signing.pem         what signs; its user alone may read it
    keys/trusted/KEY.pub     what checks; KEY begins the SHA-256 of the file, and names who signed

A new pair is made when signing.pem was moved away; what the old one signed stays trusted until its public key is
removed. A public key that is added makes what another machine signed trusted.
"""

import base64
import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from relume.errors import ReleaseError
from relume.files import atomic_file, write_bytes
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
        from model_signing.signing import Config

        key = _signing_key(keys)
        with reading(key, next_step="move it away: the next release makes another one, and old signatures stay valid"):
            signing = Config().use_elliptic_key_signer(private_key=key)
        with tempfile.TemporaryDirectory() as scratch:
            signing.set_hashing_config(_hashing()).sign(release, Path(scratch, SIGNATURE))
            write_bytes(release / SIGNATURE, Path(scratch, SIGNATURE).read_bytes())
    require_signed(release, keys)


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
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        pair = ec.generate_private_key(ec.SECP256R1())
        public = pair.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        private = pair.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # The public key first: what the private one signs must be trusted.
        name = hashlib.sha256(public).hexdigest()[:_KEY_LENGTH]
        for path, data, mode in ((keys / "trusted" / f"{name}.pub", public, 0o644), (key, private, 0o600)):
            with atomic_file(path, mode=mode) as temporary:
                temporary.write_bytes(data)
    return key
