"""Releases under load: whether a client ever notices that what serves is replaced, broken or killed.

    python -m benchmarks.rollout [--rollouts 10]

Four clients (gRPC, shared memory, HTTP, the gateway) restore images all the time, while a home of the benchmark's own
releases tiny packages, each first in the champion's shadow and as a canary, rolls each back, is given broken ones of
nine kinds, and has its server killed twice. Each answer must have the pixels of the release that it names; no request
may fail outside of the time from a kill until the champion serves again; memory and /dev/shm may not grow. It takes
minutes, prints what it saw and writes it to benchmarks/results/rollout.json; the exit code is 1 if something was not
as it must be.
"""

import argparse
import collections
import contextlib
import datetime
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import requests

from benchmarks.serving import hardware
from flows.embedded_triton import EmbeddedTriton, TritonServer
from flows.gateway.app import Gateway, Limits, gateway_app
from flows.monitoring.requests import Requests
from flows.release import trial
from flows.release.ledger import Ledger
from flows.release.package import open_package
from flows.release.release import release_package
from flows.release.rollback import roll_back
from flows.release.served_product import serve_champions
from relume.errors import RelumeError
from relume.files import write_json
from relume.images import decode, encode
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.served_model import onnx_path
from relume.serving.triton_client import TritonRestorer
from tests.flows.release.synthetic import gaussian, onnx_filter
from tests.flows.web import serving
from tests.real import releases
from tests.real.embedded_triton import link_server

PAUSE = 0.1  # seconds between two images of a client, so that four take about a core
ROLLOUT = {"shadow": 100.0, "canary": 30.0, "hold_minutes": 0.05, "look_seconds": 0.5, "max_latency_ratio": 100.0}
IMAGE = np.random.default_rng(3).integers(0, 256, (90, 130, 3), np.uint8)
# At most so much more memory than after the second release: the last ones need no more than the first ones did.
GROWTH = 1.15

Restore = Callable[[], tuple[np.ndarray, str]]
"""Restores the image; its pixels, and the release that is named with them."""


class Clients:
    """Clients of each kind that restore one image over and over. Use it in a `with` statement.

    Attributes:
        right: By release, the pixels that are right; each is here before its release is.
        answers: By kind of client and release, how many answers it gave.
        wrong: What was answered wrongly.
        errors: Kind, begin and end of each request that failed, and why.
    """

    def __init__(self, triton: EmbeddedTriton, gateway: str, right: dict[str, np.ndarray]):
        self.right, self.answers = right, collections.Counter[tuple[str, str]]()
        self.wrong: list[str] = []
        self.errors: list[tuple[str, float, float, str]] = []
        self._triton, self._end = triton, threading.Event()
        kinds: dict[str, Callable[[TritonServer], contextlib.AbstractContextManager[Restore]]] = {
            "gRPC": lambda server: _triton(server.grpc, None),
            "shared memory": lambda server: _triton(server.grpc, server.key),
            "HTTP": lambda server: _triton(server.http, server.key),
            "gateway": lambda _: contextlib.nullcontext(lambda: _by_gateway(gateway)),
        }
        self._threads = [threading.Thread(target=self._run, args=each) for each in kinds.items()]

    def _run(self, kind: str, connect: Callable[[TritonServer], contextlib.AbstractContextManager[Restore]]) -> None:
        while not self._end.wait(PAUSE):
            if (server := self._triton.running()) is None:
                continue
            begin = time.monotonic()
            try:
                with connect(server) as restore:  # anew after each error: a server that starts has another key
                    while not self._end.wait(PAUSE):
                        begin = time.monotonic()
                        pixels, release = restore()
                        self.answers[kind, release] += 1
                        if not np.array_equal(pixels, self.right[release]):
                            self.wrong.append(f"{kind}: not the pixels of {release}")
            except Exception as error:
                self.errors.append((kind, begin, time.monotonic(), f"{type(error).__name__}: {error}"))

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(90)


@contextlib.contextmanager
def _triton(address: str, key: str | None) -> Iterator[Restore]:
    with TritonRestorer(address, "denoise", key=key, timeout=20) as restorer:

        def restore() -> tuple[np.ndarray, str]:
            found = restorer.restore(IMAGE)
            return found.image, found.release

        yield restore


def _by_gateway(address: str) -> tuple[np.ndarray, str]:
    answer = requests.post(f"{address}/v1/restore", data=encode(IMAGE, ".png"), timeout=60)
    answer.raise_for_status()
    return decode(answer.content).pixels, answer.headers["x-relume-release"]


def truncated(root: Path) -> None:
    """The ONNX file is cut in half."""
    path = onnx_path(root / "package" / "serving")
    os.truncate(path, path.stat().st_size // 2)


def wrong_shape(root: Path) -> None:
    """The graph takes tiles of another size than its serving.json states."""
    onnx_filter(onnx_path(root / "package" / "serving"), gaussian(1.0), tile=32)


def not_a_number(root: Path) -> None:
    """All weights are NaN."""
    onnx_filter(onnx_path(root / "package" / "serving"), np.full((5, 5), np.nan))


BROKEN: dict[str, Callable[[Path], None] | str] = {
    "truncated": truncated,
    "wrong shape": wrong_shape,
    "NaN": not_a_number,
    "slow": releases.SLOW,
    "hangs on load": "\n\nimport time\n\ntime.sleep(1000)\n",
    "out of memory": "\n\nbytearray(1 << 60)\n",
    "wrong parity": releases.OTHER_RESULTS,
    "ends its server": releases.ENDS_THE_SERVER,
}


class Play:
    """What happens to a home while clients use it.

    Args:
        root: A checkout of tests.
        home: Its home.
    """

    def __init__(self, root: Path, home: Path):
        self.root, self.home, self.triton = root, home, EmbeddedTriton(home)
        self.right: dict[str, np.ndarray] = {}
        self.refused: dict[str, str] = {}
        self.outages: list[tuple[float, float]] = []
        self.memory: list[dict[str, float]] = []
        self.problems: list[str] = []

    def release(self, blur: float, rollout: dict[str, float] | None = None) -> str:
        """Releases a package that blurs so much."""
        releases.put_package(self.root, blur=blur)
        return self._release(rollout)

    def _release(self, rollout: dict[str, float] | None = None) -> str:
        serving = self.root / "package" / "serving"
        with contextlib.suppress(Exception):  # of a broken one, which must not answer anyway
            self.right[open_package(self.root / "package").model] = OnnxRestorer(serving).restore(IMAGE).image
        return release_package(self.root, self.home, lineage=releases.LINEAGE, rollout=rollout).release.model

    def refuse(self, kind: str, do: Callable[[], object]) -> None:
        """Does what must be refused and must leave the champion as it is."""
        champion, before = Ledger(self.home).current("denoise"), len(self.problems)
        try:
            do()
        except RelumeError as error:
            self.refused[kind] = f"{type(error).__name__}: {error.what}"
        else:
            self.problems.append(f"{kind}: it was not refused")
        if Ledger(self.home).current("denoise") != champion or Ledger(self.home).unfinished():
            self.problems.append(f"{kind}: the champion is another one")
        print(f"  {kind:<16} {'REFUSED NOT' if len(self.problems) > before else self.refused[kind]}", flush=True)

    def broken(self, kind: str) -> None:
        """Tries to release a broken package."""
        releases.put_package(self.root, blur=1.1)
        how = BROKEN[kind]
        if callable(how):
            how(self.root)
            releases.restate(self.root / "package")
        else:
            releases.add_to_model_py(self.root, how)
        self.refuse(kind, self._release)

    def wrong_signature(self) -> None:
        """Tries to roll back to a release that was changed after it was signed."""
        previous = Ledger(self.home).previous("denoise")
        assert previous is not None
        program = self.triton.repository / previous.model / "1" / "model.py"
        text = program.read_text()
        program.write_text(text + "# changed\n")
        self.refuse("wrong signature", lambda: roll_back(self.root, self.home))
        program.write_text(text)

    def kill(self) -> None:
        """Ends the server as the kernel does for want of memory, and serves again."""
        server, pid = self.triton.running(), self.triton.status().pid
        assert server is not None
        assert pid is not None
        begin = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        again = self.triton.start(
            grpc_port=server.grpc_port, http_port=server.http_port, metrics_port=server.metrics_port
        )
        serve_champions(self.home)
        self.outages.append((begin, time.monotonic() + 2.0))  # clients connect again within a second or two
        if again.grpc_port != server.grpc_port:
            self.problems.append("the server came back at another address")

    def look(self) -> None:
        """Notes the memory of the server with its models, and of /dev/shm."""
        process = psutil.Process(self.triton.status().pid)
        rss = sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
        own = psutil.Process().memory_info().rss
        self.memory.append(
            {"server_mb": rss / 1e6, "clients_mb": own / 1e6, "shm_mb": psutil.disk_usage("/dev/shm").used / 1e6}
        )


def run(folder: Path, rollouts: int) -> dict:
    """The whole play in a folder; what was seen, with its `problems`."""
    root, home = releases.make_checkout(folder / "checkout"), folder / "home"
    link_server(home)
    play = Play(root, home)
    trial.LOAD_SECONDS = 10.0  # of a model that hangs
    try:
        server = play.triton.start(grpc_port=None, http_port=None, metrics_port=None)
        play.release(0.8)
        routing = milliseconds_of_routing(server)
        gateway = Gateway(server.grpc, "denoise", key=server.key, limits=Limits(), requests=Requests(home))
        with serving(gateway_app(gateway)) as address, Clients(play.triton, address, play.right) as clients:
            started = time.monotonic()
            for number in range(rollouts):
                print(f"release {number + 1} of {rollouts}", flush=True)
                play.release(0.82 + 0.02 * number, ROLLOUT)
                roll_back(root, home)
                if number in (1, rollouts - 1):
                    play.look()
            play.release(0.85)
            for kind in BROKEN:
                play.broken(kind)
            play.wrong_signature()
            for _ in range(2):
                play.kill()
                time.sleep(5)
            seconds = time.monotonic() - started
    finally:
        play.triton.stop()
    return report(play, clients, seconds) | {"routing_ms": routing}


def milliseconds_of_routing(server: TritonServer) -> dict[str, float]:
    """What an image of one tile takes whose release the client asks for, as it always does, and one without asking."""
    image = IMAGE[:32, :32]
    found: dict[str, list[float]] = {"asked": [], "known": []}
    with TritonRestorer(server.grpc, "denoise", key=server.key) as restorer:
        known = restorer.served()
        for _ in range(200):
            for name, served in (("asked", None), ("known", known)):
                begin = time.monotonic()
                restorer.restore(image, served=served)
                found[name].append(1000 * (time.monotonic() - begin))
    return {name: round(statistics.median(times), 2) for name, times in found.items()}


def report(play: Play, clients: Clients, seconds: float) -> dict:
    """What was seen; whatever was not as it must be is among its `problems`."""
    outside = [
        f"{kind}: {why}"
        for kind, begin, end, why in clients.errors
        if not any(begin <= until and end >= since for since, until in play.outages)
    ]
    problems = [*play.problems, *clients.wrong, *outside]
    first, last = play.memory[0], play.memory[-1]
    problems += [
        f"{name} grew from {first[name]:.0f} to {last[name]:.0f} MB"
        for name in first
        if last[name] > GROWTH * first[name] + 8
    ]
    by_kind: dict[str, int] = collections.Counter()
    for (kind, _), count in clients.answers.items():
        by_kind[kind] += count
    silent = {"gRPC", "shared memory", "HTTP", "gateway"} - set(by_kind)
    problems += [f"{kind}: no answer at all" for kind in silent]
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "seconds": round(seconds),
        "answers": dict(by_kind),
        "releases_that_answered": len({release for _, release in clients.answers}),
        "failed_in_outages": len(clients.errors) - len(outside),
        "outages_seconds": [round(until - since - 2.0, 1) for since, until in play.outages],
        "refused": play.refused,
        "memory": play.memory,
        "problems": problems,
    }


def main() -> None:
    """Runs the play, prints and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=10, help="releases and rollbacks")
    parser.add_argument("--output", default="benchmarks/results/rollout.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relume-rollout-") as folder:
        found = run(Path(folder), options.rollouts)
    write_json(options.output, found)
    for name, value in found.items():
        print(f"{name}: {value}")
    sys.exit(bool(found["problems"]))


if __name__ == "__main__":
    main()
