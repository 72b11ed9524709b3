"""Finds what nothing refers to any more, and removes it.

Never found, whatever its age: what a line of the ledger refers to, or of a ledger that was kept beside it; what a
dvc.lock names, in the working tree or a commit; what was written in the last `days`.
"""

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from flows.garbage.cache import unused_files
from flows.graph import read_store
from flows.release.anchor import check_anchors, read_anchors
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from flows.release.served_product import release_lock
from flows.run_commit import REF, forget_old_runs, git, old_runs
from flows.turns import turn
from relume.counts import counted
from relume.params import GarbageSettings

_PACKAGE_REF = f"{REF}/package-"
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}(\..+)?")  # the names of relume.files, before the final ones
_WRITTEN = ("checkpoints", "engines", "keys", "packages", "reports", "reports/*", "triton/models")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Garbage:
    """What can be removed.

    Attributes:
        runs: Folders of pipeline runs.
        refs: Of git, to the commits of packages that were never registered.
        cache: Files of DVC's cache, in the order in which they go.
        checkpoints: Files of trainings that nobody resumed.
        unfinished: Files and folders that a kill left before they had their final name.
        packages: Runs of the registry with packages that no ledger knows.
        megabytes: Of each of these, by its name, as far as it lies on this machine.
        notes: What was left alone, and why.
    """

    runs: Sequence[Path]
    refs: Sequence[str]
    cache: Sequence[Path]
    checkpoints: Sequence[Path]
    unfinished: Sequence[Path]
    packages: Sequence[str]
    megabytes: dict[str, float]
    notes: Sequence[str]

    def lines(self) -> list[str]:
        """For people: how much of each kind, with its names where they are few."""
        kinds = {
            "runs": (counted(len(self.runs), "old pipeline run"), [path.name for path in self.runs]),
            "refs": (counted(len(self.refs), "commit") + " of packages that were never registered", self.refs),
            "cache": (counted(len(self.cache), "file") + " of DVC's cache that no dvc.lock names", []),
            "checkpoints": (
                counted(len(self.checkpoints), "file") + " of trainings that nobody resumed",
                [path.name for path in self.checkpoints],
            ),
            "unfinished": (counted(len(self.unfinished), "half-written file"), list(map(str, self.unfinished))),
            "packages": (counted(len(self.packages), "package") + " that no line of the ledger names", self.packages),
        }
        lines = []
        for kind, (what, names) in kinds.items():
            if getattr(self, kind):
                lines.append(f"{self.megabytes.get(kind, 0):>9.1f} MB  {what}")
                lines += [f"{'':>14}{name}" for name in names]
        return [*lines, *self.notes]


def collect(
    root: Path, home: Path, settings: GarbageSettings, *, remove: bool, wait: float = 0.0, now: float | None = None
) -> Garbage:
    """Finds garbage, and removes it on request. No run and no release is in progress meanwhile.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
        settings: What is kept.
        remove: Whether to remove it.
        wait: Seconds to wait for a run in progress.
        now: The time, in seconds since 1970; the clock's when None.

    Raises:
        LedgerError: The ledger is broken or is not the one that the registry remembers; nothing is removed.
        RunInProgressError: A run is in progress.
        ReleaseInProgressError: A release is in progress.
        ServerUnreachableError: The registry does not answer; nothing is removed.
    """
    before = (time.time() if now is None else now) - 86400 * settings.days
    with turn(home, root, "gc", wait=wait), release_lock(home):
        registry = Registry(home)
        check_anchors(Ledger(home), read_anchors(registry))
        found = _find(root, home, settings, registry, before)
        if remove:
            _remove(root, home, settings, registry, found)
    return found


def _find(root: Path, home: Path, settings: GarbageSettings, registry: Registry, before: float) -> Garbage:
    named = _named_by_ledgers(home)
    runs = [folder for folder in old_runs(home, settings.runs) if folder.stat().st_mtime < before]
    refs = [
        ref
        for ref in git(root, "for-each-ref", "--format=%(refname)", f"{_PACKAGE_REF}*").splitlines()
        if not any(package.startswith(ref.removeprefix(_PACKAGE_REF)) for package in named)
    ]
    cache, notes = read_store(root).cache, []
    unused: list[Path] = []
    if cache.resolve() == (root / ".dvc" / "cache").resolve():
        unused = unused_files(root, cache, without=[*refs, *(f"{REF}/{run.name}" for run in runs)], before=before)
    else:
        notes.append(f"DVC's cache is {cache}, which other checkouts may use; `dvc gc --projects` knows them")
    packages = {run.id: run for run in registry.packages() if run.package not in named and run.seconds < before}
    checkpoints = list(_abandoned(home / "checkpoints", before))
    unfinished = [
        path
        for folder in [home, *(folder for place in _WRITTEN for folder in home.glob(place) if folder.is_dir())]
        for path in sorted(folder.iterdir())
        if _UNFINISHED.fullmatch(path.name) and path.lstat().st_mtime < before
    ]
    sizes = {"runs": runs, "cache": unused, "checkpoints": checkpoints, "unfinished": unfinished}
    sizes["packages"] = [run.artifacts for run in packages.values() if run.artifacts]
    return Garbage(
        runs=runs,
        refs=refs,
        cache=unused,
        checkpoints=checkpoints,
        unfinished=unfinished,
        packages=list(packages),
        megabytes={kind: sum(map(_bytes, paths)) / 1e6 for kind, paths in sizes.items()},
        notes=notes,
    )


def _named_by_ledgers(home: Path) -> set[str]:
    """The packages of all lines, also of a ledger that `relume ledger repair` put aside, whatever its state."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in home.glob("ledger.jsonl*")]
    return {package for text in texts for package in re.findall(r"\b[0-9a-f]{64}\b", text)}


def _abandoned(folder: Path, before: float) -> Iterator[Path]:
    """The files of trainings of which none is young; those of a training that runs are young or locked."""
    trainings: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        trainings.setdefault(path.name[:24], []).append(path)
    for key, paths in trainings.items():
        if any(path.stat().st_mtime >= before for path in paths if path.suffix != ".lock"):
            continue
        lock = filelock.FileLock(folder / f"{key}.lock")
        with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=0):
            yield from (path for path in paths if path.suffix != ".lock")  # who waits for it holds the file


def _bytes(path: Path) -> int:
    paths = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    return sum(each.lstat().st_size for each in paths if not each.is_dir())


def _remove(root: Path, home: Path, settings: GarbageSettings, registry: Registry, found: Garbage) -> None:
    # What refers to others first: who is killed here finds the rest again.
    for ref in found.refs:
        git(root, "update-ref", "-d", ref)
    if found.runs:
        forget_old_runs(root, home, settings.runs + len(old_runs(home, settings.runs)) - len(found.runs))
    for run in found.packages:
        registry.forget(run)
    for path in [*found.cache, *found.checkpoints]:
        path.unlink(missing_ok=True)
    for path in found.unfinished:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
