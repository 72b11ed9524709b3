"""Which of a product's releases restores an image, while a candidate is tried on some of them.

The route stands in the product's configuration, which clients read before each image. They choose by a hash of the
image's id, so that all tiles of an image, and every try of it, go to one release.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

_PARTS = 10_000  # of an image's place: hundredths of a percent


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where the images of a product go.

    Attributes:
        champion: The release that serves.
        candidate: The release that is tried; None for none.
        canary: Share of the images that the candidate restores for clients, in percent.
        shadow: Share of the other images that the gateway lets the candidate restore as well, to compare the results,
            in percent.
    """

    champion: str
    candidate: str | None = None
    canary: float = 0.0
    shadow: float = 0.0

    def release(self, image_id: str | None) -> str:
        """The release that restores an image; the champion for one without id."""
        return self.candidate if self.candidate and _chosen(image_id, self.canary, "canary") else self.champion

    def shadow_of(self, image_id: str) -> str | None:
        """The release that restores an image of the champion's as well, to compare the results; None for none."""
        return self.candidate if _chosen(image_id, self.shadow, "shadow") else None

    def parameters(self) -> dict[str, str]:
        """The route as parameters of the product's configuration; none when there is no candidate."""
        if self.candidate is None:
            return {}
        return {"candidate": self.candidate, "canary": f"{self.canary:g}", "shadow": f"{self.shadow:g}"}


def route_of(champion: str, parameters: Mapping[str, str]) -> Route:
    """The route that a product's configuration states.

    Args:
        champion: The release that it points to.
        parameters: Of the configuration, by name.
    """
    if "candidate" not in parameters:
        return Route(champion=champion)
    shares = {name: float(parameters[name]) for name in ("canary", "shadow")}
    return Route(champion=champion, candidate=parameters["candidate"], **shares)


def _chosen(image_id: str | None, percent: float, what: str) -> bool:
    if image_id is None:
        return False
    place = int.from_bytes(hashlib.sha256(f"{what}:{image_id}".encode()).digest()[:8]) % _PARTS
    return place < percent / 100 * _PARTS
