"""Faults of S3, between relume and a real S3 server: errors, slow and cut connections, other ETags, a killed server.

One of three things is done meanwhile: a curated folder is uploaded, patches are read for a training, photographs are
listed and read. It may end in one message, or give what it gives undisturbed; the second call, plain, always does.
"""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from relume import s3
from relume.errors import RelumeError
from relume.ingestion.sources import open_source, scan
from relume.training.patches import PatchShards
from relume.training.streaming import open_streamed, upload
from tests.chaos.world import MissedError, World
from tests.real.object_store import ObjectStore, object_store

SHARDS = (40, 30)  # patches of 32 x 32, which is 215 kB
Pump = Callable[[socket.socket, socket.socket, bool], None]
_ETAG = re.compile(rb"(?<=ETag: \")[0-9a-f]{32}|(?<=<ETag>&#34;)[0-9a-f]{32}|(?<=<ETag>&quot;)[0-9a-f]{32}", re.I)


class FaultyProxy:
    """Forwards connections to a server, the first ones by a faulty pump.

    Args:
        endpoint: The server's.
        pump: Passes bytes of a faulty connection on, from a socket to another; True for those of the answer.
        count: How many connections are faulty.
    """

    def __init__(self, endpoint: str, pump: Pump, count: int):
        self._target = ("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))
        self._pump, self._count, self.hits = pump, count, 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accepts no more."""
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                pump = self._pump if self.hits < self._count else plain
                self.hits += 1
                target = socket.create_connection(self._target)
                for source, sink, answer in ((client, target, False), (target, client, True)):
                    threading.Thread(target=_passed, args=(pump, source, sink, answer), daemon=True).start()


def _passed(pump: Pump, source: socket.socket, sink: socket.socket, answer: bool) -> None:
    with contextlib.suppress(OSError):
        pump(source, sink, answer)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def plain(source: socket.socket, sink: socket.socket, answer: bool) -> None:
    """Passes all on."""
    while chunk := source.recv(65536):
        sink.sendall(chunk)


def errors(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Some requests are answered with 500, 503, 429 or what is no HTTP."""
    texts = {
        500: ("Internal Server Error", "InternalError"),
        503: ("Slow Down", "SlowDown"),
        429: ("Too Many Requests", "TooManyRequests"),
        502: ("Bad Gateway", ""),
    }
    code = dice.choice([*texts])
    body = f"<Error><Code>{texts[code][1]}</Code></Error>" if texts[code][1] else "<html>bad gateway</html>"
    head = f"HTTP/1.1 {code} {texts[code][0]}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    answers = [f"{head}Connection: close\r\n\r\n{body}".encode()] * 4 + [b"no HTTP at all\r\n\r\n"]
    given = dice.choice(answers)

    def pump(source: socket.socket, sink: socket.socket, answer: bool) -> None:
        if answer:
            plain(source, sink, answer)
            return
        seen = b""
        while b"\r\n\r\n" not in seen and (chunk := source.recv(65536)):
            seen += chunk
        source.sendall(given)
        source.shutdown(socket.SHUT_WR)
        while source.recv(65536):
            pass

    yield from _disturbed(world, folder, dice, pump)


def slow_answers(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Bytes come in drops, with pauses."""
    drop, pause = dice.choice([(512, 0.005), (4096, 0.05), (16384, 0.4)])

    def pump(source: socket.socket, sink: socket.socket, answer: bool) -> None:
        while chunk := source.recv(drop):
            time.sleep(pause)
            sink.sendall(chunk)

    yield from _disturbed(world, folder, dice, pump)


def cut_connections(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Connections end after some bytes, of the question or of the answer."""
    of_answer, limit = dice.random() < 0.6, int(10 ** dice.uniform(1, 5))

    def pump(source: socket.socket, sink: socket.socket, answer: bool) -> None:
        if answer != of_answer:
            plain(source, sink, answer)
            return
        left = limit
        while left > 0 and (chunk := source.recv(min(16384, left))):
            sink.sendall(chunk)
            left -= len(chunk)

    yield from _disturbed(world, folder, dice, pump)


def other_etags(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """Answers state an ETag that is not the object's."""
    other = b"%032x" % dice.getrandbits(128)

    def pump(source: socket.socket, sink: socket.socket, answer: bool) -> None:
        while chunk := source.recv(65536):
            sink.sendall(_ETAG.sub(other, chunk) if answer else chunk)

    # Where every answer lies alike, no upload can know; a training may then refuse what was uploaded.
    yield from _disturbed(world, folder, dice, pump, lies=True)


def server_killed(world: World, folder: Path, dice: random.Random) -> Iterator[str]:
    """kill -9 of the server, which is started again with what it had stored."""
    data = folder / "data"
    data.mkdir()
    with object_store(data, "photos", "dvc") as store, _use(store.endpoint, store):
        work = _Work(folder, dice)
        timer = threading.Timer(dice.uniform(0, 1.5), os.killpg, (store.pid, signal.SIGKILL))
        timer.start()
        with patch.object(s3, "_ATTEMPTS", 2):  # a server that is gone need not be asked for half a minute
            found, refusal = work.tried()
            while timer.is_alive() and not refusal and (found == work.expected):
                found, refusal = work.tried()
        timer.join()
    yield from work.wrong(found, refusal)
    with object_store(data, "photos", "dvc") as store, _use(store.endpoint, store):
        yield from work.wrong_after()


def _disturbed(world: World, folder: Path, dice: random.Random, pump: Pump, *, lies: bool = False) -> Iterator[str]:
    store = world.s3
    with _use(store.endpoint, store):
        work = _Work(folder, dice)
    proxy = FaultyProxy(store.endpoint, pump, dice.choice([1, 2, 4, 8, 16, 1000]))
    try:
        with _use(proxy.endpoint, store):
            found, refusal = work.tried()
    finally:
        proxy.close()
    if not proxy.hits:
        raise MissedError
    yield from work.wrong(found, refusal)
    with _use(store.endpoint, store):
        yield from work.wrong_after(may_refuse=lies)


@contextlib.contextmanager
def _use(endpoint: str, store: ObjectStore) -> Iterator[None]:
    """relume's client talks to an endpoint."""
    s3._make_client.cache_clear()
    with patch.dict(os.environ, store.environment | {"AWS_ENDPOINT_URL": endpoint}):
        os.environ.pop("AWS_PROFILE", None)
        yield
    s3._make_client.cache_clear()


class _Work:
    """What is done while S3 fails: one of three things, on objects of its own.

    Args:
        folder: For what it needs on disk.
        dice: Chooses it.
    """

    def __init__(self, folder: Path, dice: random.Random):
        self._folder, self._curated = folder, folder / "curated"
        self._curated.mkdir()
        rng = np.random.default_rng(dice.getrandbits(32))
        for number, count in enumerate(SHARDS):
            np.save(self._curated / f"train-{number:05d}.npy", rng.integers(0, 256, (count, 32, 32, 3), np.uint8))
        self._address = f"s3://dvc/{dice.getrandbits(64):x}"
        self._photographs = {f"{name}.png": rng.bytes(20_000) for name in "abcde"}
        self._kind = dice.choice(["upload", "training", "photographs"])
        self.expected = self._truth()
        if self._kind == "training":
            self._upload()
        if self._kind == "photographs":
            for name, content in self._photographs.items():
                s3.write(f"{self._address}/{name}", content)

    def _truth(self) -> str:
        if self._kind == "photographs":
            return _hash(*self._photographs.values())
        return _hash(*PatchShards(self._curated).read(range(sum(SHARDS))))

    def _upload(self) -> None:
        upload(self._curated, self._address, progress=lambda *_: None)

    def tried(self) -> tuple[str, str]:
        """What came of it, and how it was refused."""
        try:
            if self._kind == "upload":
                self._upload()
            if self._kind == "photographs":
                listed = scan([self._address])["files"]
                return _hash(*(open_source(each["address"], expect=each["hash"]) for each in listed)), ""
            if self._kind == "training":
                return self._patches(), ""
        except RelumeError as error:
            return "", f"{error} {error.next_step}"
        return self.expected, ""  # whether it is so is looked at when S3 is sound again

    def _patches(self) -> str:
        cache = self._folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        return _hash(*open_streamed(self._address).patches(cache, 1).read(range(sum(SHARDS))))

    def wrong(self, found: str, refusal: str) -> Iterator[str]:
        """What is wrong with how the disturbed call ended."""
        self._succeeded = not refusal
        if not refusal and found != self.expected:
            yield f"{self._kind} gave something else"
        if "a-secret-of-this-test" in refusal:
            yield "the message holds the secret"

    def wrong_after(self, *, may_refuse: bool = False) -> Iterator[str]:
        """What is wrong now that S3 is sound, with what the disturbed call left and with a second one."""
        if self._kind == "upload" and self._succeeded:
            with contextlib.suppress(*([RelumeError] if may_refuse else [])):
                if self._patches() != self.expected:
                    yield "what was uploaded is something else"
        found, refusal = self.tried()
        if refusal:
            yield f"the second call of {self._kind}: {refusal}"
        elif found != self.expected:
            yield f"the second call of {self._kind} gave something else"
        elif self._kind == "upload" and self._patches() != self.expected:
            yield "what was uploaded is something else"


def _hash(*parts: object) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return found.hexdigest()
