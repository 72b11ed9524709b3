"""What lets anyone rebuild a package: the commit of the checkout it came from, and the files that pin its inputs."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from flows.dvc_commands import run_dvc
from flows.release.package import Package
from flows.run_commit import commit_run
from relume.errors import UserError
from relume.params_file import PARAMS, RECIPE, read_values

FILES = ("dvc.lock", "dvc.yaml", PARAMS, RECIPE, "sources.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lineage:
    """Where a package came from.

    Attributes:
        run_commit: Commit that holds code, params, sources and dvc.lock of the run.
        params: Parameters of the run, and the hash of each out of the graph under `outs`.
        files: Text of the files that pin the run, by name.
    """

    run_commit: str
    params: dict[str, Any]
    files: dict[str, str]


def read_lineage(root: Path, package: Package) -> Lineage:
    """Reads the lineage of the package in a checkout.

    Args:
        root: The top of the checkout.
        package: Its package.

    Raises:
        UserError: Code, params or data changed since the package was built, so the checkout is not its lineage.
        RepositoryError: The checkout is not the top of a git working tree.
    """
    _require_up_to_date(root, package)
    files = {name: (root / name).read_text() for name in FILES if name != RECIPE or (root / name).is_file()}
    outs = {
        out["path"]: out["md5"]
        for stage in yaml.safe_load(files["dvc.lock"])["stages"].values()
        for out in stage.get("outs", [])
    }
    return Lineage(
        run_commit=commit_run(root, f"package-{package.sha256[:16]}"),
        params=read_values(root).value | {"outs": outs},
        files=files,
    )


def _require_up_to_date(root: Path, package: Package) -> None:
    """Asks DVC whether every stage's deps, params and outs are those of dvc.lock."""
    done = run_dvc(root, "status", "--quiet")
    if done.returncode:
        raise UserError(
            "The package is not of this state of the checkout",
            where=package.folder,
            why=done.stderr.strip() or "code, params or data changed since it was built; `dvc status` names them",
            next_step="relume pipeline run, or take the changes back",
        )
