"""The kinds of faults. Each gets a fresh world and a seeded generator, and says what is wrong afterwards."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from flows.backup import read_backup, restore_backup, write_backup
from flows.garbage.collect import collect
from flows.release.anchor import anchor_ledger, check_anchors, read_anchors, repair_ledger
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from relume.errors import RelumeError
from relume.files import sha256_folder
from relume.params import GarbageSettings
from relume.serving.signing import keys_of, require_signed, rotate_key, sign_release
from tests.abuse.served_home import processes_of
from tests.flows.release.test_ledger import promote, release
from tests.flows.toy import Toy, copy_toy, make_toy, wait_until

LATER = 4e9
OUTS = ("data/first", "models/bases", "reports")


class World:
    """What all rounds start from: the toy's graph before and after an undisturbed run, and a home with releases.

    Args:
        folder: Where it is made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.toy = make_toy(folder / "template" / "toy", folder / "template" / "home")
        self.whole = copy_toy(self.toy, folder / "whole")
        self.whole.run()
        self.state = state_of(self.whole)
        self.released = folder / "released"
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        registry, ledger = Registry(self.released), Ledger(self.released)
        registry._client.create_registered_model("denoise")
        promote(ledger, *(release(letter) for letter in "abc"))
        anchor_ledger(ledger, registry, "denoise")

    def home(self, folder: Path) -> Path:
        """A copy of the home with releases."""
        shutil.copytree(self.released, folder / "home")
        return folder / "home"


def state_of(toy: Toy) -> dict[str, str]:
    """What a run leaves: the lock and the outs. The times that the toy's steps write are none of it."""
    outs = {name: sha256_folder(toy.root / name) for name in OUTS}
    return outs | {"dvc.lock": (toy.root / "dvc.lock").read_text()}


def _after_a_rerun(world: World, toy: Toy) -> Iterator[str]:
    """What does not hold after a plain second call."""
    process = toy.start()
    out, errors = process.communicate(timeout=300)
    if process.returncode:
        yield f"the second call failed: {(out + errors)[-500:]}"
        return
    found = state_of(toy)
    yield from (f"{name} is another one" for name in found if found[name] != world.state[name])
    wait_until(lambda: not processes_of(toy.home) or time.sleep(0.2), 30)
    yield from (f"a process is left: {' '.join(each.cmdline())[:100]}" for each in processes_of(toy.home))
    yield from (f"a record is left: {path.name}" for path in (toy.home / "active").glob("[!.]*"))
    yield from (f"a clone is left: {path}" for path in (toy.home / "runs").glob("*/*/clone"))


def _slow(toy: Toy, dice: random.Random) -> None:
    """Steps that take long enough to be hit."""
    for stage in ("first", "pretrain@one", "pretrain@two", "last"):
        toy.tell("sleep", stage, round(dice.uniform(0.2, 1.5), 2))


def _wait(process: subprocess.Popen, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def driver_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a pipeline run at any moment from its start on."""
    toy = copy_toy(world.toy, folder)
    _slow(toy, dice)
    process = toy.start()
    _wait(process, dice.uniform(0.5, 15))
    process.kill()
    process.communicate()
    yield from _after_a_rerun(world, toy)


def step_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of the process of a running stage."""
    toy = copy_toy(world.toy, folder)
    for stage in ("first", "pretrain@one", "pretrain@two", "last"):
        toy.tell("sleep", stage, 2)
    process, wanted = toy.start(), dice.choice(["first", "pretrain", "last"])

    def steps() -> list[psutil.Process]:
        living = []
        for each in processes_of(toy.home):
            with contextlib.suppress(psutil.Error):
                if f"components.{wanted}" in each.cmdline():
                    living.append(each)
        return living

    while process.poll() is None and not steps():
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 1))
    for step in steps()[:1]:
        with contextlib.suppress(psutil.Error):
            step.kill()
    process.communicate(timeout=300)
    yield from _after_a_rerun(world, toy)


def server_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of the Prefect server that a run reports to."""
    toy = copy_toy(world.toy, folder)
    _slow(toy, dice)
    process = toy.start()
    _wait(process, dice.uniform(4, 15))
    for each in processes_of(toy.home):
        with contextlib.suppress(psutil.Error):
            if "prefect.server.api.server:create_app" in each.cmdline():
                each.kill()
    process.communicate(timeout=300)
    yield from _after_a_rerun(world, toy)


def two_runs(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Two runs that begin within two seconds of one another: one works, the other is refused or finds all done."""
    toy = copy_toy(world.toy, folder)
    _slow(toy, dice)
    first = toy.start()
    time.sleep(dice.uniform(0, 2))
    second = toy.start()
    outputs = [process.communicate(timeout=300) for process in (first, second)]
    codes = [first.returncode, second.returncode]
    if 0 not in codes:
        yield f"neither worked: {codes} {outputs[0][1][-300:]}"
    for code, (_, errors) in zip(codes, outputs, strict=True):
        if code and "Another run is in progress" not in errors:
            yield f"one failed for another reason: {errors[-300:]}"
    if len(toy.ran()) != 4:
        yield f"{len(toy.ran())} stages ran, not 4"
    yield from _after_a_rerun(world, toy)


def _killed(call: str, dice: random.Random, *arguments: object, seconds: float) -> None:
    """Runs a call in a process of its own, which is killed at any moment once it has imported what it needs."""
    modules = "\n".join(line for line in call.splitlines() if line.startswith(("import", "from")))
    rest = "\n".join(line for line in call.splitlines() if line not in modules)
    text = f"import sys\nfrom pathlib import Path\n{modules}\nprint('go', flush=True)\n{rest}\n"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        _wait(process, dice.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)


def ledger_writer_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of who appends to the ledger: what was there stands, and it can be appended to."""
    home = world.home(folder)
    before = Ledger(home).entries()
    call = """
from flows.release.ledger import Ledger
from tests.flows.release.test_ledger import promote, release
while True: promote(Ledger(Path(sys.argv[1])), release("d"))
"""
    _killed(call, dice, home, seconds=0.3)
    found = Ledger(home).entries()
    if found[: len(before)] != before:
        yield "lines that were there are gone"
    promote(Ledger(home), release("e"))
    if Ledger(home).torn() or Ledger(home).current("denoise") != release("e"):
        yield "the next line is not the last"
    check_anchors(Ledger(home), read_anchors(Registry(home)))


def ledger_damaged(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """A byte of the ledger is another one, or its end is gone: it is found, and repaired with what serves."""
    home = world.home(folder)
    ledger, served = Ledger(home), Ledger(home).current("denoise")
    data = bytearray(ledger.path.read_bytes())
    if dice.random() < 0.5:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    else:
        del data[dice.randrange(len(data) - 1) :]
    ledger.path.write_bytes(data)
    registry = Registry(home)
    try:
        check_anchors(ledger, read_anchors(registry))
        if not ledger.torn():
            yield "it was not found"
    except RelumeError:
        pass
    repair_ledger(home, registry)
    check_anchors(ledger, read_anchors(registry))
    if ledger.current("denoise") != served:
        yield "another release serves after the repair"


def backup_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a backup: the one before it stands whole under its name."""
    home, file = world.home(folder), folder / "backup.tar"
    write_backup(home, file, keys=False)
    before = file.read_bytes()
    call = """
from flows.backup import write_backup
while True: write_backup(Path(sys.argv[1]), Path(sys.argv[2]), keys=False)
"""
    _killed(call, dice, home, file, seconds=0.5)
    if read_backup(file).files.keys() != read_backup_of(before, folder).keys():
        yield "the backup holds other files"
    write_backup(home, file, keys=False)
    read_backup(file)


def read_backup_of(data: bytes, folder: Path) -> dict[str, str]:
    """What a backup of these bytes states."""
    (folder / "before.tar").write_bytes(data)
    return read_backup(folder / "before.tar").files


def restoration_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a restoration: the same call completes it."""
    file, home = folder / "backup.tar", folder / "restored"
    write_backup(world.home(folder), file, keys=False)
    call = """
from flows.backup import restore_backup
restore_backup(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    _killed(call, dice, home, file, seconds=0.15)
    restore_backup(home, file)
    if Ledger(home).entries() != Ledger(world.released).entries():
        yield "the ledger is another one"
    check_anchors(Ledger(home), read_anchors(Registry(home)))


def collection_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a garbage collection: the next one finds the rest, and what is in use is all there."""
    toy = copy_toy(world.whole, folder)
    for number in range(200):
        path = toy.root / ".dvc" / "cache" / "files" / "md5" / f"{number % 100:02d}" / f"{number:030x}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    call = """
from flows.garbage.collect import collect
from relume.params import GarbageSettings
collect(Path(sys.argv[1]), Path(sys.argv[2]), GarbageSettings(runs=1, days=0), remove=True, now=4e9)
"""
    _killed(call, dice, toy.root, toy.home, seconds=4)
    collect(toy.root, toy.home, GarbageSettings(runs=1, days=0), remove=True, now=LATER)
    if collect(toy.root, toy.home, GarbageSettings(runs=1, days=0), remove=False, now=LATER).lines():
        yield "there is garbage left"
    for name in OUTS:
        shutil.rmtree(toy.root / name)
    toy.shell("dvc", "checkout", "--force")
    if state_of(toy) != world.state:
        yield "what is in use is not all there"


def rotation_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a key's rotation: every release stays signed by a trusted key, and the next call completes it."""
    home, names = folder / "home", [f"denoise-{number}" for number in range(4)]
    folders = [home / "models" / name for name in names]
    for each in folders:
        each.mkdir(parents=True)
        (each / "config.pbtxt").write_text(each.name)
        sign_release(each, keys_of(home))
    call = """
from relume.serving.signing import keys_of, rotate_key
import model_signing.signing, model_signing.verifying
rotate_key(sorted((Path(sys.argv[1]) / "models").glob("[!.]*")), keys_of(Path(sys.argv[1])))
"""
    _killed(call, dice, home, seconds=0.4)
    for each in folders:
        require_signed(each, keys_of(home))
    name = rotate_key(folders, keys_of(home))
    yield from (f"{each.name} has another key" for each in folders if require_signed(each, keys_of(home)) != name)


Fault = Callable[[World, Path, random.Random], Iterator[str]]
FAULTS: dict[str, Fault] = {
    "kill -9 of a pipeline run": driver_killed,
    "kill -9 of a stage": step_killed,
    "kill -9 of Prefect's server": server_killed,
    "two pipeline runs at once": two_runs,
    "kill -9 of who writes the ledger": ledger_writer_killed,
    "a byte or the end of the ledger": ledger_damaged,
    "kill -9 of a backup": backup_killed,
    "kill -9 of a restoration": restoration_killed,
    "kill -9 of a garbage collection": collection_killed,
    "kill -9 of a key's rotation": rotation_killed,
}
