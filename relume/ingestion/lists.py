"""Which list of photographs is in use: the user's own, in the home, or the one that the checkout tracks.

A user's own list names private folders, so it never enters the working tree or git's history: a pipeline run carries it
as `sources.json` in its private commit (`flows.run_commit`). What works in the checkout, such as `dvc repro`, reads the
tracked list.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from relume.home import private_home
from relume.ingestion.dvc_repositories import SCHEME, local_repository
from relume.ingestion.layouts import TABLE
from relume.ingestion.sources import Source, SourcesChange, read_sources, write_sources

LIST = "sources.json"


def own_list(home: Path) -> Path | None:
    """The user's own list, or None while the tracked one is in use."""
    path = home / LIST
    return path if path.is_file() else None


def source_folders(path: Path) -> list[Path]:
    """What a list names as sources on this machine: folders, archives and repositories; of a table, its folder."""
    folders = []
    for source in map(Source.of, read_sources(path)["sources"]):
        if (address := urlsplit(source.place)).scheme in ("file", "archive"):
            named = Path(url2pathname(address.path))
            folders.append(named.parent if source.layout == TABLE else named)
        elif source.place.startswith(SCHEME) and (repository := local_repository(source.place)):
            folders.append(Path(repository))
    return folders


def list_in_use(root: Path, home: Path) -> Path:
    """The list that a pipeline run of this checkout ingests; it may not exist yet."""
    return own_list(home) or root / LIST


def update_list(
    root: Path, home: Path, sources: Sequence[str | Path] | None = None, *, tracked: bool = False
) -> SourcesChange:
    """Scans sources and brings the list in use up to date.

    Args:
        root: The checkout.
        home: RELUME_HOME, which holds the user's own list. One that equals the tracked list is removed.
        sources: They become the user's own list; None scans again what the list in use names.
        tracked: Write the tracked list instead; the user's own one is removed.

    Returns:
        What changed in comparison with the list that was in use.

    Raises:
        SourceError: A source cannot be listed, or a list cannot be read; nothing was written.
    """
    own, in_checkout, used = home / LIST, root / LIST, list_in_use(root, home)
    to_checkout = tracked or (sources is None and used == in_checkout)
    if not to_checkout:
        private_home(home)
    change = write_sources(sources, in_checkout if to_checkout else own, instead_of=used)
    if to_checkout or (in_checkout.is_file() and own.read_bytes() == in_checkout.read_bytes()):
        own.unlink(missing_ok=True)
        change = dataclasses.replace(change, path=in_checkout)
    return change
