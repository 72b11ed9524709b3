"""The promotion ledger: one append-only file that says what serves, what served before, and what was interrupted.

Each line is a JSON object that holds the hash of the line before and its own, so a changed, removed
or inserted line is detected. A chain that lost its end is sound in itself, and an emptied file reads as one that was
never written to; so the number of lines and the hash of the last one stand in a second file, the head, as well.
MLflow's aliases have no compare-and-swap and a server forgets; the ledger is what both are restored from.
"""

import dataclasses
import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from relume.errors import LedgerError
from relume.files import write_json
from relume.reading import as_kind, read_as, reading

Event = Literal["registered", "refused", "promoting", "promoted", "rolling_back", "rolled_back", "abandoned"]
OPENING = ("promoting", "rolling_back")
CLOSING = ("promoted", "rolled_back", "abandoned")
_FIRST = "0" * 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """One release of a product.

    Attributes:
        product: Name that clients use, such as `denoise`.
        package: SHA-256 of the package.
        version: Version number in the registry.
        model: Name under which Triton serves it, such as `denoise-1a2b3c4d`.
    """

    product: str
    package: str
    version: str
    model: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """One line of the ledger.

    Attributes:
        index: Position, from 0.
        time: UTC, ISO 8601.
        event: What happened.
        release: To which release.
        details: What else is worth knowing, JSON values only.
        previous: Hash of the line before; 64 zeros in the first.
        hash: SHA-256 over all of the above.
    """

    index: int
    time: str
    event: Event
    release: Release
    details: dict[str, Any]
    previous: str
    hash: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Head:
    """How long the ledger is at least.

    Attributes:
        lines: The number of its lines.
        hash: Of the last of them.
    """

    lines: int
    hash: str


class Ledger:
    """The ledger of one home.

    Args:
        home: RELUME_HOME; the file is `ledger.jsonl` in it, its head `ledger.head.json`.
    """

    def __init__(self, home: Path):
        self.path = home / "ledger.jsonl"
        self.head = home / "ledger.head.json"

    def append(self, event: Event, release: Release, **details: Any) -> LedgerEntry:
        """Adds one line and returns only when it is on the disk.

        A torn last line, left by a crash in the middle of an earlier append, was never reported as
        written and is cut off first.

        Raises:
            LedgerError: The chain is broken; nothing is added to it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"), open(self.path, "a+b") as file:
            entries, whole, _ = self._read()
            line: dict[str, Any] = {
                "index": len(entries),
                "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "event": event,
                "release": dataclasses.asdict(release),
                "details": details,
                "previous": entries[-1].hash if entries else _FIRST,
            }
            line["hash"] = _hash(line)
            file.truncate(whole)
            file.write((json.dumps(line, sort_keys=True) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
            # After the line: a crash between the two leaves a ledger that is longer than its head says.
            write_json(self.head, {"lines": len(entries) + 1, "hash": line["hash"]})
        return _entry(line)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All whole lines, oldest first.

        Raises:
            LedgerError: A line was changed, removed or inserted; the message names the line.
        """
        return self._read()[0]

    def torn(self) -> bool:
        """Whether the file ends in half a line, as a crash during an append leaves it."""
        _, whole, size = self._read()
        return whole != size

    def cut_torn(self) -> None:
        """Removes the half of a line that `torn` tells of.

        Raises:
            LedgerError: The chain is broken; nothing is removed.
        """
        with FileLock(f"{self.path}.lock"):
            _, whole, size = self._read()
            if whole != size:
                os.truncate(self.path, whole)

    def keep_head(self) -> None:
        """Writes the head of a ledger that has none, as those of an earlier relume.

        Raises:
            LedgerError: The chain is broken; nothing is written.
        """
        if not os.path.lexists(self.path) or os.path.lexists(self.head):
            return
        with FileLock(f"{self.path}.lock"):
            if entries := self.entries():
                write_json(self.head, {"lines": len(entries), "hash": entries[-1].hash})

    def products(self) -> list[str]:
        """The products that it has lines of, sorted."""
        return sorted({entry.release.product for entry in self.entries()})

    def current(self, product: str) -> Release | None:
        """The release that the product name points to, or None before the first promotion."""
        served = self._served(product)
        return served[-1] if served else None

    def previous(self, product: str) -> Release | None:
        """The release that a rollback goes back to, or None."""
        served = self._served(product)
        return served[-2] if len(served) > 1 else None

    def promoted(self, product: str) -> tuple[Release, ...]:
        """Every release that ever served, each once, the one that served first at the front."""
        return tuple(dict.fromkeys(entry.release for entry in self._of(product) if entry.event == "promoted"))

    def candidate(self, product: str) -> LedgerEntry | None:
        """The last line, `registered`, `refused` or `abandoned`, of the newest release that was not promoted."""
        found = None
        for entry in self._of(product):
            if entry.event in ("registered", "refused") or (
                found and entry.event == "abandoned" and entry.release == found.release
            ):
                found = entry
            elif found and entry.event == "promoted" and entry.release.package == found.release.package:
                found = None
        return found

    def can_serve(self) -> set[Release]:
        """Of every product, the release that serves and the one that a rollback goes back to."""
        return {release for product in self.products() for release in self._served(product)[-2:]}

    def unfinished(self) -> tuple[LedgerEntry, ...]:
        """The promotions and rollbacks, one a product at most, that were begun and never ended."""
        open_lines: dict[str, LedgerEntry] = {}
        for entry in self.entries():
            if entry.event in OPENING:
                open_lines[entry.release.product] = entry
            elif entry.event in CLOSING:
                open_lines.pop(entry.release.product, None)
        return tuple(open_lines.values())

    def _of(self, product: str) -> list[LedgerEntry]:
        return [entry for entry in self.entries() if entry.release.product == product]

    def _served(self, product: str) -> list[Release]:
        """The releases that led to the one that serves now, which is last; those rolled back from are left out."""
        served: list[Release] = []
        for entry in self._of(product):
            if entry.event == "promoted":
                served.append(entry.release)
            elif entry.event == "rolled_back" and entry.release in served:
                while served[-1] != entry.release:
                    served.pop()
            elif entry.event == "rolled_back":  # to one that had been rolled back from
                served.append(entry.release)
        return served

    def _read(self) -> tuple[tuple[LedgerEntry, ...], int, int]:
        """The entries, the number of bytes that whole lines take, and that of all."""
        # The head first: who appends meanwhile makes the ledger longer than this head says, never shorter.
        head = read_as(_Head, self.head, next_step=self._next_step) if os.path.lexists(self.head) else None
        data = b""
        if os.path.lexists(self.path):
            with reading(self.path, next_step=self._next_step):
                data = self.path.read_bytes()
        entries, whole = self._parse(data)
        if head and not (1 <= head.lines <= len(entries) and entries[head.lines - 1].hash == head.hash):
            why = f"{head.lines} lines were written, {len(entries)} are there: the end was cut off"
            if 1 <= head.lines <= len(entries):
                why = f"line {head.lines} is not the one that {self.head.name} names"
            raise self._broken(len(entries), why)
        return entries, whole, len(data)

    def _parse(self, data: bytes) -> tuple[tuple[LedgerEntry, ...], int]:
        """The entries, and the number of bytes that whole lines take."""
        whole = data.rfind(b"\n") + 1
        entries: list[LedgerEntry] = []
        previous = _FIRST
        for index, text in enumerate(data[:whole].splitlines()):
            try:
                line = json.loads(text)
                claimed = line.pop("hash")
                if _hash(line) != claimed:
                    raise self._broken(index, "the hash in the line is not that of its content")
                if line["previous"] != previous:
                    raise self._broken(index, "it does not follow the line before it: one was changed or removed")
                previous = line["hash"] = claimed
                entries.append(_entry(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise self._broken(index, f"it is not a line of the ledger ({error})") from None
        return tuple(entries), whole

    def _broken(self, index: int, why: str) -> LedgerError:
        return LedgerError(
            "The promotion ledger is broken",
            where=f"{self.path}, line {index + 1}",
            why=why,
            next_step=self._next_step,
        )

    @property
    def _next_step(self) -> str:
        return (
            f"restore {self.path.name} and {self.head.name} from a backup; without one, `relume ledger repair` begins a"
            " new ledger with the releases that the registry remembers"
        )


def _hash(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()


def _entry(line: dict[str, Any]) -> LedgerEntry:
    return as_kind(LedgerEntry, line)
