"""The versions of the curated data that git knows: found, named and read from DVC's cache.

A version is what `curate` made, named by the first digits of its hash in dvc.lock. Each commit that has a dvc.lock has
one, also the commits that pin packages; so a model's package leads to the data that trained it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.graph import read_store
from flows.lock import hashes_of, read_lock
from flows.release.ledger import Ledger
from flows.run_commit import REF, RepositoryError, check_repository, git
from relume.curation.comparison import CuratedTables, read_curated_tables
from relume.errors import BrokenFileError, UserError
from relume.reading import read_as, reading

CURATED = "data/curated"
_DIGITS = 8
_PACKAGE = f"{REF}/package-"
_FETCH = "run `dvc fetch {path}` at one of its commits, or build it again with `relume pipeline run`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataVersion:
    """A version of the curated data.

    Attributes:
        hash: That of data/curated in dvc.lock, without DVC's ending.
        commits: Those whose dvc.lock has it and the one before them has another, newest first.
        date: When the first of them was made, ISO 8601; empty for one that is in no commit.
        here: Whether it is that of the working tree.
        packages: By the first digits of the SHA-256 of each package whose model it trained, its models in the ledger.
    """

    hash: str
    commits: tuple[str, ...] = ()
    date: str = ""
    here: bool = False
    packages: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The first digits of its hash."""
        return self.hash[:_DIGITS]

    @property
    def trained(self) -> list[str]:
        """For people: each package, with its models in brackets."""
        return [f"{package} ({', '.join(models)})" if models else package for package, models in self.packages.items()]


@dataclasses.dataclass(frozen=True)
class _Folder:
    """A file of a folder in DVC's cache."""

    md5: str
    relpath: str


def data_versions(root: Path, home: Path) -> list[DataVersion]:
    """All versions, that of the working tree first, then the newest first.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME, whose ledger names the releases.

    Raises:
        RepositoryError: The folder is not the top of a git working tree.
    """
    check_repository(root)
    released = _releases(home)
    found: dict[str, DataVersion] = {}
    if here := _of_lock(read_lock(root)):
        found[here] = DataVersion(hash=here, here=True)
    for commit, date in _commits(root):
        if version := _of_commit(root, commit):
            known = found.get(version, DataVersion(hash=version))
            found[version] = dataclasses.replace(known, commits=(*known.commits, commit), date=date)
    for line in git(root, "for-each-ref", "--format=%(refname) %(objectname)", f"{REF}/package-*").splitlines():
        ref, commit = line.split()
        package = ref.removeprefix(_PACKAGE)
        if version := _of_commit(root, commit):
            known = found.get(version, DataVersion(hash=version))
            models = released.get(package, ())
            found[version] = dataclasses.replace(known, packages={**known.packages, package: models})
    return sorted(found.values(), key=lambda version: (version.here, version.date), reverse=True)


def find_version(root: Path, home: Path, name: str) -> DataVersion:
    """The version that a name stands for.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        name: First digits of a version or of a package, a model of the ledger such as `denoise-1a2b3c4d`, or any
            revision of git.

    Raises:
        UserError: It stands for none, or for several.
    """
    versions = data_versions(root, home)
    by_hash = [version for version in versions if version.hash.startswith(name) and len(name) >= 4]
    by_package = [
        version for version in versions if any(_is_of(name, *package) for package in version.packages.items())
    ]
    matching = by_hash or by_package
    if not matching:
        try:
            wanted = _of_commit(root, git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"))
        except RepositoryError:
            wanted = None
        matching = [version for version in versions if version.hash == wanted] or (
            [DataVersion(hash=wanted)] if wanted else []
        )
    if len(matching) != 1:
        raise UserError(
            "No version of the data has this name" if not matching else "Several versions of the data have this name",
            where=name,
            why="it is no version, package or model of the ledger, nor a commit whose dvc.lock has data/curated"
            if not matching
            else ", ".join(version.name for version in matching),
            next_step="run `relume data log` to see them all",
        )
    return matching[0]


def read_version(root: Path, version: DataVersion) -> CuratedTables:
    """The tables of a version, from DVC's cache.

    Raises:
        BrokenFileError: They are not in the cache, or are damaged.
    """
    objects = read_store(root).cache / "files" / "md5"
    again = _FETCH.format(path=CURATED)
    listing = _object(objects, f"{version.hash}.dir")
    if not listing.is_file():
        what, where = "The tables of this version are not in DVC's cache", f"{CURATED} {version.name}"
        raise BrokenFileError(what, where=where, next_step=again)
    members = {file.relpath: _object(objects, file.md5) for file in read_as(list[_Folder], listing, next_step=again)}
    with reading(listing, next_step=again):
        return read_curated_tables(
            {name: members[name] for name in ("images.csv", "patches.parquet")}
            | {name: members[name] for name in ("scores.parquet",) if name in members}
        )


def _is_of(name: str, package: str, models: tuple[str, ...]) -> bool:
    """Whether a name is that of a package, or of a model made of it, by the first digits of the package or in full."""
    digits = name.rpartition("-")[2]
    return (len(digits) >= 4 and package.startswith(digits)) or name in models


def _releases(home: Path) -> dict[str, tuple[str, ...]]:
    """The models of the ledger by the first digits of their packages."""
    models: dict[str, dict[str, None]] = {}
    for entry in Ledger(home).entries():
        models.setdefault(entry.release.package[:16], {})[entry.release.model] = None
    return {package: tuple(names) for package, names in models.items()}


def _commits(root: Path) -> Iterator[tuple[str, str]]:
    """The commits on branches and tags that changed dvc.lock, newest first, with their dates."""
    lines = git(root, "log", "--branches", "--tags", "HEAD", "--format=%H %cI", "--", "dvc.lock").splitlines()
    for line in lines:
        commit, _, date = line.partition(" ")
        yield commit, date


def _of_commit(root: Path, commit: str) -> str | None:
    try:
        return _of_lock(git(root, "show", f"{commit}:dvc.lock"))
    except RepositoryError:  # a commit without one
        return None


def _of_lock(text: str) -> str | None:
    return dict(hashes_of("outs", text)).get(CURATED, "").removesuffix(".dir") or None


def _object(objects: Path, md5: str) -> Path:
    return objects / md5[:2] / md5[2:]
