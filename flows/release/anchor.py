"""What the registry remembers of the ledger, by which a ledger that was cut, written anew or lost is found and begun.

The ledger and its head lie side by side: who can write the one can write the other. With each product the registry
keeps the number of lines and the hash of the last one, as they were when the product's aliases were set, and the
releases that served.
"""

import ctypes
import dataclasses
import datetime
import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from flows.embedded_triton import EmbeddedTriton
from flows.release.ledger import Ledger, Release
from flows.release.registry import Registry
from relume.errors import BrokenFileError, LedgerError
from relume.files import write_json
from relume.reading import as_kind, read_as, reading
from relume.serving.repository import ANCHOR
from relume.serving.signing import SIGNATURE, keys_of, require_signed, sign_release

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@dataclass(frozen=True, kw_only=True)
class _End:
    """What a release's folder keeps of the ledger: the number of its lines and the hash of the last of them."""

    lines: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """What the registry keeps of the ledger with a product.

    Attributes:
        lines: The number of its lines.
        hash: Of the last of them.
        served: The releases of the product that can serve, the one that does last.
    """

    lines: int
    hash: str
    served: tuple[Release, ...]


def anchor_ledger(ledger: Ledger, registry: Registry, product: str) -> None:
    """Keeps the ledger's present end with a registered product.

    Raises:
        LedgerError: It does not continue what is kept there; that stays.
        ServerUnreachableError: The registry does not answer.
    """
    check_anchors(ledger, read_anchors(registry))
    _keep(ledger, registry, product)


def _keep(ledger: Ledger, registry: Registry, product: str) -> None:
    entries = ledger.entries()
    served = tuple(release for release in (ledger.previous(product), ledger.current(product)) if release)
    anchor = Anchor(lines=len(entries), hash=entries[-1].hash, served=served)
    registry.anchor(product, json.dumps(dataclasses.asdict(anchor)))


def check_anchors(ledger: Ledger, anchors: dict[str, Anchor]) -> None:
    """Compares the ledger with what the registry keeps of it, by product.

    Raises:
        LedgerError: The chain is broken, or the ledger does not continue what the registry keeps.
        BrokenFileError: Its head cannot be read.
    """
    entries = ledger.entries()
    for product, anchor in anchors.items():
        if len(entries) < anchor.lines or entries[anchor.lines - 1].hash != anchor.hash:
            cut = len(entries) < anchor.lines
            raise LedgerError(
                "The promotion ledger is not the one that the registry remembers",
                where=ledger.path,
                why=f"it has {len(entries)} lines, and when {product} was last released it had {anchor.lines}"
                if cut
                else f"line {anchor.lines} is another one than when {product} was last released",
                next_step=f"restore {ledger.path.name} and {ledger.head.name} from a backup; without one,"
                " `relume ledger repair` begins a new ledger with the releases that the registry remembers",
            )


def anchor_in_release(ledger: Ledger, folder: Path) -> None:
    """Keeps the ledger's present end in the folder of a release that is not signed yet; without a line, nothing."""
    if entries := ledger.entries():
        write_json(folder / ANCHOR, {"lines": len(entries), "hash": entries[-1].hash})


def check_releases(ledger: Ledger, home: Path) -> dict[str, int]:
    """Compares the ledger with what the signed releases in the model repository keep of it.

    Returns:
        The number of lines that each keeps, by the release's name. Releases of an earlier relume keep none.

    Raises:
        LedgerError: The ledger does not continue what a release keeps.
        SignatureError: A release is not signed as it must be, so that what it keeps proves nothing.
        BrokenFileError: What a release keeps cannot be read.
    """
    entries, kept = ledger.entries(), {}
    for folder in sorted(EmbeddedTriton(home).repository.glob("[!.]*")):
        if (folder / ANCHOR).is_file():
            require_signed(folder, keys_of(home))
            anchor = read_as(_End, folder / ANCHOR, next_step="remove the folder, then run `relume up`")
            kept[folder.name] = anchor.lines
            if len(entries) < anchor.lines or entries[anchor.lines - 1].hash != anchor.hash:
                raise LedgerError(
                    "The promotion ledger is not the one that a signed release remembers",
                    where=ledger.path,
                    why=f"line {anchor.lines} was the last when {folder.name} was made; it is another one or gone",
                    next_step=f"restore {ledger.path.name} and {ledger.head.name} from a backup; without one,"
                    " `relume ledger repair` begins a new ledger with the releases that the registry remembers",
                )
    return kept


def read_anchors(registry: Registry) -> dict[str, Anchor]:
    """What the registry keeps, by product.

    Raises:
        ServerUnreachableError: It does not answer.
        BrokenFileError: Somebody else wrote there.
    """
    anchors = {}
    for product, text in sorted(registry.anchors().items()):
        with reading(f"MLflow, tag of {product}", next_step="remove the tag `ledger` of this registered model"):
            anchors[product] = as_kind(Anchor, json.loads(text))
    return anchors


def repair_ledger(home: Path, registry: Registry) -> list[str]:
    """Begins a new ledger where the present one is broken or lost, with the releases that the registry remembers.

    The present files are kept beside it. A ledger that is sound stays, but for the half of a line at its end.

    Returns:
        What was done, as sentences for the user.

    Raises:
        ServerUnreachableError: The registry does not answer; nothing was changed.
    """
    ledger, anchors = Ledger(home), read_anchors(registry)
    try:
        check_anchors(ledger, anchors)
        check_releases(ledger, home)
    except (LedgerError, BrokenFileError) as error:
        return _begin_anew(ledger, registry, anchors, error, home)
    if not ledger.torn():
        return []
    ledger.cut_torn()
    return ["half a line, which a crash had left at the end of the ledger, was cut off"]


def _begin_anew(
    ledger: Ledger, registry: Registry, anchors: dict[str, Anchor], error: LedgerError | BrokenFileError, home: Path
) -> list[str]:
    done, word = [f"{error.what}: {error.why}"], f"{datetime.datetime.now(datetime.UTC):broken-%Y%m%dT%H%M%SZ}"
    for path in (ledger.path, ledger.head):
        if os.path.lexists(path):
            path.rename(path.with_name(f"{path.name}.{word}"))
            done.append(f"{path.name} is {path.name}.{word} now")
    for anchor in anchors.values():
        for release in anchor.served:
            ledger.append("promoted", release, repaired=True)
            done.append(f"{release.model} is in the new ledger")
    for folder in EmbeddedTriton(home).repository.glob("[!.]*"):
        if (folder / ANCHOR).is_file():
            require_signed(folder, keys_of(home))  # what nobody trusted has signed is not signed now
            _sign_anew(folder, ledger, keys_of(home))
    for product in ledger.products():  # after the last line: who is killed before this begins anew once more
        _keep(ledger, registry, product)
    return done


def _sign_anew(folder: Path, ledger: Ledger, keys: Path) -> None:
    """Keeps the ledger's present end in a release that is signed; who is killed leaves it signed as before, or anew."""
    aside = folder.parent / ".signed-anew"
    shutil.rmtree(aside, ignore_errors=True)  # of one who was killed
    whole = aside / folder.name  # a signature is for this name
    shutil.copytree(folder, whole, copy_function=os.link)
    (whole / SIGNATURE).unlink()
    anchor_in_release(ledger, whole)
    sign_release(whole, keys)
    _exchange(whole, folder)
    shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> None:
    """Exchanges two folders in one step; where the file system cannot, by renames, a kill between which leaves the
    second missing, and `relume up` writes it again."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return
    if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(first))
    second.rename(first.with_name(f"{first.name}.old"))
    first.rename(second)
