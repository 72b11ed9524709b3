"""Faults of what a home keeps: the ledger, backups, garbage, keys."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.backup import read_backup, restore_backup, write_backup
from flows.garbage.collect import collect
from flows.release.anchor import check_anchors, read_anchors, repair_ledger
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from relume.errors import RelumeError
from relume.params import GarbageSettings
from relume.serving.signing import keys_of, require_signed, rotate_key, sign_release
from tests.chaos.world import OUTS, World, state_of, wait
from tests.flows.release.test_ledger import promote, release
from tests.flows.toy import copy_toy
from tests.real.embedded_triton import CHECKOUT

LATER = 4e9


def killed(call: str, dice: random.Random, *arguments: object, seconds: float) -> None:
    """Runs a call in a process of its own, which is killed at any moment once it has imported what it needs."""
    modules = "\n".join(line for line in call.splitlines() if line.startswith(("import", "from")))
    rest = "\n".join(line for line in call.splitlines() if line not in modules)
    text = f"import sys\nfrom pathlib import Path\n{modules}\nprint('go', flush=True)\n{rest}\n"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            wait(process, dice.uniform(0, seconds))
        finally:
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
    killed(call, dice, home, seconds=0.3)
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
    killed(call, dice, home, file, seconds=0.5)
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
    killed(call, dice, home, file, seconds=0.15)
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
    killed(call, dice, toy.root, toy.home, seconds=4)
    collect(toy.root, toy.home, GarbageSettings(runs=1, days=0), remove=True, now=LATER)
    if collect(toy.root, toy.home, GarbageSettings(runs=1, days=0), remove=False, now=LATER).lines():
        yield "there is garbage left"
    for name in OUTS:
        shutil.rmtree(toy.root / name)
    toy.shell("dvc", "checkout", "--force", *OUTS)
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
    killed(call, dice, home, seconds=0.4)
    for each in folders:
        require_signed(each, keys_of(home))
    name = rotate_key(folders, keys_of(home))
    yield from (f"{each.name} has another key" for each in folders if require_signed(each, keys_of(home)) != name)
