"""Photographs that Debian's packages hold and that a model that ships may be trained on.

`debian_photographs.yaml` lists them with hash, licence and author. A package is downloaded by apt and read without
being installed; of its files only those whose path and hash are listed are taken.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Literal

import yaml
from pydantic import Field

from relume.errors import SourceError
from relume.files import sha256_file, write_bytes, write_text
from relume.settings import Settings

# What a name in the catalogue stands for. Each of them allows to train weights that ship and to sell them.
LICENCES = {
    "public-domain": "public domain",
    "CC0-1.0": "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)",
    "CC-BY-3.0": "[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/)",
    "CC-BY-4.0": "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)",
}
TABLE = "LICENCES.md"


class DebianPhotograph(Settings):
    """A photograph in a package.

    Attributes:
        package: Name of the package.
        version: Version of the package in which the hash was taken; others often hold the same file.
        path: Place in the package, relative to the root of the file system.
        sha256: Hash of the file, 64 hexadecimal digits.
        title: What the author or the package calls it.
        author: Who took or published it, to be named where the licence asks for it.
        licence: A key of `LICENCES`.
        source: Address at which the author or the package's authors publish it.
        evidence: Where the licence is stated.
    """

    package: str
    version: str
    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    title: str
    author: str
    licence: Literal["public-domain", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"]
    source: str
    evidence: str

    @property
    def file(self) -> str:
        """Its name in a folder of fetched photographs."""
        return f"{self.package}-{PurePosixPath(self.path).name}".replace(" ", "-")

    @property
    def attribution(self) -> str:
        """Title, author, licence and source in one Markdown phrase, which satisfies CC BY."""
        return f'"{self.title}" by {self.author}, {LICENCES[self.licence]}, <{self.source}>'


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a folder holds after `fetch`.

    Attributes:
        present: The photographs that are there.
        left_out: Those that are not, each with the reason.
    """

    present: tuple[DebianPhotograph, ...]
    left_out: tuple[tuple[DebianPhotograph, str], ...]


def read_catalogue() -> tuple[DebianPhotograph, ...]:
    """The photographs of `debian_photographs.yaml`, package by package."""
    packages = yaml.safe_load((files("relume.ingestion") / "debian_photographs.yaml").read_text(encoding="utf-8"))
    return tuple(
        DebianPhotograph(package=name, version=package["version"], **photograph)
        for name, package in packages.items()
        for photograph in package["photographs"]
    )


def fetch(
    folder: str | Path,
    *,
    photographs: Sequence[DebianPhotograph] | None = None,
    packages: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fetched:
    """Fills a folder with photographs from Debian packages and writes their licences beside them.

    A photograph that is there already is not fetched again, so a call that was interrupted is repeated at
    the cost of one package.

    Args:
        folder: Where they go, each under its `file`, whole or not at all, with the table `LICENCES.md`.
        photographs: What to take; None takes the catalogue.
        packages: A folder of `.deb` files to take instead of what apt downloads.
        progress: Is given how many photographs are done, and of how many.

    Raises:
        SourceError: apt or dpkg is missing, or no photograph at all could be fetched.
    """
    folder = Path(folder)
    photographs = read_catalogue() if photographs is None else photographs
    left_out: dict[DebianPhotograph, str] = {}
    done = 0
    for package, version in dict.fromkeys((photograph.package, photograph.version) for photograph in photographs):
        wanted = [photograph for photograph in photographs if photograph.package == package]
        missing = [photograph for photograph in wanted if not _is_there(folder / photograph.file, photograph)]
        if missing:
            found, failure = _contents(package, version, {photograph.path for photograph in missing}, packages)
        for photograph in missing:
            data = found.get(photograph.path)
            if data is None:
                left_out[photograph] = failure or "it is not in the package"
            elif hashlib.sha256(data).hexdigest() != photograph.sha256:
                left_out[photograph] = "its hash is not that of the catalogue"
            else:
                write_bytes(folder / photograph.file, data)
        done += len(wanted)
        progress(done, len(photographs))
    present = tuple(photograph for photograph in photographs if photograph not in left_out)
    if not present:
        raise SourceError(
            "No photograph could be fetched",
            where=folder,
            why="; ".join(dict.fromkeys(left_out.values())),
            next_step="run `apt-get update`, then fetch again",
        )
    write_text(folder / TABLE, licence_table(present))
    return Fetched(present=present, left_out=tuple(left_out.items()))


def licence_table(photographs: Sequence[DebianPhotograph]) -> str:
    """A Markdown table of photographs with author, licence, source and where the licence is stated."""
    lines = ["| file | package | title and author | licence | source | stated in |", "|---|---|---|---|---|---|"]
    for item in photographs:
        cells = (item.file, f"{item.package} {item.version}", f"{item.title}, by {item.author}")
        lines.append(f"| {' | '.join(cells)} | {LICENCES[item.licence]} | <{item.source}> | {item.evidence} |")
    return "\n".join(lines) + "\n"


def attribution_text(photographs: Sequence[DebianPhotograph]) -> str:
    """What the card of a model that was trained on these photographs says of them: a sentence and a Markdown list."""
    lines = [f"- {photograph.attribution}" for photograph in photographs]
    return "\n".join(["The training used these photographs, cut, resized and degraded:", "", *lines, ""])


def _is_there(file: Path, photograph: DebianPhotograph) -> bool:
    return file.is_file() and sha256_file(file) == photograph.sha256


def _contents(
    package: str, version: str, paths: set[str], packages: str | Path | None
) -> tuple[dict[str, bytes], str | None]:
    """The bytes of some files of a package, and why there are none if the package is not to be had."""
    with tempfile.TemporaryDirectory(prefix="relume-") as temporary:
        failure = None if packages else _download(package, version, Path(temporary))
        debs = sorted(Path(packages or temporary).glob(f"{package}_*.deb"))
        if not debs:
            return {}, failure or f"there is no package {package} in {packages}"
        try:
            return _read(debs[-1], paths), None
        except (OSError, EOFError, tarfile.TarError, subprocess.CalledProcessError):
            return {}, f"{debs[-1].name} is damaged"


def _download(package: str, version: str, folder: Path) -> str | None:
    """Downloads a package, in the version that apt offers if it lacks the wanted one; returns why it could not."""
    for name in (f"{package}={version}", package):
        result = subprocess.run(
            [_program("apt-get"), "--quiet", "download", name], cwd=folder, capture_output=True, text=True
        )
        if result.returncode == 0:
            return None
        for unfinished in folder.iterdir():
            unfinished.unlink()
    errors = [line for line in result.stderr.splitlines() if line.startswith("E: ")]
    return f"apt-get download {package}: {' '.join(errors) or f'it ended with exit code {result.returncode}'}"


def _read(deb: Path, paths: set[str]) -> dict[str, bytes]:
    """Reads regular files of a package; nothing is written, whatever names the package holds."""
    found = {}
    command = [_program("dpkg-deb"), "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            name = member.name.removeprefix("./")
            content = archive.extractfile(member) if name in paths and member.isreg() else None
            if content is not None:
                found[name] = content.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return found


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SourceError(
            "The photographs are in Debian packages, and this machine lacks a program to get them",
            where=name,
            next_step="fetch them on Debian or Ubuntu, or in a container of one of them, and copy the folder here",
        )
    return path
