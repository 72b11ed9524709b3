"""Full and read-only disks: each command that writes, over a disk without room, with room for a part, or read-only.

A command may refuse with exit code 1 or 2 and one message that names the disk's trouble and a place on it; what stood
there then still stands, and nothing half-written lies beside it. Or it does its work. The disks are small file systems
in memory, mounted where only this process and its children see them, which any user may do on most systems. Where they
may not, a limit on the size of files stands for a full disk, and permissions for a read-only one.
"""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import torch

from flows.release.ledger import Ledger, Release
from relume.curation.curate import curate
from relume.files import atomic_folder, sha256_file
from relume.training.checkpoint import Checkpoint
from tests.abuse import full_releases
from tests.abuse.platform_files import CHECKOUT, VARIANT, build_place
from tests.abuse.rows import Command, Ended, Row, Setting, inside, printed, python, relume, step, watched
from tests.flows.release.synthetic import make_photographs
from tests.relume.curation.test_split import settings

FAMILY = "disks"
SECONDS = 90.0  # after which a command counts as hanging
MEGABYTES = 128  # of each disk
MOUNTS = (["unshare", "--map-root-user", "--mount"], ["unshare", "--mount"])
TROUBLE = re.compile(
    "disk is full|disk quota|no space left|larger than the system allows|read-?only|no permission",
    re.IGNORECASE,
)
TMPFS, NEITHER = "tmpfs", "not tried: root writes everywhere and nothing may be mounted here"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writer:
    """A command that writes.

    Attributes:
        command: What is run.
        target: What it writes, relative to its disk; it stands there before, or nothing does.
        disk: `checkout` or `home`.
        free: Bytes that are left on a full disk.
        processes: Whether it starts processes, which must be gone after `relume down`; only tried where it can mount.
        looks: Whether it only looks and therefore may succeed without having written.
    """

    command: Command
    target: str
    disk: str = "checkout"
    free: tuple[int, ...] = (0, 8192, 65536, 400_000)
    processes: bool = False
    looks: bool = False


class Disk:
    """A file system of its own at a path.

    Args:
        path: An empty folder.
        mounted: Whether this process may mount; see the module.

    Attributes:
        full: By what it is full.
        read_only: By what it is read-only, or why it cannot be.
    """

    def __init__(self, path: Path, *, mounted: bool):
        self.path, self._mounted = path, mounted
        self.full = TMPFS if mounted else "limit on files"
        self.read_only = TMPFS if mounted else "permissions" if os.geteuid() else NEITHER
        path.mkdir(parents=True)
        if mounted:
            _mount("-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(path))

    def fill(self, free: int) -> None:
        """Leaves this many bytes, rounded up to a page."""
        if not self._mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (free, resource.RLIM_INFINITY))
            return
        state = os.statvfs(self.path)
        with open(self.path / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, state.f_bavail * state.f_bsize - free))

    def make_read_only(self) -> None:
        """Nothing on it can be written any more."""
        if self._mounted:
            _mount("-o", "remount,bind,ro", str(self.path))
        else:
            self._permit(0o555)

    def mend(self) -> None:
        """Makes it what it was."""
        if not self._mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self._permit(0o755)
            return
        _mount("-o", "remount,bind,rw", str(self.path))
        (self.path / "filler").unlink(missing_ok=True)

    def _permit(self, mode: int) -> None:
        for folder, _, _ in os.walk(self.path, topdown=False):
            os.chmod(folder, mode)


def attack(setting: Setting) -> Iterator[Row]:
    """A row for each command, over a full and over a read-only disk; all in a process that may mount."""
    mounts = next((words for words in MOUNTS if can_mount(words)), [])
    rows = setting.folder / "rows.jsonl"
    child = [sys.executable, "-m", "tests.abuse.disks", str(setting.folder), str(setting.seed)]
    child += [str(int(setting.thorough)), str(int(bool(mounts)))]
    subprocess.run([*mounts, *child], check=True, cwd=CHECKOUT)
    for line in rows.read_text().splitlines():
        yield Row(**json.loads(line))


def can_mount(words: list[str]) -> bool:
    """Whether a file system may be mounted and made read-only by what these words start."""
    probe = "mount -t tmpfs -o size=1m tmpfs /mnt && mount -o remount,bind,ro /mnt"
    try:
        return subprocess.run([*words, "sh", "-c", probe], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _main(folder: str, seed: str, thorough: str, mounted: str) -> None:
    setting = Setting(folder=Path(folder), seed=int(seed), thorough=thorough == "1")
    disks = {name: Disk(setting.folder / name, mounted=mounted == "1") for name in ("checkout", "home")}
    root, home = disks["checkout"].path / "checkout", disks["home"].path / "home"
    with inside(root, home), open(setting.folder / "rows.jsonl", "w") as rows:
        build_place(root, home, with_graph=setting.thorough)
        make_photographs(root / "others", count=2, side=64)
        for row in _attacks(disks, root, home, setting):
            print(json.dumps(dataclasses.asdict(row)), file=rows, flush=True)
    if setting.thorough and mounted == "1":
        disk = Disk(setting.folder / "released", mounted=True)
        with open(setting.folder / "rows.jsonl", "a") as rows:
            for row in full_releases.attack(disk.path / "place", partial(disk.fill, 0), disk.mend):
                print(json.dumps(dataclasses.asdict(row)), file=rows, flush=True)


def _attacks(disks: dict[str, Disk], root: Path, home: Path, setting: Setting) -> Iterator[Row]:
    for name, writer in _writers(root, home, thorough=setting.thorough).items():
        if writer.processes and disks[writer.disk].full != TMPFS:
            yield Row(family=FAMILY, kind=f"{name} (not tried: nothing may be mounted here)")
            continue
        row = Row(family=FAMILY, kind=f"{name}, read-only {writer.disk} ({disks[writer.disk].read_only})")
        if disks[writer.disk].read_only != NEITHER:
            _try(writer, "read-only", disks, root, home, row, Disk.make_read_only)
        yield row
        row = Row(family=FAMILY, kind=f"{name}, full {writer.disk} ({disks[writer.disk].full})")
        for free in writer.free if setting.thorough else (0, 8192):
            _try(writer, f"{free} bytes left", disks, root, home, row, lambda disk, free=free: disk.fill(free))
        yield row


def _try(
    writer: Writer,
    what: str,
    disks: dict[str, Disk],
    root: Path,
    home: Path,
    row: Row,
    spoil: Callable[[Disk], None],
) -> None:
    """Spoils the disk, runs the command, mends the disk, and looks at what is there."""
    disk = disks[writer.disk]
    target = (root if writer.disk == "checkout" else home) / writer.target
    before = _content(target)
    hidden = _hidden(disks)
    spoil(disk)
    try:
        ended = watched(writer.command, seconds=SECONDS)
    finally:
        disk.mend()
    row.tried += 1
    problem = _problem(writer, ended, before, _content(target))
    if left := _hidden(disks) - hidden:
        problem = problem or f"it left {sorted(map(str, left))}"
        for path in left:
            path.unlink()
    if writer.processes:
        down = watched(relume("down"), seconds=SECONDS)
        if orphans := _end_processes(home):
            problem = problem or f"it left processes: {orphans}"
        if down.failure or down.code:
            problem = problem or f"down: {down.failure or down.output}"
    if problem:
        row.wrong.append(f"{what}: {problem}")
    elif ended.code:
        row.refused += 1
    else:
        row.survived += 1


def _problem(writer: Writer, ended: Ended, before: dict[str, str], after: dict[str, str]) -> str | None:
    if ended.failure:
        return ended.failure
    if ended.code == 0:
        return None if after or writer.looks else f"it succeeded and wrote nothing: {ended.output}"
    if ended.code not in (1, 2):
        return f"exit code {ended.code}: {ended.output}"
    if not TROUBLE.search(ended.output):
        return f"the disk is not named: {ended.output}"
    if not re.search(rf"/{writer.disk}/|: [\w./-]+$", ended.output, re.MULTILINE):
        return f"the place is not named: {ended.output}"
    if not writer.processes and before and before != after:
        return f"what stood there changed: {before} {after}"
    return None


def _content(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): sha256_file(file) for file in files}


def _hidden(disks: dict[str, Disk]) -> set[Path]:
    """Files and folders under names of unfinished ones."""
    found = {path for disk in disks.values() for path in disk.path.rglob(".*")}
    return {path for path in found if not {".git", ".dvc"} & {*path.parts} and path.is_file()}


def _end_processes(home: Path) -> list[str]:
    """Ends what still runs for a home; their command lines."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.pid != os.getpid() and process.environ().get("RELUME_HOME") == str(home)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
                process.kill()
        except psutil.Error:
            continue
    return found


def _writers(root: Path, home: Path, *, thorough: bool) -> dict[str, Writer]:
    def curated() -> None:
        small = settings(patch=64, stride=64, min_test=1, max_flat_fraction=1.0)
        with atomic_folder("data/curated") as folder:
            curate(root / "data" / "ingested", folder, small, progress=lambda *_: None)

    def checkpoint() -> None:
        Checkpoint(home / "checkpoints", "training").save({"weights": torch.ones(200_000)}, {"step": 4})

    def promote() -> None:
        release = Release(product="denoise", package="b" * 64, version="3", model="denoise-3")
        Ledger(home).append("registered", release)

    scan = ("data", "scan", str(root / "others"))
    writers = {
        "ingest": Writer(command=step("ingest"), target="data/ingested"),
        "checkpoint": Writer(command=printed(checkpoint), target="checkpoints", disk="home"),
        "package": Writer(command=step("package"), target="package"),
        "restore": Writer(
            command=relume("restore", "noisy.png", "-o", "out/clean.png", "--model", "models/exported"), target="out"
        ),
        "data scan": Writer(command=relume(*scan), target="sources.json", disk="home"),
        "data scan --tracked": Writer(command=relume(*scan, "--tracked"), target="sources.json"),
    }
    if not thorough:
        return writers
    evaluate = ("evaluate", "models/final", "--set", "photographs", "--limit", "1", "-o", "results")
    few = (0, 400_000)
    register = f"""
from pathlib import Path
from components.step import run_component
from flows.release.package import open_package
from flows.release.registry import Registry
facts = {{"run_commit": "1" * 40, "params": {{}}, "files": {{}}}}
run_component(lambda: print(Registry(Path({str(home)!r})).register(open_package(Path("package")), **facts)))
"""
    imported = ("models", "import", "official.pth", "--architecture", VARIANT, "-o", "new")
    first = {"curate": Writer(command=printed(curated), target="data/curated")}  # of what ingest will replace
    return (
        first
        | writers
        | {
            "export": Writer(command=step("export"), target="models/exported"),
            "evaluate": Writer(command=relume(*evaluate), target="results"),
            "models import": Writer(command=relume(*imported), target="new"),
            "recipes use": Writer(command=relume("recipes", "use", "photo", "--scale", "demo"), target="dvc.yaml"),
            "report": Writer(command=relume("report", "-o", "report.html"), target="report.html"),
            "ledger": Writer(command=printed(promote), target="ledger.head.json", disk="home"),
            "registration": Writer(
                command=python(register), target="packages", disk="home", looks=True, processes=True, free=(0, 10**6)
            ),
            "status": Writer(command=relume("status"), target="ledger.jsonl", disk="home", looks=True),
            "up": Writer(command=_real("up"), target="services", disk="home", processes=True, free=few),
            "pipeline run": Writer(
                command=_real("pipeline", "run"), target="runs", disk="home", processes=True, free=(400_000,)
            ),
            "release": Writer(command=_real("release"), target="ledger.jsonl", disk="home", processes=True, free=few),
        }
    )


def _real(*words: str) -> Command:
    """A command of the command line in a process of its own, which may leave servers behind."""
    return python(f"from relume.cli import main; main({list(words)!r})")


if __name__ == "__main__":
    _main(*sys.argv[1:])
