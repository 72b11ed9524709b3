"""The package that a release starts from: the last out of the graph, opened and checked."""

import dataclasses
from pathlib import Path
from typing import Any

from relume.errors import ModelMissingError, ReleaseError
from relume.files import read_json, sha256_folder
from relume.params_file import load_section
from relume.serving.settings import PackageSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A package whose files have the hash that it states.

    Attributes:
        folder: Its folder.
        sha256: Hash of all its files but `package.json`.
        product: What it serves, such as `denoise`.
        architecture: Name of the model's architecture.
        metrics: Its metrics, nested names to numbers.
        lineage: Hashes of what it was made from.
    """

    folder: Path
    sha256: str
    product: str
    architecture: str
    metrics: dict[str, Any]
    lineage: dict[str, Any]

    @property
    def model(self) -> str:
        """The release-specific name under which Triton serves it."""
        return f"{self.product}-{self.sha256[:8]}"


def product_of(root: Path) -> str:
    """The product of a checkout: `package.product` of its params.yaml, the one place that names it.

    Raises:
        ConfigError: The file or its `package` section is missing or wrong.
    """
    # This section alone: a mistake in another one must not prevent a rollback.
    return load_section("package", PackageSettings, root).product


def open_package(folder: Path) -> Package:
    """Opens a package and checks its hash.

    Raises:
        ModelMissingError: There is no package.
        ReleaseError: Its files are not those that its hash was made of.
    """
    if not (folder / "package.json").is_file():
        raise ModelMissingError("There is no package yet", where=folder, next_step="run `relume pipeline run`")
    stated = read_json(folder / "package.json")
    found = sha256_folder(folder, exclude=("package.json",))
    if found != stated["sha256"]:
        raise ReleaseError(
            "The package is damaged",
            where=folder,
            why=f"its files have the hash {found[:16]}, but package.json states {stated['sha256'][:16]}",
            next_step="restore it with `dvc checkout --force package`, or build it with `relume pipeline run`",
        )
    return Package(
        folder=folder,
        sha256=found,
        product=stated["product"],
        architecture=stated["architecture"],
        metrics=stated["figures"],
        lineage=read_json(folder / "lineage.json"),
    )
