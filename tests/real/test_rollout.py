"""Candidates that are tried on live images: a real Triton, a real gateway, and clients that go on all the time."""

import multiprocessing
import os
import signal
import threading
import time
from collections import defaultdict

import numpy as np
import pytest
import requests

from benchmarks import rollout as load_test
from flows.embedded_triton import EmbeddedTriton
from flows.gateway.app import Gateway, Limits, gateway_app
from flows.monitoring.requests import Requests
from flows.platform.status import read_status
from flows.release import rollout as module
from flows.release.ledger import Ledger
from flows.release.release import release_package
from flows.release.rollout import RolloutError
from flows.release.served_product import serve_champions
from relume.images import decode, encode
from relume.serving import repository as models
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.route import Route
from tests.flows.web import serving
from tests.real.embedded_triton import link_server
from tests.real.releases import BLURS, LINEAGE, make_checkout, put_package, release

pytestmark = pytest.mark.slow
IMAGE = np.random.default_rng(3).integers(0, 256, (90, 130, 3), np.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with the embedded server's environment; the server is stopped however the test ends."""
    folder = tmp_path / "home"
    link_server(folder)
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "another"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield folder
    EmbeddedTriton(folder).stop()


@pytest.fixture
def root(tmp_path):
    """A checkout whose first package serves, and whose second is there to be released."""
    return make_checkout(tmp_path / "checkout")


class Images:
    """Clients of a gateway, each of which sends images with ids of its own over and over. Use it in a `with`.

    Attributes:
        seen: By id, the releases that its answers named.
        wrong: Answers that were an error, or not the pixels of the release that they name.
        results: By release, the pixels that are right.
    """

    def __init__(self, address, results):
        self.seen, self.wrong, self.results = defaultdict(set), [], results
        self._address, self._end, self._done = address, threading.Event(), [0, 0]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(2)]

    def _run(self, client):
        data, count = encode(IMAGE, ".png"), 0
        while not self._end.is_set():
            name = f"{client}-{count % 40}"
            headers = {"X-Relume-Image": name}
            answer = requests.post(f"{self._address}/v1/restore", data=data, headers=headers, timeout=60)
            count += 1
            self._look(name, answer)
            self._done[client] += 1

    def _look(self, name, answer):
        if answer.status_code != 200:
            self.wrong.append(answer.text)
            return
        by = answer.headers["x-relume-release"]
        self.seen[name].add(by)
        if not np.array_equal(decode(answer.content).pixels, self.results[by]):
            self.wrong.append(f"{name} is not of {by}")

    def forget(self):
        """Forgets which releases were seen, once the images that are on their way have come back."""
        before = list(self._done)
        wait_for(lambda: all(now > then for now, then in zip(self._done, before, strict=True)))
        self.seen.clear()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(90)


def gateway(home):
    server = EmbeddedTriton(home).running()
    return gateway_app(Gateway(server.grpc, "denoise", key=server.key, limits=Limits(), requests=Requests(home)))


def result(root):
    return OnnxRestorer(root / "package" / "serving").restore(IMAGE).image


def in_background(function):
    """Runs a function in a thread; the thread, and a list that gets what it gave or raised."""
    given = []

    def run():
        try:
            given.append(function())
        except Exception as error:
            given.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, given


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def route(home):
    return models.products(home / "triton" / "models")["denoise"]


def test_from_the_shadow_to_all_images(home, root, monkeypatch):
    """While it is tried an image comes from one release and no other, all the time; then all come from the new one. No
    request fails, and each answer has the pixels of the release that it names."""
    first = release(root, home, blur=BLURS[0]).release.model
    results = {first: result(root)}
    put_package(root, blur=BLURS[1])
    rollout = {"shadow": 100, "canary": 30, "hold_minutes": 0.1, "look_seconds": 0.5, "max_latency_ratio": 50}
    watch, looks, seen_enough = module.watch, [], threading.Event()

    def watched(*arguments, **options):
        """The canary goes on until this test has seen enough of it, and says before what it does."""
        if route(home).canary:
            looks.append(time.monotonic())
            if len(looks) > 1:
                seen_enough.wait(300)
        return watch(*arguments, **options)

    monkeypatch.setattr(module, "watch", watched)
    with serving(gateway(home)) as address, Images(address, results) as images:
        wait_for(lambda: len(images.seen) > 4)
        thread, given = in_background(lambda: release_package(root, home, lineage=LINEAGE, rollout=rollout))
        wait_for(lambda: route(home).candidate or given)
        assert not given, given
        second = route(home).candidate
        images.results[second] = result(root)
        wait_for(lambda: len(looks) > 1)
        images.forget()
        wait_for(lambda: any(second in by for by in list(images.seen.values())))
        (doing,) = [run.doing for run in read_status(root, home).runs if run.what == "release"]
        during = {name: set(by) for name, by in list(images.seen.items())}
        canary = route(home)
        seen_enough.set()
        thread.join(120)
        assert given[0].promoted
        images.forget()
        wait_for(lambda: len(images.seen) > 10)
    assert images.wrong == []
    assert canary == Route(champion=first, candidate=second, canary=30, shadow=100)
    assert during == {name: {canary.release(name)} for name in during}
    assert {by for names in images.seen.values() for by in names} == {second}
    assert route(home) == Route(champion=second)
    assert doing.startswith("canary 30 %: ")
    assert len(Requests(home).shadows(second, 0)["psnr"]) > 0


@pytest.mark.exhaustive
def test_a_candidate_that_dies_is_taken_back(home, root):
    """Its process ends while it is tried: clients get the champion's results, the release ends with what happened, and
    the champion serves all images again."""
    first = release(root, home, blur=BLURS[0]).release.model
    results = {first: result(root)}
    put_package(root, blur=BLURS[1])
    rollout = {"canary": 100, "hold_minutes": 5, "look_seconds": 0.3, "min_requests": 5}
    with serving(gateway(home)) as address, Images(address, results) as images:
        thread, given = in_background(lambda: release_package(root, home, lineage=LINEAGE, rollout=rollout))
        wait_for(lambda: given or (route(home).candidate and len(images.seen) > 2))
        assert not given, given
        second = route(home).candidate
        images.results[second] = result(root)
        EmbeddedTriton(home).end_model(second)
        thread.join(300)
        images.forget()
        images.wrong.clear()
        wait_for(lambda: len(images.seen) > 10)
    assert isinstance(given[0], RolloutError)
    assert "could not restore" in str(given[0])
    assert images.wrong == []
    assert route(home) == Route(champion=first)
    assert Ledger(home).current("denoise").model == first
    assert [entry.event for entry in Ledger(home).entries()][-2:] == ["promoting", "abandoned"]


@pytest.mark.exhaustive
def test_the_load_test(tmp_path, monkeypatch):
    """Its short form: no wrong answer and no failed request outside the kills, every broken release refused, and each
    kind of client and three releases among the answers."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("flows.release.trial.LOAD_SECONDS", 10.0)
    found = load_test.run(tmp_path, 2)
    assert found["problems"] == []
    assert set(found["refused"]) == {*load_test.BROKEN, "wrong signature"}
    assert min(found["answers"].values()) > 20
    assert found["releases_that_answered"] >= 3
    assert found["failed_in_outages"] > 0


def _release(root, home):
    release_package(root, home, lineage=LINEAGE, rollout={"canary": 50, "hold_minutes": 5, "look_seconds": 0.2})


@pytest.mark.exhaustive
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_trial_that_is_ended(home, root, end):
    """By Ctrl-C the champion serves all images again at once; after a kill, with the next start of what serves."""
    first = release(root, home, blur=BLURS[0]).release.model
    put_package(root, blur=BLURS[1])
    process = multiprocessing.get_context("spawn").Process(target=_release, args=(root, home))
    process.start()
    wait_for(lambda: route(home).candidate)
    os.kill(process.pid, end)
    process.join(60)
    if end is signal.SIGKILL:
        assert route(home).candidate is not None
        serve_champions(home)
    assert route(home) == Route(champion=first)
    assert [entry.event for entry in Ledger(home).entries()][-1] == "abandoned"
    assert Ledger(home).current("denoise").model == first
