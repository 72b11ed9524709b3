"""The client's own decisions, with a server that is played by a few lines; real servers are in tests/real/triton."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relume.errors import ConfigError, ModelMissingError, ServerRefusedError, ServerUnreachableError
from relume.inference.plan import before_format_3
from relume.inference.tiling import count_tiles
from relume.serving import triton_client
from relume.serving.route import Route
from relume.serving.shared_tiles import SharedTiles, is_this_host, remove_orphans
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_transport import QueueFullError, connect

IMAGE = np.random.default_rng(3).integers(0, 256, (60, 50, 3), np.uint8)


class PlayedServer:
    """A server whose product divides by a number, and `switch_after` so many requests becomes another release; the one
    before is unloaded then, unless it is among the `loaded`."""

    host = "triton.example"

    def __init__(self):
        self.release, self.tile, self.requests = "denoise-1", 32, 0
        self.loaded: set[str] = set()
        self.route: dict[str, str] = {}
        self.switch_after, self.next_tile = 10**9, 32
        self.refusals: list[Exception] = []
        self.adjustable: set[str] = set()

    def model_config(self, model):
        if model == "denoise":
            parameters = {name: {"string_value": value} for name, value in self.route.items()}
            return {"ensemble_scheduling": {"step": [{"model_name": self.release}]}, "parameters": parameters}
        if model not in (self.release, *self.loaded):
            raise ServerRefusedError("refused", why="unknown model")
        parameters = {"tile": self.tile, "halo": 2}
        if model in self.adjustable:
            parameters |= {"level_kind": "quality", "lowest_level": 1.0, "highest_level": 50.0, "default_level": 12.0}
        return {
            "max_batch_size": 8,
            "parameters": {name: {"string_value": str(value)} for name, value in parameters.items()},
        }

    def infer(self, model, tiles_NCHW, asked, slot=None):
        self.requests += 1
        level = asked.level
        if self.requests > self.switch_after:
            self.release, self.tile = "denoise-2", self.next_tile
        release = self.release if model == "denoise" else model
        if release not in (self.release, *self.loaded):
            raise ServerRefusedError("refused", why="unknown model")
        if self.refusals:
            raise self.refusals.pop()
        if tiles_NCHW.shape[-1] != self.tile:
            raise ServerRefusedError("refused", why="unexpected shape")
        if (level is not None) != (release in self.adjustable):
            raise ServerRefusedError("refused", why="unexpected number of inputs")
        if level is not None:
            return np.full_like(tiles_NCHW, level)
        return tiles_NCHW // 2 if release == "denoise-1" else tiles_NCHW // 4

    def close(self):
        pass


@pytest.fixture
def server(monkeypatch):
    """The played server, found at any address."""
    played = PlayedServer()
    monkeypatch.setattr(triton_client, "connect", lambda url, timeout, key: played)
    return played


@pytest.mark.parametrize("next_tile", [32, 24])
def test_a_release_that_is_taken_away_within_a_photograph(server, next_tile):
    """The photograph comes whole from the one that serves then, also with another tile."""
    server.switch_after, server.next_tile = 2, next_tile
    restoration = TritonRestorer("any:1", "denoise", batch=1).restore(IMAGE)
    np.testing.assert_array_equal(restoration.image, IMAGE // 4)
    assert restoration.release == "denoise-2"


def test_switch_within_a_photograph(server):
    """While the release that it began with is there, it comes whole from that one, and no tile is sent twice."""
    server.switch_after, server.loaded = 2, {"denoise-1"}
    restoration = TritonRestorer("any:1", "denoise", batch=1).restore(IMAGE)
    np.testing.assert_array_equal(restoration.image, IMAGE // 2)
    assert (restoration.release, server.requests) == ("denoise-1", count_tiles(60, 50, before_format_3(32, 2)))


def test_images_of_a_candidate(server):
    """An image of its share comes from it, and others, and tiles of no image, from the champion."""
    server.loaded = {"denoise-2"}
    server.route = {"candidate": "denoise-2", "canary": "50", "shadow": "0"}
    route = Route(champion="denoise-1", candidate="denoise-2", canary=50)
    restorer = TritonRestorer("any:1", "denoise")
    for name in map(str, range(20)):
        restoration = restorer.restore(IMAGE, image_id=name)
        assert restoration.release == route.release(name)
        np.testing.assert_array_equal(restoration.image, IMAGE // (2 if restoration.release == "denoise-1" else 4))
    np.testing.assert_array_equal(restorer.restore_batch(np.full((1, 3, 32, 32), 8, np.uint8)), 4)


@pytest.mark.parametrize("gone", [False, True])
def test_a_candidate_that_fails(server, gone):
    """The image comes from the champion; the candidate is named if it was there and failed."""
    server.route = {"candidate": "denoise-2", "canary": "100", "shadow": "0"}
    if not gone:
        server.loaded = {"denoise-2"}
        server.refusals = [ServerRefusedError("refused", why="its process died")]
    restoration = TritonRestorer("any:1", "denoise", in_flight=1).restore(IMAGE)
    np.testing.assert_array_equal(restoration.image, IMAGE // 2)
    assert (restoration.release, restoration.refused) == ("denoise-1", None if gone else "denoise-2")


def test_refusal_of_an_unchanged_release(server):
    """An error of a release that was not switched away is given to the caller and not tried for ever."""
    server.refusals = [ServerRefusedError("refused", why="out of memory")]
    with pytest.raises(ServerRefusedError, match="out of memory"):
        TritonRestorer("any:1", "denoise").restore(IMAGE)


@pytest.mark.parametrize(("asked", "level"), [(None, 12), (40, 40), (90, 90)])
def test_level(server, asked, level):
    """Every tile is sent with the level that is asked for, or else the default; range and kind are those that
    the server states."""
    server.adjustable = {"denoise-1"}
    restoration = TritonRestorer("any:1", "denoise").restore(IMAGE, level=asked)
    assert (restoration.image == level).all()
    assert (restoration.release, restoration.level, restoration.levels.kind) == ("denoise-1", level, "quality")
    with pytest.raises(ConfigError, match="of kind quality"):
        TritonRestorer("any:1", "denoise").restore(IMAGE, level=120)


def test_switch_to_an_adjustable_release(server):
    """A photograph during which the product becomes adjustable comes whole from the new release, at its default."""
    server.switch_after, server.adjustable = 2, {"denoise-2"}
    restoration = TritonRestorer("any:1", "denoise", batch=1).restore(IMAGE)
    assert (restoration.image == 12).all()
    assert (restoration.release, restoration.level, restoration.levels.default) == ("denoise-2", 12, 12)


def test_switch_from_an_adjustable_release(server):
    """Without a level the new release takes over; a level that was asked for is refused by name and never ignored."""
    server.switch_after, server.adjustable = 2, {"denoise-1"}
    restoration = TritonRestorer("any:1", "denoise", batch=1).restore(IMAGE)
    np.testing.assert_array_equal(restoration.image, IMAGE // 4)
    assert (restoration.release, restoration.level, restoration.levels) == ("denoise-2", None, None)
    server.release, server.requests = "denoise-1", 0
    with pytest.raises(ConfigError, match="takes no level: denoise-2"):
        TritonRestorer("any:1", "denoise", batch=1).restore(IMAGE, level=25)


def test_level_for_a_model_without_one(server):
    """It is refused before anything is sent."""
    with pytest.raises(ConfigError, match="takes no level: denoise-1"):
        TritonRestorer("any:1", "denoise").restore(IMAGE, level=25)
    assert server.requests == 0


def test_full_queue_is_waited_out(server):
    """A request refused because the queue is full is sent again."""
    server.refusals = [QueueFullError("refused", why="exceeds maximum queue size") for _ in range(2)]
    np.testing.assert_array_equal(TritonRestorer("any:1", "denoise").restore(IMAGE).image, IMAGE // 2)


def test_full_queue_within_the_time_limit(server):
    """A queue that stays full longer than a request may take is an error."""
    server.refusals = [QueueFullError("refused", why="exceeds maximum queue size") for _ in range(1000)]
    with pytest.raises(QueueFullError):
        TritonRestorer("any:1", "denoise", timeout=0.2).restore(IMAGE)


def test_unknown_product(server):
    """A product that the server does not have is named."""
    with pytest.raises(ModelMissingError, match="derain"):
        TritonRestorer("any:1", "derain").restore(IMAGE)


@pytest.mark.parametrize("url", ["localhost", "ftp://localhost:1", "http://localhost", "grpc://:8001", "host:port"])
def test_impossible_address(url):
    """An address without scheme, host or port that can be used is refused, with the form it should have."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        connect(url, timeout=1)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_listens(scheme):
    """Where nothing listens, the error names the address and the command that starts a server."""
    with socket.socket() as bound:  # bound and not listening: nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with (
            TritonRestorer(f"{scheme}://127.0.0.1:{port}", "denoise") as restorer,
            pytest.raises(ServerUnreachableError, match=f"127.0.0.1:{port}") as caught,
        ):
            restorer.restore(IMAGE)
    assert "relume serve" in str(caught.value)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_silent_server(scheme):
    """A server that takes the connection and never answers is given up after the time limit."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with (
            TritonRestorer(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", "denoise", timeout=0.5) as restorer,
            pytest.raises(ServerUnreachableError),
        ):
            restorer.restore(IMAGE)


def test_this_host():
    """Loopback and this machine's name are this host; other addresses are not."""
    assert all(map(is_this_host, ["localhost", "127.0.0.1", "127.1.2.3", "::1", socket.gethostname()]))
    assert not any(map(is_this_host, ["10.0.0.1", "triton.example", "8.8.8.8"]))


def test_region_of_a_killed_process():
    """A region whose process and resource tracker were killed is removed; one in use is not."""
    code = (
        "import time; from relume.serving.shared_tiles import SharedTiles;"
        "tiles = SharedTiles(1, 100); print(tiles.name, flush=True); time.sleep(600)"
    )
    own = SharedTiles(1, 100)
    try:
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            left = Path("/dev/shm") / process.stdout.readline().strip()
            # While it lives: once it is dead, the test of another worker may be the one that removes the region.
            there = left.exists()
            os.killpg(process.pid, signal.SIGKILL)
        assert left.name.startswith("relume-tiles-")
        assert there
        remove_orphans()
        assert not left.exists()
        assert (Path("/dev/shm") / own.name).exists()
    finally:
        own.close()
    assert f"-{os.getpid()}-" in own.name
    assert not (Path("/dev/shm") / own.name).exists()
