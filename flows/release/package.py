"""The package that a release starts from: the last out of the graph, opened and checked."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from relume.errors import ModelMissingError, ReleaseError
from relume.files import sha256_folder
from relume.params_file import load_section
from relume.reading import read_as
from relume.serving.settings import PackageSettings

_AGAIN = "restore it with `dvc checkout --force package`, or build it with `relume pipeline run`"


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
        """The release-specific name under which Triton serves it for ONNX Runtime."""
        return f"{self.product}-{self.sha256[:8]}"

    def model_for(self, backend: str) -> str:
        """The name under which Triton serves it for a backend: a name stands for one backend, so it says which."""
        return self.model if backend == "onnxruntime" else f"{self.model}-{backend}"

    def backend_of(self, model: str) -> str:
        """The backend of a release of this package, by its name."""
        return model.removeprefix(self.model).removeprefix("-") or "onnxruntime"


def product_of(root: Path) -> str:
    """The product of a checkout: `package.product` of its recipe.yaml, the one place that names it.

    Raises:
        ConfigError: The file or its `package` section is missing or wrong.
    """
    # This section alone: a mistake in another one must not prevent a rollback.
    return load_section("package", PackageSettings, root).product


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackageFacts:
    """What package.json states; see `Package`."""

    sha256: str
    product: str
    architecture: str
    figures: dict[str, Any]


def read_facts(folder: Path) -> PackageFacts:
    """Reads what a package states, without looking at its other files.

    Raises:
        BrokenFileError: package.json is missing or damaged.
    """
    return read_as(PackageFacts, folder / "package.json", next_step=_AGAIN)


@dataclasses.dataclass(frozen=True)
class _ImageParity:
    """How far ONNX Runtime is from PyTorch on one image, in dB and of 255."""

    picture: str
    psnr: float
    max_difference: int


@dataclasses.dataclass(frozen=True)
class _ParityLimits:
    min_psnr: float
    max_difference: int


@dataclasses.dataclass(frozen=True)
class ExportParity:
    """What parity.json holds: how `export` measured the ONNX file, and the limits that it was given."""

    pictures: Annotated[list[_ImageParity], Field(min_length=1)]
    limits: _ParityLimits


def read_parity(folder: Path) -> ExportParity:
    """Reads the parity report of a package.

    Raises:
        BrokenFileError: It is missing or damaged.
    """
    return read_as(ExportParity, folder / "serving" / "parity.json", next_step=_AGAIN)


def open_package(folder: Path, *, release: str | None = None) -> Package:
    """Opens a package and checks its hash.

    Args:
        folder: Where it lies.
        release: The hash that a release was made of, when it must be the package of that one.

    Raises:
        ModelMissingError: There is no package.
        BrokenFileError: What states its facts is damaged.
        ReleaseError: Its files are not those that its hash, or the release, was made of.
    """
    if not os.path.lexists(folder / "package.json"):
        raise ModelMissingError("There is no package yet", where=folder, next_step="run `relume pipeline run`")
    stated = read_facts(folder)
    found = sha256_folder(folder, exclude=("package.json",))
    expected, what = (release, "released was") if release else (stated.sha256, "package.json states")
    if found != expected:
        raise ReleaseError(
            "The package is damaged",
            where=folder,
            why=f"its files have the hash {found[:16]}, but {what} {expected[:16]}",
            next_step=_AGAIN,
        )
    return Package(
        folder=folder,
        sha256=found,
        product=stated.product,
        architecture=stated.architecture,
        metrics=stated.figures,
        lineage=read_as(dict[str, Any], folder / "lineage.json", next_step=_AGAIN),
    )
