"""What lets anyone rebuild a package: the commit of the checkout it came from, and the files that pin its inputs."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from flows.container_images import images_of
from flows.dvc_commands import run_dvc
from flows.lock import hashes_of, read_lock
from flows.release.package import Package
from flows.run_commit import commit_run
from relume.errors import UserError
from relume.ingestion.lists import LIST, own_list
from relume.params_file import PARAMS, RECIPE, read_values
from relume.reading import read_text

FILES = ("dvc.lock", "dvc.yaml", PARAMS, RECIPE, LIST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a package came from.

    Attributes:
        run_commit: Commit that holds code, params, sources and dvc.lock of the run.
        params: Parameters of the run, the hash of each out of the graph under `outs`, and that of the container image
            of each stage that ran in one under `images`.
        files: Text of the files that pin the run, by name.
    """

    run_commit: str
    params: dict[str, Any]
    files: dict[str, str]


def read_lineage(root: Path, package: Package, home: Path) -> Lineage:
    """Reads the lineage of the package in a checkout.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME, which may hold the user's own list of sources.
        package: Its package.

    Raises:
        UserError: Code, params or data changed since the package was built, so the checkout is not its lineage.
        DvcLockedError: Another command of DVC works in the checkout.
        RepositoryError: The checkout is not the top of a git working tree.
    """
    own = own_list(home)
    _require_up_to_date(root, package, own)
    files = {
        name: read_text(
            own if own and name == LIST else root / name, next_step=f"restore it with `git checkout {name}`"
        )
        for name in FILES
        if name != RECIPE or (root / name).is_file()
    }
    return Lineage(
        run_commit=commit_run(root, f"package-{package.sha256[:16]}", own_list=own),
        params=read_values(root).value
        | {"outs": dict(hashes_of("outs", files["dvc.lock"])), "images": images_of(home, files["dvc.lock"])},
        files=files,
    )


def _require_up_to_date(root: Path, package: Package, own: Path | None) -> None:
    """Asks DVC whether every stage's deps, params and outs are those of dvc.lock."""
    done = run_dvc(root, "status", "--json")
    if done.returncode:
        raise UserError(
            "DVC cannot compare the checkout with the package",
            where=package.folder,
            why=done.stderr.strip(),
            next_step="run `dvc status`",
        )
    if _changes(json.loads(done.stdout), root, own):
        raise UserError(
            "The package was not built from this state of the checkout",
            where=package.folder,
            why="code, params or data changed since it was built; `dvc status` names them",
            next_step="run `relume pipeline run`, or undo the changes",
        )


def _changes(status: dict[str, list[Any]], root: Path, own: Path | None) -> bool:
    """Whether anything but the list of sources differs from dvc.lock, or the list in use does.

    DVC compares with the tracked list, which a run on the user's own list did not read.
    """
    if own is None:
        return bool(status)
    listed = hashlib.md5(own.read_bytes(), usedforsecurity=False).hexdigest()
    if any(path == LIST and hash != listed for path, hash in hashes_of("deps", read_lock(root))):
        return True
    return any(change != {"changed deps": {LIST: "modified"}} for changes in status.values() for change in changes)
