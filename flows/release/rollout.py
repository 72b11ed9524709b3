"""The way of a candidate to all clients: in the champion's shadow, then for a share of the images, then for all.

What clients get is watched by what the gateway notes of each request (`flows.monitoring.requests`). When a limit is
crossed the release ends with an error, and the champion serves all images again.
"""

import contextlib
import time
from collections.abc import Callable

import numpy as np

from flows.monitoring.requests import Requests
from flows.release.ledger import Release
from flows.release.served_product import ServedProduct
from relume.durations import duration
from relume.errors import ReleaseError
from relume.params import RolloutSettings
from relume.serving.route import Route


class RolloutError(ReleaseError):
    """A candidate crossed a limit while it was tried on live images; the champion serves them all again."""


def roll_out(
    product: ServedProduct, champion: Release, candidate: Release, settings: RolloutSettings, say: Callable[[str], None]
) -> None:
    """Lets a candidate that is loaded restore a share of the live images, for as long as the settings say.

    Args:
        product: Whose clients send them.
        champion: The release that serves.
        candidate: The release that is tried.
        settings: Shares, times and limits.
        say: Is given what is being done.

    Raises:
        RolloutError: A limit was crossed. The product still points to the candidate: whoever calls this ends that.
    """
    routes = {
        f"shadow {settings.shadow:g} %": Route(
            champion=champion.model, candidate=candidate.model, shadow=settings.shadow
        ),
        f"canary {settings.canary:g} %": Route(
            champion=champion.model, candidate=candidate.model, canary=settings.canary, shadow=settings.shadow
        ),
    }
    with contextlib.closing(Requests(product.home)) as requests:
        for phase, route in routes.items():
            if not (route.canary if phase.startswith("canary") else route.shadow):
                continue
            product.point(route)
            started, end = time.time(), time.monotonic() + 60 * settings.hold_minutes
            seen = ""
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(settings.look_seconds, left))
                seen = watch(requests, champion.model, candidate.model, settings, since=started)
                say(f"{phase}: {seen}, {duration(max(0.0, end - time.monotonic()))} left")


def watch(requests: Requests, champion: str, candidate: str, settings: RolloutSettings, *, since: float) -> str:
    """Compares what a candidate did with what the champion did.

    Args:
        requests: What the gateway noted.
        champion: The release that serves.
        candidate: The release that is tried.
        settings: The limits.
        since: Beginning of what counts.

    Returns:
        What was seen, for people.

    Raises:
        RolloutError: A limit was crossed.
    """
    own, others = (requests.later(release, 0, since)["seconds"] for release in (candidate, champion))
    failed, shadows = requests.failures(candidate, since), requests.shadows(candidate, since)
    tried = len(own) + len(shadows["psnr"]) + failed
    slower = float(np.median(shadows["slower"])) if len(shadows["slower"]) else 0.0
    if min(len(own), len(others)) >= settings.min_requests:
        slower = max(slower, float(np.median(own) / np.median(others)))
    agreement = float(np.median(shadows["psnr"])) if len(shadows["psnr"]) else float("inf")
    enough = tried >= settings.min_requests
    for crossed, why in (
        (failed > settings.max_failed * max(tried, settings.min_requests), f"it could not restore {failed} of {tried}"),
        (enough and slower > settings.max_latency_ratio, f"it takes {slower:.1f} times as long as the champion"),
        (enough and agreement < settings.min_agreement_db, f"it is {agreement:.1f} dB from the champion's results"),
    ):
        if crossed:
            raise RolloutError(
                "The candidate crossed a limit on live images; the champion serves them all again",
                where=candidate,
                why=why,
                next_step="see the limits in release.rollout of params.yaml, and what the gateway logged",
            )
    return f"{len(own)} images, {len(shadows['psnr'])} in the shadow, {failed} failed"
