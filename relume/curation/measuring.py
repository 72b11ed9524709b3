"""What curation knows of each photograph after its pixels were read once."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from relume.curation.diversity import descriptor
from relume.curation.duplicates import Fingerprint, fingerprint
from relume.curation.embedding import embedding
from relume.curation.hashes import perceptual_hash
from relume.curation.patches import Patches, find_patches
from relume.curation.quality import Quality, gray_levels, quality, shrink
from relume.curation.scores import Scores, scores
from relume.curation.settings import CurateSettings
from relume.images import to_uint8
from relume.ingestion.ingest import Photograph, Place
from relume.parallel import Budget, map_in_order

# Photographs are measured side by side in a process while they have this many megapixels together: about 20 bytes
# a pixel for the filters' float images.
_AT_ONCE = Budget(64.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A measured photograph.

    Attributes:
        photograph: Its row of the manifest.
        quality: Its first figures.
        scores: The further ones, where a rule needs them.
        patches: Those that are not too flat.
        fingerprint: What its keypoints are compared by, or its hash; None if it is rejected.
        descriptor: Of what it looks like; None if it is rejected.
        reason: Why it is rejected by its own figures; empty if it is not.
    """

    photograph: Photograph
    quality: Quality
    scores: Scores | None
    patches: Patches
    fingerprint: Fingerprint | int | None
    descriptor: np.ndarray | None
    reason: str

    @property
    def image_id(self) -> str:
        """Of the photograph."""
        return self.photograph.image_id

    @property
    def figures(self) -> dict[str, float]:
        """All that was measured, by name."""
        return asdict(self.quality) | (asdict(self.scores) if self.scores else {})


def measure(photographs: Iterable[tuple[Photograph, Place]], settings: CurateSettings) -> Iterator[Measured]:
    """Measures photographs in their order, on a Dask cluster if there is one."""
    return map_in_order(functools.partial(_measure_one, settings), photographs, on_cluster=True)


def _measure_one(settings: CurateSettings, of: tuple[Photograph, Place]) -> Measured:
    photograph, place = of
    with _AT_ONCE.take(photograph.width * photograph.height / 1e6):
        return _measure(photograph, seen(photograph, place, settings), settings)


def seen(photograph: Photograph, place: Place, settings: CurateSettings) -> np.ndarray:
    """A photograph as all of curation sees it, uint8 (H, W, 3), shrunk to `max_side` unless it is one of a pair."""
    pixels = to_uint8(place.pixels())
    return pixels if settings.max_side is None or photograph.degraded else shrink(pixels, settings.max_side)


def _measure(photograph: Photograph, pixels: np.ndarray, settings: CurateSettings) -> Measured:
    measured, patches, reason = quality(pixels), Patches(photograph.image_id), ""
    if min(pixels.shape[:2]) < settings.patch:
        reason = "smaller_than_patch"
    elif measured.sharpness < settings.min_sharpness:
        reason = "blurred"
    elif measured.noise_sigma > settings.max_noise_sigma:
        reason = "noisy"
    else:
        found = find_patches(
            photograph.image_id,
            gray_levels(pixels),
            side=settings.patch,
            stride=settings.stride,
            max_flat_fraction=settings.max_flat_fraction,
            flush=settings.flush,
        )
        patches = Patches(photograph.image_id, found)
        reason = "" if patches else "flat"
    kept = not reason
    return Measured(
        photograph=photograph,
        quality=measured,
        scores=scores(pixels) if settings.keep and kept else None,
        patches=patches,
        fingerprint=_fingerprint(pixels, settings) if kept else None,
        descriptor=_descriptor(pixels, settings) if kept else None,
        reason=reason,
    )


def _fingerprint(pixels: np.ndarray, settings: CurateSettings) -> Fingerprint | int:
    return fingerprint(pixels) if settings.scenes == "keypoints" else perceptual_hash(gray_levels(pixels))


def _descriptor(pixels: np.ndarray, settings: CurateSettings) -> np.ndarray:
    return embedding(pixels, settings.embedding) if settings.embedding else descriptor(pixels)
