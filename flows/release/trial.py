"""The first run of a candidate: in a server process of its own, beside the champion, where both are timed."""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.embedded_triton import EmbeddedTriton, trial_server
from flows.release.package import Package
from flows.release.served_product import publish_signed
from relume.errors import ReleaseError, ServerRefusedError, ServerUnreachableError
from relume.serving.served_model import read_serving
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl

LOAD_SECONDS = 120.0
RUNS, WARM_UP = 10, 2
SECONDS = 60.0  # for all runs together; a model that is so slow is timed by fewer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """How long a tile takes.

    Attributes:
        where: `served` or `in process`.
        candidate: Median of the candidate's in milliseconds, for each of its plan's graphs.
        champion: Those of the champion; None without one.
    """

    where: str
    candidate: Mapping[tuple[str, int], float]
    champion: Mapping[tuple[str, int], float] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrant:
    """A package in the trial.

    Attributes:
        package: The package.
        model: Name under which the server has it.
        backend: What computes it there.
    """

    package: Package
    model: str
    backend: str


class CandidateFailedError(ReleaseError):
    """A server of its own could not serve the candidate."""


def try_out(candidate: Entrant, champion: Entrant | None, home: Path) -> Latency | None:
    """Loads a candidate and the champion into a server of their own and times both.

    Args:
        candidate: What is to be released.
        champion: What serves, or None.
        home: RELUME_HOME.

    Returns:
        None where no server is installed.

    Raises:
        CandidateFailedError: The candidate does not load, does not restore a tile in time, or ends the server.
        RelumeError: Anything else that failed, such as the server's start; it says nothing about the candidate.
    """
    if not EmbeddedTriton(home).installed:
        return None
    # The champion first: once it is known to work there, what fails afterwards is the candidate's.
    entrants = [*([champion] if champion else []), candidate]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(trial_server(home))
        control = stack.enter_context(TritonControl(server.grpc, key=server.key, load_timeout=LOAD_SECONDS))
        for each in entrants:
            publish_signed(each.package, Path(server.repository), each.model, each.backend, home)
        if champion:
            control.load_release(champion.model)
        try:
            control.load_release(candidate.model)
            ways = [
                stack.enter_context(TritonRestorer(server.grpc, each.model, timeout=LOAD_SECONDS)).restore_batch
                for each in entrants
            ]
            return take_turns("served", [each.package for each in entrants[::-1]], ways[::-1])
        except (ReleaseError, ServerRefusedError, ServerUnreachableError) as error:
            if EmbeddedTriton(home, trial=True).status().state == "stopped":  # `relume down` ended it
                raise
            raise CandidateFailedError(
                error.what, where=error.where, why=error.why, next_step=error.next_step
            ) from None


def take_turns(where: str, packages: Sequence[Package], ways: Sequence[Callable[..., np.ndarray]]) -> Latency:
    """Times a tile of each graph of the candidate and, if there is one, of the champion by turns, so that all meet the
    same load.

    Args:
        where: As in `Latency`.
        packages: The candidate and perhaps the champion.
        ways: For each, what restores a tile, (1, 3, T, T) of its plan's type, at a level, as `RestoreBatch` with the
            keywords that its plan asks for.
    """
    turns: list[tuple[Callable[[], np.ndarray], list[float]]] = []
    found: list[dict[tuple[str, int], list[float]]] = []
    for package, restore in zip(packages, ways, strict=True):
        serving = read_serving(package.folder / "serving")
        plan, level = serving.inference, serving.levels.default if serving.levels else None
        found.append({graph: [] for graph in plan.graphs})
        for (part, side), milliseconds in found[-1].items():
            tile = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8)
            which: dict[str, Any] = {"part": part} if len(plan.parts) > 1 else {}
            if plan.passes > 1:
                which["seeds"] = np.zeros(1, np.float32)
            tiles = tile / np.float32(255) if plan.dtype == "float32" else tile
            turns.append((functools.partial(restore, tiles, level, **which), milliseconds))
    end = time.monotonic() + SECONDS
    for run in range(WARM_UP + RUNS):
        for restore_tile, milliseconds in turns:
            start = time.perf_counter()
            restore_tile()
            milliseconds.append((time.perf_counter() - start) * 1000)
        if run >= WARM_UP and time.monotonic() > end:
            break
    medians = [{graph: statistics.median(times[WARM_UP:]) for graph, times in each.items()} for each in found]
    return Latency(where=where, candidate=medians[0], champion=medians[1] if len(medians) > 1 else None)
