"""Faults of pipeline runs, on a graph of two stages with real git, DVC, Prefect and MLflow."""

import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import psutil

from tests.abuse.disks import MOUNTS, can_mount
from tests.abuse.served_home import processes_of
from tests.chaos.served import MissedError
from tests.chaos.world import (
    OUTS,
    STAGES,
    NotHereError,
    World,
    retrained,
    start_retraining,
    state_of,
    wait,
)
from tests.flows.runners.conftest import containers
from tests.flows.toy import Toy, copy_toy, wait_until
from tests.real.embedded_triton import CHECKOUT

SECONDS = 300.0  # after which a run counts as hanging


def after_a_rerun(state: dict[str, str], toy: Toy) -> Iterator[str]:
    """What does not hold after a plain second call."""
    process = toy.start(STAGES[-1])
    out, errors = process.communicate(timeout=SECONDS)
    if process.returncode:
        yield f"the second call failed: {(out + errors)[-1500:]}"
        return
    yield from left_over(state, toy)


def left_over(state: dict[str, str], toy: Toy) -> Iterator[str]:
    """What is not as after an undisturbed run."""
    found = state_of(toy)
    yield from (f"{name} is another one: {found[name][:300]}" for name in found if found[name] != state[name])
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not processes_of(toy.home), 20)
    for process in processes_of(toy.home):
        with contextlib.suppress(psutil.Error):
            yield f"a process is left: {' '.join(process.cmdline())[:100]}"
    yield from (f"a record is left: {path.name}" for path in (toy.home / "active").glob("[!.]*"))
    yield from (f"a clone is left: {path}" for path in (toy.home / "runs").glob("*/*/clone"))
    yield from (f"the cache has a wrong object: {path}" for path in objects_of(toy) if not holds_its_name(path))


def objects_of(toy: Toy) -> list[Path]:
    """The objects of DVC's cache under their final names."""
    return sorted((toy.root / ".dvc" / "cache" / "files" / "md5").glob("??/*"))


def holds_its_name(path: Path) -> bool:
    """Whether an object of the cache has the bytes of which its name is the hash."""
    name = (path.parent.name + path.name).removesuffix(".dir")
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == name


def slow(toy: Toy, dice: random.Random) -> None:
    """Steps that take long enough to be hit."""
    for stage in STAGES:
        toy.tell("sleep", stage, round(dice.uniform(0.2, 1.5), 2))


def driver_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a pipeline run at any moment from its start on, in one of four rounds of the first run of a home."""
    toy = copy_toy(dice.choice([world.toy, world.toy, world.toy, world.new]), folder)
    slow(toy, dice)
    process = toy.start(STAGES[-1])
    moment = dice.choice(["import", "commit", "stage"])
    if moment != "import":
        there = {"commit": "runs/*/", "stage": "runs/*/*/clone"}[moment]
        while process.poll() is None and not [*toy.home.glob(there)]:
            time.sleep(0.02)
    try:
        wait(process, dice.uniform(0, 5))
    finally:
        process.kill()
        process.communicate()
    yield from after_a_rerun(world.state, toy)


def step_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of the process of a running stage."""
    toy = copy_toy(world.toy, folder)
    for stage in STAGES:
        toy.tell("sleep", stage, 3)
    process, wanted = toy.start(STAGES[-1]), dice.choice(["first", "pretrain"])

    def steps() -> list[psutil.Process]:
        living = []
        for each in processes_of(toy.home):
            with contextlib.suppress(psutil.Error):
                if f"components.{wanted}" in each.cmdline():
                    living.append(each)
        return living

    while process.poll() is None and not steps():
        time.sleep(0.05)
    time.sleep(dice.uniform(0, 2))
    hit = steps()[:1]
    for step in hit:
        with contextlib.suppress(psutil.Error):
            step.kill()
    process.communicate(timeout=SECONDS)
    if not hit:
        raise MissedError
    yield from after_a_rerun(world.state, toy)


def server_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of the Prefect server that a run has started and reports to."""
    toy = copy_toy(world.toy, folder)
    del toy.variables["PREFECT_API_URL"]
    slow(toy, dice)
    process = toy.start(STAGES[-1])
    servers = toy.home / "prefect" / "servers"
    while process.poll() is None and not [*servers.glob("[!.]*.json")]:
        time.sleep(0.05)
    wait(process, dice.uniform(0, 12))
    hit = False
    for each in processes_of(toy.home):
        with contextlib.suppress(psutil.Error):
            if "prefect.server.api.server:create_app" in each.cmdline():
                each.kill()
                hit = True
    process.communicate(timeout=SECONDS)
    if not hit:
        raise MissedError
    yield from after_a_rerun(world.state, toy)


def two_runs(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Two runs that begin within three seconds of one another: one works, the other is refused or finds all done."""
    toy = copy_toy(dice.choice([world.toy, world.toy, world.toy, world.new]), folder)
    slow(toy, dice)
    first = toy.start(STAGES[-1])
    time.sleep(dice.choice([0, dice.uniform(0, 3)]))
    second = toy.start(STAGES[-1])
    outputs = [process.communicate(timeout=SECONDS) for process in (first, second)]
    codes = [first.returncode, second.returncode]
    if 0 not in codes:
        yield f"neither worked: {codes} {outputs[0][1][-500:]} {outputs[1][1][-500:]}"
    for code, (_, errors) in zip(codes, outputs, strict=True):
        if code and "Another run is in progress" not in errors:
            yield f"one failed for another reason: {errors[-1000:]}"
    if len(toy.ran()) != len(STAGES):
        yield f"the stages ran {len(toy.ran())} times"
    yield from left_over(world.state, toy)


def clock_jumps(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """The clock jumps during a run, by seconds to a year, to and fro; the second call has the right time again."""
    toy = copy_toy(world.toy, folder)
    if dice.random() < 0.3:
        del toy.variables["PREFECT_API_URL"]  # its own server, whose clock jumps with it
    slow(toy, dice)
    clock = folder / "clock"
    jumps = [f"{dice.choice('+-')}{int(10 ** dice.uniform(0.5, 7.5))}" for _ in range(3)]
    clock.write_text(jumps[0])
    toy.variables |= {"LD_PRELOAD": str(world.clock), "CLOCK_FILE": str(clock)}
    process = toy.start(STAGES[-1])
    for jump in jumps[1:]:
        with contextlib.suppress(MissedError):
            wait(process, dice.uniform(0, 10))
        clock.write_text(jump)
    try:
        errors = process.communicate(timeout=SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        yield f"the run hangs after jumps of {jumps} seconds"
    else:
        if process.returncode and "Traceback" in errors:
            yield f"a traceback after jumps of {jumps} seconds: {errors[-1500:]}"
    for name in ("LD_PRELOAD", "CLOCK_FILE"):
        del toy.variables[name]
    yield from after_a_rerun(world.state, toy)


def container_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a running step's container, of its driver, or of both."""
    toy = copy_toy(world.toy, folder, DOCKER_HOST=world.engine)
    toy.write("params.yaml", (toy.root / "params.yaml").read_text() + "runner: docker\n")
    for stage in STAGES:
        toy.tell("sleep", stage, 4)
    engine = docker.DockerClient(world.engine)
    process = toy.start(STAGES[-1])
    wanted = dice.choice(STAGES)
    while process.poll() is None and wanted not in toy.ran():
        time.sleep(0.1)
    time.sleep(dice.uniform(0, 2))
    victims = containers(engine, toy.home)
    if not victims:
        process.communicate(timeout=SECONDS)
        raise MissedError
    what = dice.choice(["container", "container", "driver", "both"])
    if what != "container":
        process.kill()
    if what != "driver":
        with contextlib.suppress(docker.errors.APIError):  # it has ended
            victims[0].kill()
    process.communicate(timeout=SECONDS)
    yield from after_a_rerun(world.state, toy)
    yield from (f"a container is left: {each.id}" for each in containers(engine, toy.home))


def two_retrainings(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Two retrainings of a new photograph that begin within three seconds, one of which may be killed."""
    template, wanted = world.retraining
    shutil.copytree(template, folder / "place", symlinks=True)
    root, home = folder / "place" / "checkout", folder / "place" / "home"
    first = start_retraining(root, home, world.prefect)
    time.sleep(dice.uniform(0, 3))
    second = start_retraining(root, home, world.prefect)
    killed = dice.choice([None, first, second])
    if killed:
        time.sleep(dice.uniform(0, 15))
        killed.kill()
    for process in (first, second):
        errors = process.communicate(timeout=SECONDS)[1]
        if process.returncode and process is not killed:
            yield f"a retraining failed: {errors[-1500:]}"
    found = retrained(root, home)
    yield from (f"{name} is another one: {found[name][:300]}" for name in found if found[name] != wanted[name])
    yield from (f"a record is left: {path.name}" for path in (home / "active").glob("[!.]*") if not killed)
    yield from (f"a clone is left: {path}" for path in (home / "runs").glob("*/*/clone"))


def disk_fails(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """The disk of the checkout and of the home fills, or becomes read-only, during a run, and is sound again later.

    It is a file system in memory, mounted where only a process and its children see it: see `tests.abuse.disks`.
    """
    mounts = next((words for words in MOUNTS if can_mount(words)), None)
    if mounts is None:
        raise NotHereError("nothing may be mounted here")
    (folder / "state.json").write_text(json.dumps(world.state))
    places = (world.toy.root, world.toy.home, world.prefect, folder)
    command = [*mounts, sys.executable, "-m", "tests.chaos.disk", *map(str, places), str(dice.getrandbits(32))]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    yield from json.loads(done.stdout) if done.returncode == 0 else [done.stderr]


def object_damaged(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """A bit or the end of an object in DVC's cache: the next run names it, makes it again, and never uses it."""
    # In the other one the second stage is stale, and reads what the first has left in the cache.
    template, wanted = dice.choice([(world.whole, world.state), world.changed])
    toy = copy_toy(template, folder)
    for out in dice.choice([OUTS, OUTS[:1], OUTS[1:]]):
        shutil.rmtree(toy.root / out)
    path = dice.choice(objects_of(toy))
    data = bytearray(path.read_bytes())
    if dice.random() < 0.7:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    else:
        del data[dice.randrange(len(data)) :]
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)
    process = toy.start(STAGES[-1])
    out, errors = process.communicate(timeout=SECONDS)
    if process.returncode:
        yield f"the run failed: {(out + errors)[-1500:]}"
        return
    if path.parent.name + path.name not in out:
        yield "the run does not name it"
    found = state_of(toy)
    yield from (f"{name} is another one: {found[name][:300]}" for name in found if found[name] != wanted[name])
    yield from (f"the cache has a wrong object: {path}" for path in objects_of(toy) if not holds_its_name(path))
