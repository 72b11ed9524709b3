"""Faults of a training: a real one of 120 steps, by its step's command."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.world import MissedError, World, wait
from tests.components.test_training_steps import Checkout

STEP = "pretrain nafnet"


def trainer_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a training, at any moment from its start on or while it trains: the same weights come of it."""
    checkout = _interrupted(world, folder, dice, trains=dice.random() < 0.7)
    yield from _after_a_rerun(world, checkout)


def checkpoint_damaged(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """A bit or the end of a killed training's checkpoint: it is refused by its name, or the same weights come of it."""
    checkout = _interrupted(world, folder, dice, trains=True)
    (path,) = checkout.checkpoints()
    data = bytearray(path.read_bytes())
    if dice.random() < 0.7:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    else:
        del data[dice.randrange(len(data)) :]
    path.write_bytes(data)
    process = checkout.start(STEP)
    output = process.communicate(timeout=300)[0]
    if process.returncode:
        if "Traceback" in output or path.name not in output or process.returncode != 2:
            yield f"it is not refused by its name: {output[-1000:]}"
        path.unlink()  # as the message says
    yield from _after_a_rerun(world, checkout, again=bool(process.returncode))


def _interrupted(world: World, folder: Path, dice: random.Random, *, trains: bool) -> Checkout:
    """A training that was killed, once it trains or at any moment before its end."""
    checkout = Checkout(folder / "checkout")
    process = checkout.start(STEP)
    while trains and not checkout.checkpoints() and process.poll() is None:
        time.sleep(0.01)
    try:
        wait(process, dice.uniform(0, 0.8 if trains else world.training_seconds))
    finally:
        process.kill()
        process.communicate()
    if trains and not checkout.checkpoints():
        raise MissedError
    return checkout


def _after_a_rerun(world: World, checkout: Checkout, *, again: bool = True) -> Iterator[str]:
    if again:
        if list((checkout.folder / "models").glob("*/*")) and checkout.result(STEP) != world.trained:
            yield "something half-written lies under the name of the result"
        shutil.rmtree(checkout.folder / "models", ignore_errors=True)  # as DVC does before it runs a stage
        checkout.run(STEP)
    if checkout.result(STEP) != world.trained:
        yield "the weights are others"
    yield from (f"a checkpoint is left: {path.name}" for path in checkout.checkpoints())
