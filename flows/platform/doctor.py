"""What is installed, running and missing on this machine, each with the command that fixes it."""

import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from flows.embedded_triton import INSTALL, EmbeddedTriton
from flows.platform.status import Status, read_status
from relume.reading import read_text

PYTHON = ((3, 11), (3, 12))
FREE_GIB = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: What.
        ok: Whether it is there.
        required: Whether relume cannot do its main job without it.
        detail: What was found.
        fix: The command that fixes it; empty when it is there.
    """

    name: str
    ok: bool
    required: bool
    detail: str
    fix: str = ""


def examine(root: Path, home: Path) -> list[Finding]:
    """Checks everything; changes and starts nothing.

    Args:
        root: The top of the checkout.
        home: RELUME_HOME.
    """
    status = read_status(root, home)
    return [
        _python(),
        _packages(root),
        *_programs(),
        _checkout(root),
        _disk(home),
        _libpython(),
        _triton_environment(status, EmbeddedTriton(home).installed),
        *_data_and_model(root),
        *_services(status),
        *_serving(status),
        _accelerator(),
    ]


def exit_code(findings: list[Finding]) -> int:
    """0 when all that is required is there and no service has died, else 1."""
    return int(any(finding.required and not finding.ok for finding in findings))


def render(findings: list[Finding]) -> str:
    """The findings as plain text; what is missing is followed by its command."""
    lines = []
    for finding in findings:
        mark = "ok" if finding.ok else "WRONG" if finding.required else "-"
        lines.append(f"{mark:<8} {finding.name:<22} {finding.detail}")
        if finding.fix and not finding.ok:
            lines.append(f"{'':<8} {'':<22} next: {finding.fix}")
    wrong = sum(finding.required and not finding.ok for finding in findings)
    lines += ["", f"Problems to fix: {wrong}" if wrong else "Everything that relume requires is there."]
    return "\n".join(lines) + "\n"


def _python() -> Finding:
    version = sys.version_info[:2]
    return Finding(
        name="python",
        ok=version in PYTHON,
        required=True,
        detail=f"{sys.version.split()[0]} in {sys.prefix}",
        fix="run `python3.11 -m venv .venv`, then `make setup`",
    )


def _packages(root: Path) -> Finding:
    """Compares what is installed with the tested set, for the packages that relume itself requires."""
    lock = root / "constraints.txt"
    text = read_text(lock, next_step="git checkout constraints.txt") if lock.is_file() else ""
    pins = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", text))
    pins = {_normal(name): version for name, version in pins.items()}
    wrong = []
    for requirement in _requirements():
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement)[0]
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if (pin := pins.get(_normal(name))) and pin != installed:
            wrong.append(f"{name} {installed} is installed instead of {pin}")
    return Finding(
        name="packages",
        ok=not wrong,
        required=True,
        detail=", ".join(wrong) or "the versions of constraints.txt",
        fix="make setup",
    )


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("relume") or []
    except importlib.metadata.PackageNotFoundError:
        return ["relume"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _programs() -> Iterator[Finding]:
    environment = str(Path(sys.executable).parent)
    for program, fix in (("git", "sudo apt-get install git"), ("dvc", "make setup")):
        found = shutil.which(program, path=f"{environment}:{os.environ.get('PATH', '')}")
        yield Finding(name=program, ok=found is not None, required=True, detail=found or "not found", fix=fix)


def _checkout(root: Path) -> Finding:
    missing = [
        name for name in ("dvc.yaml", "params.yaml", "recipe.yaml", ".dvc/config", ".git") if not (root / name).exists()
    ]
    return Finding(
        name="checkout",
        ok=not missing,
        required=True,
        detail=f"{', '.join(missing)} not found" if missing else str(root.resolve()),
        fix="change to the top folder of a relume checkout",
    )


def _disk(home: Path) -> Finding:
    place = home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    return Finding(
        name="disk space",
        ok=free >= FREE_GIB,
        required=True,
        detail=f"{free:.0f} GiB free at {place}",
        fix=f"free {FREE_GIB:.0f} GiB, or set RELUME_HOME to a folder on a larger disk",
    )


def _libpython() -> Finding:
    name = f"libpython{sysconfig.get_python_version()}.so.1.0"
    folders = (sysconfig.get_config_var("LIBDIR"), "/usr/lib/x86_64-linux-gnu", "/usr/lib64")
    found = next((path for folder in folders if folder and (path := Path(folder) / name).exists()), None)
    return Finding(
        name="libpython",
        ok=found is not None,
        required=True,
        detail=str(found or f"{name} not found; the embedded Triton server needs it"),
        fix=f"sudo apt-get install libpython{sysconfig.get_python_version()}",
    )


def _triton_environment(status: Status, installed: bool) -> Finding:
    state = next(service.state for service in status.services if service.name == "triton")
    return Finding(
        name="embedded Triton",
        ok=installed,
        required=True,
        detail=f"installed, {state}" if installed else "not installed",
        fix=INSTALL,
    )


def _data_and_model(root: Path) -> Iterator[Finding]:
    for name, path, fix in (
        ("photographs", "data/curated/images.csv", "relume pipeline run"),
        ("package", "package/package.json", "relume pipeline run"),
    ):
        there = (root / path).is_file()
        yield Finding(
            name=name, ok=there, required=False, detail=path if there else f"{path} does not exist yet", fix=fix
        )


def _services(status: Status) -> Iterator[Finding]:
    for service in status.services:
        yield Finding(
            name=service.name,
            ok=service.state in ("running", "external"),
            required=service.state in ("dead", "silent"),  # a service that was never started is not a problem
            detail=" ".join(part for part in (service.state, service.address, service.note) if part),
            fix="relume up",
        )


def _serving(status: Status) -> Iterator[Finding]:
    champions = [(product, product.champion.model) for product in status.products or [] if product.champion]
    if not champions and status.products is not None:
        yield Finding(
            name="champion", ok=False, required=False, detail="nothing was released yet", fix="relume release"
        )
    for product, model in champions:
        yield Finding(
            name=f"champion {product.product}",
            ok=product.served == model and product.answers,
            required=False,
            detail=f"{model}, served by {product.served or 'nothing'}",
            fix="relume up",
        )
    for problem in status.problems:
        yield Finding(name="problem", ok=False, required=True, detail=problem.replace("\n", f"\n{'':<32}"))


def _accelerator() -> Finding:
    """Asks the driver and not torch, whose import takes seconds."""
    program = shutil.which("nvidia-smi")
    names = ""
    if program:
        asked = [program, "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(asked, capture_output=True, text=True).stdout.strip().replace("\n", ", ")
    return Finding(
        name="GPU", ok=bool(names), required=False, detail=names or f"none; {os.cpu_count()} CPU cores are used"
    )
