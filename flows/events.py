"""What makes a retraining begin beside its schedule: new photographs below an S3 prefix.

A look compares the server's listing with the list in use. Photographs that are still being uploaded would begin a
training on half of them, so a retraining is started when two looks have found the same new ones.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from relume.files import write_json
from relume.ingestion.lists import list_in_use
from relume.ingestion.sources import Source, read_sources, scan, single_files
from relume.reading import read_as


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrivals:
    """What a look found.

    Attributes:
        new: Addresses that the list in use does not have, or has with other bytes.
        settled: Whether the look before found the same.
    """

    new: tuple[str, ...]
    settled: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
    hash: str


def look(root: Path, home: Path) -> Arrivals:
    """Lists the S3 prefixes that the list in use names, and remembers what is new.

    Folders are left to the schedule: only their bytes tell whether a file has changed.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.

    Raises:
        SourceError: A prefix cannot be listed, or has no photographs any more.
    """
    path = list_in_use(root, home)
    listed = read_sources(path) if path.is_file() else {"sources": [], "files": []}
    sources = [source for source in listed["sources"] if Source.of(source).place.startswith("s3://")]
    now = single_files(scan(sources)) if sources else []
    known = {entry["address"]: entry["hash"] for entry in single_files(listed)}
    new = sorted((entry["address"], entry["hash"]) for entry in now if known.get(entry["address"]) != entry["hash"])
    found, seen = hashlib.sha256(json.dumps(new).encode()).hexdigest(), home / "arrivals.json"
    before = read_as(_Seen, seen, next_step="remove it").hash if seen.is_file() else ""
    write_json(seen, {"hash": found})
    return Arrivals(new=tuple(address for address, _ in new), settled=found == before)
