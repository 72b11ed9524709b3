"""Known faults of every package in constraints.txt, as pip-audit finds them in the advisories of the package index.

pip-audit leaves out what the index does not answer for, and then says that it found nothing. Here that is no answer.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from relume.counts import counted

PIP_AUDIT = "pip-audit==2.10.1"
PINNED = Path("constraints.txt")


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        compared: How many packages the advisories were asked for.
        faults: Name, version, the advisory and the versions without the fault, of each known one.
        unanswered: Packages that the index did not answer for.
    """

    compared: int
    faults: tuple[str, ...]
    unanswered: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where there are known faults, 3 where a package was not compared, else 0."""
        return 1 if self.faults else 3 if self.unanswered else 0

    def __str__(self) -> str:
        lines = [
            *self.faults,
            f"{counted(self.compared, 'package')} compared, {counted(len(self.faults), 'known fault')}",
        ]
        if self.unanswered:
            lines.append(f"not compared, for the index has no advisories of them: {', '.join(self.unanswered)}")
        return "\n".join(lines)


def read(report: str) -> Audit:
    """Reads the JSON that pip-audit prints."""
    packages = json.loads(report)["dependencies"]
    compared = [package for package in packages if "skip_reason" not in package]
    return Audit(
        compared=len(compared),
        faults=tuple(_sentence(package, fault) for package in compared for fault in package["vulns"]),
        unanswered=tuple(package["name"] for package in packages if "skip_reason" in package),
    )


def _sentence(package: dict, fault: dict) -> str:
    fixed = ", ".join(fault["fix_versions"]) or "none"
    return f"{package['name']} {package['version']}: {fault['id']}, without it: {fixed}"


def audit(pinned: str) -> Audit:
    """Asks for the packages of a text of `NAME==VERSION` lines.

    The first alone before all: where the index has no advisories, hundreds of questions more would not get an answer.

    Raises:
        ConnectionError: The advisories cannot be reached.
    """
    names = re.findall(r"(?m)^[\w.-]+==\S+", pinned)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        install = ["install", "--quiet", "--disable-pip-version-check", PIP_AUDIT]
        subprocess.run([folder / "venv" / "bin" / "pip", *install], check=True)
        first = _ask(folder, names[:1])
        return first if first.unanswered or len(names) == 1 else _ask(folder, names)


def _ask(folder: Path, names: list[str]) -> Audit:
    (folder / "pinned.txt").write_text("\n".join(names) + "\n")
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--requirement"]
    done = subprocess.run(
        [folder / "venv" / "bin" / "pip-audit", *options, folder / "pinned.txt"], capture_output=True, text=True
    )
    if not done.stdout:  # it ends with 1 for faults as well as for errors
        raise ConnectionError(done.stderr.strip().rpartition("\n")[2])
    return read(done.stdout)
