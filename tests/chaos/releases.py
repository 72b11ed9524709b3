"""Faults of a release: it is killed itself, or one of what it works with, at any moment.

The checkout's packages are released by real Triton; the registry is a real MLflow server on a real PostgreSQL.
"""

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests

from flows.processes import free_port
from flows.release.anchor import check_anchors, read_anchors
from flows.release.ledger import Ledger
from flows.release.package import open_package
from flows.release.registry import Registry
from relume.images import decode, encode
from tests.abuse.kills import TURNS
from tests.abuse.served_home import IMAGE
from tests.chaos.served import Served
from tests.chaos.world import World, wait

SECONDS = 300.0  # after which a release counts as hanging
RELEASE = """
import sys
from pathlib import Path
from flows.release.release import release_package
from relume.errors import RelumeError
from tests.real.releases import LINEAGE
print("go", flush=True)
try:
    release_package(Path(sys.argv[1]), Path(sys.argv[2]), lineage=LINEAGE)
except RelumeError as error:
    sys.exit(f"error: {error}")
"""


def release_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of a release."""

    def kill(served: Served, process: subprocess.Popen) -> None:
        process.kill()

    yield from _disturbed(world, dice, kill)


def triton_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of one of Triton's servers."""
    yield from _disturbed(world, dice, lambda served, _: served.kill_triton())


def mlflow_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of MLflow's server."""
    yield from _disturbed(world, dice, lambda served, _: served.kill_mlflow())


def database_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of PostgreSQL below MLflow's server."""
    yield from _disturbed(world, dice, lambda served, _: served.kill_database())


def two_releases(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Two releases of the same package that begin within two seconds of one another."""
    served: Served = world.served
    with served.here():
        model = served.platform.put(dice.uniform(*TURNS))
        processes = [_start(served)]
        time.sleep(dice.uniform(0, 2))
        processes.append(_start(served))
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
        if all(process.returncode for process in processes):
            yield f"neither worked: {errors[0][-600:]} {errors[1][-600:]}"
        yield from (f"a traceback: {each[-1000:]}" for each in errors if "Traceback" in each)
        yield from _wrong(served, model)


def _start(served: Served) -> subprocess.Popen:
    command = [sys.executable, "-c", RELEASE, str(served.root), str(served.home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _disturbed(world: World, dice: random.Random, kill: Callable[[Served, subprocess.Popen], None]) -> Iterator[str]:
    """A release of a package that is new, what is killed meanwhile, and the same release once more."""
    served: Served = world.served
    with served.here():
        before = served.platform.champion
        model = served.platform.put(dice.uniform(*TURNS))
        process = _start(served)
        assert process.stdout
        process.stdout.readline()
        try:
            wait(process, dice.uniform(0, served.seconds))
            kill(served, process)
        finally:
            errors = process.communicate(timeout=SECONDS)[1]
            if process.returncode is None:
                process.kill()
        if "Traceback" in errors:
            yield f"a traceback: {errors[-1500:]}"
        if served.platform.champion not in (before, model):
            yield f"the champion is {served.platform.champion}"
        served.platform.release()
        yield from _wrong(served, model)


def _wrong(served: Served, model: str) -> Iterator[str]:
    """What does not hold once a package is released."""
    registry, ledger = Registry(served.home), Ledger(served.home)
    if served.platform.champion != model:
        yield f"the champion is {served.platform.champion} and not {model}"
    yield from served.platform.wrong()
    check_anchors(ledger, read_anchors(registry))
    package = open_package(served.root / "package")
    found = [each for each in registry._client.search_model_versions("name = 'denoise'") if _of(each, package.sha256)]
    if len(found) != 1:
        yield f"the registry has {len(found)} versions of the package"
    champion = registry.by_alias("denoise", "champion")
    if champion is None or champion != registry.find("denoise", package.sha256):
        yield f"the alias champion is at {champion}"


def _of(version: object, sha256: str) -> bool:
    return sha256 in str(getattr(version, "tags", ""))


def gateway_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of the gateway while clients send images: the next one answers as before, at the same address."""
    served: Served = world.served
    data, port = encode(IMAGE, ".png"), free_port()
    with served.here():
        expected = served.platform.images[served.platform.champion]
        with _gateway(port) as process:
            seen: list[str] = []
            clients = [threading.Thread(target=_send, args=(port, data, expected, seen)) for _ in range(3)]
            for client in clients:
                client.start()
            time.sleep(dice.uniform(0, 2))
            process.kill()
            process.wait()
            for client in clients:
                client.join()
            yield from seen
        with _gateway(port):
            answer = requests.post(f"http://127.0.0.1:{port}/v1/restore", data=data, timeout=60)
            if answer.status_code != 200 or (decode(answer.content).pixels != expected).any():
                yield f"the next gateway answers otherwise: {answer.status_code}"
        yield from served.platform.wrong()


@contextlib.contextmanager
def _gateway(port: int) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", "from relume.cli import main; main()", "gateway", "--port", str(port)]
    with subprocess.Popen([*command, "--product", "denoise"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("http"), "the gateway did not start"
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _send(port: int, data: bytes, expected: object, seen: list[str]) -> None:
    """Sends an image over and over until the gateway is gone."""
    while True:
        try:
            answer = requests.post(f"http://127.0.0.1:{port}/v1/restore", data=data, timeout=60)
        except requests.RequestException:
            return
        if answer.status_code != 200:
            seen.append(f"the gateway answered {answer.status_code} {answer.text[:300]}")
            return
        if (decode(answer.content).pixels != expected).any():
            seen.append("a client got another image")
