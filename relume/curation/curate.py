"""From ingested photographs to a curated folder: scored, grouped by scene, split, and cut into patches.

A curated folder holds

- `images.csv`: every photograph with its scene (`group`), side of the split, quality metrics, cluster and, if it
  was rejected, the reason;
- `train-00000.npy`, ... and `patches.parquet`: see `relume.curation.patches`;
- `held_out/validation/<image_id>.png` and `held_out/test/<image_id>.png`: 8-bit RGB.

Reasons: `smaller_than_patch`, `blurred`, `noisy`, `flat`, `near_duplicate` (a better copy is kept) and
`same_scene` (another photograph of a held-out scene is kept, so that each scene counts once).
"""

import csv
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relume.curation.diversity import clusters, descriptor
from relume.curation.duplicates import Fingerprint, find_scenes, fingerprint
from relume.curation.patches import Patch, PatchShardWriter, choose_patches, find_patches
from relume.curation.quality import Quality, gray, quality, shrink
from relume.curation.settings import CurateSettings
from relume.curation.split import split_scenes
from relume.images import save_image, to_uint8
from relume.ingestion.ingest import Photograph, Photographs, Place
from relume.parallel import Budget, map_in_order

# Photographs are measured side by side in a process while they have this many megapixels together: about 20 bytes
# a pixel for the filters' float images.
_AT_ONCE = Budget(64.0)
_COLUMNS = (
    *("image_id", "address", "group", "split", "width", "height"),
    *("sharpness", "noise_sigma", "flat_fraction", "cluster", "reason"),
)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What is kept of a photograph after its pixels were read once."""

    photograph: Photograph
    quality: Quality
    patches: list[Patch]
    fingerprint: Fingerprint | None
    descriptor: np.ndarray | None
    reason: str


def curate(
    ingested: str | Path, folder: Path, settings: CurateSettings, *, progress: Callable[[str, int, int], None]
) -> dict[str, int]:
    """Fills a curated folder.

    Args:
        ingested: What `ingest` filled.
        folder: An empty folder to fill.
        settings: Thresholds, fractions and sizes.
        progress: Given what is counted, how many are done, and of how many.

    Returns:
        The number of photographs by side of the split (`train`, `validation`, `test`), by reason for
        the rejected, and under `patches` the number of training patches.

    Raises:
        SourceError: Too few photographs are left to hold some out.
    """
    photographs = Photographs(ingested)
    measured = _measure_all(photographs, settings, progress)
    reasons = {item.photograph.image_id: item.reason for item in measured}
    accepted = [item for item in measured if not item.reason]

    scene_of = _group(accepted, reasons, progress)
    accepted = [item for item in accepted if not reasons[item.photograph.image_id]]
    cluster_of = _cluster(accepted, settings)
    in_colour = dict.fromkeys(scene_of.values(), False)
    for item in accepted:
        in_colour[scene_of[item.photograph.image_id]] |= item.photograph.channels >= 3
    side_of_scene = split_scenes(in_colour, settings)

    held_out_scenes: set[str] = set()
    side_of: dict[str, str] = {}
    for item in sorted(accepted, key=_preference):
        name, scene = item.photograph.image_id, scene_of[item.photograph.image_id]
        if (side := side_of_scene[scene]) != "train" and scene in held_out_scenes:
            reasons[name] = "same_scene"
            continue
        side_of[name] = side
        if side != "train":
            held_out_scenes.add(scene)

    _write_images(folder / "images.csv", measured, scene_of, side_of, cluster_of, reasons)
    trained = [item for item in accepted if side_of.get(item.photograph.image_id) == "train"]
    chosen: set[str] = set()
    for cluster in sorted({cluster_of[item.photograph.image_id] for item in trained}):
        members = [item.patches for item in trained if cluster_of[item.photograph.image_id] == cluster]
        chosen |= choose_patches(members, settings.patches_per_cluster, settings.seed)
    _write_patches(folder, photographs, trained, chosen, settings)
    _write_held_out(folder / "held_out", photographs, side_of, settings)

    counts = {"train": 0, "validation": 0, "test": 0}
    for name, reason in reasons.items():
        key = reason or side_of[name]
        counts[key] = counts.get(key, 0) + 1
    return counts | {"patches": len(chosen)}


def _measure_all(
    photographs: Photographs, settings: CurateSettings, progress: Callable[[str, int, int], None]
) -> list[_Measured]:
    places = ((photograph, photographs.place(photograph)) for photograph in photographs.manifest)
    measured = []
    for item in map_in_order(functools.partial(_measure_one, settings), places, on_cluster=True):
        measured.append(item)
        progress("photographs measured", len(measured), len(photographs.manifest))
    return measured


def _measure_one(settings: CurateSettings, of: tuple[Photograph, Place]) -> _Measured:
    photograph, place = of
    with _AT_ONCE.take(photograph.width * photograph.height / 1e6):
        return _measure(photograph, _seen(place, settings), settings)


def _seen(place: Place, settings: CurateSettings) -> np.ndarray:
    """A photograph as everything here sees it, uint8 (H, W, 3), shrunk to `max_side`."""
    pixels = to_uint8(place.pixels())
    return pixels if settings.max_side is None else shrink(pixels, settings.max_side)


def _measure(photograph: Photograph, pixels: np.ndarray, settings: CurateSettings) -> _Measured:
    measured, patches, reason = quality(pixels), [], ""
    if min(pixels.shape[:2]) < settings.patch:
        reason = "smaller_than_patch"
    elif measured.sharpness < settings.min_sharpness:
        reason = "blurred"
    elif measured.noise_sigma > settings.max_noise_sigma:
        reason = "noisy"
    else:
        patches = find_patches(
            photograph.image_id,
            gray(pixels),
            side=settings.patch,
            stride=settings.stride,
            max_flat_fraction=settings.max_flat_fraction,
        )
        reason = "" if patches else "flat"
    return _Measured(
        photograph=photograph,
        quality=measured,
        patches=patches,
        fingerprint=None if reason else fingerprint(pixels),
        descriptor=None if reason else descriptor(pixels),
        reason=reason,
    )


def _preference(item: _Measured) -> tuple[bool, int, float, str]:
    """Sorts the photograph to keep of several first: colour, then size, then sharpness."""
    photograph = item.photograph
    return photograph.channels < 3, -photograph.width * photograph.height, -item.quality.sharpness, photograph.image_id


def _group(
    accepted: Sequence[_Measured], reasons: dict[str, str], progress: Callable[[str, int, int], None]
) -> dict[str, str]:
    """The scene of each photograph, named by its smallest image_id; names near duplicates in `reasons`."""
    fingerprints = [item.fingerprint for item in accepted if item.fingerprint is not None]
    scenes = find_scenes(fingerprints, progress=lambda done, total: progress("pairs compared", done, total))
    for pair in scenes.near_duplicates:
        keep, drop = sorted((accepted[position] for position in pair), key=_preference)
        if not reasons[keep.photograph.image_id]:
            reasons[drop.photograph.image_id] = "near_duplicate"
    members: dict[int, list[str]] = {}
    for item, scene in zip(accepted, scenes.scene, strict=True):
        members.setdefault(scene, []).append(item.photograph.image_id)
    return {name: min(names) for names in members.values() for name in names}


def _cluster(accepted: Sequence[_Measured], settings: CurateSettings) -> dict[str, int]:
    if not accepted:
        return {}
    descriptors = np.stack([item.descriptor for item in accepted if item.descriptor is not None])
    labels = clusters(descriptors, settings.clusters, settings.seed)
    return {item.photograph.image_id: int(label) for item, label in zip(accepted, labels, strict=True)}


def _write_images(
    path: Path,
    measured: Sequence[_Measured],
    scene_of: dict[str, str],
    side_of: dict[str, str],
    cluster_of: dict[str, int],
    reasons: dict[str, str],
) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for item in measured:
            photograph, measures = item.photograph, item.quality
            name = photograph.image_id
            writer.writerow(
                [
                    name,
                    photograph.address,
                    scene_of.get(name, name),
                    side_of.get(name, "rejected"),
                    photograph.width,
                    photograph.height,
                    f"{measures.sharpness:.3f}",
                    f"{measures.noise_sigma:.3f}",
                    f"{measures.flat_fraction:.4f}",
                    cluster_of.get(name, -1),
                    reasons[name],
                ]
            )


def _write_patches(
    folder: Path, photographs: Photographs, trained: Sequence[_Measured], chosen: set[str], settings: CurateSettings
) -> None:
    shards = PatchShardWriter(folder, len(chosen), side=settings.patch, shard_megabytes=settings.shard_megabytes)
    for item in trained:
        patches = [patch for patch in item.patches if patch.patch_id in chosen]
        if patches:
            pixels = _seen(photographs.place(item.photograph), settings)
            for patch in patches:
                shards.add(patch, pixels)
    shards.close()


def _write_held_out(folder: Path, photographs: Photographs, side_of: dict[str, str], settings: CurateSettings) -> None:
    limit = settings.held_out_side
    for photograph in photographs.manifest:
        if (side := side_of.get(photograph.image_id, "train")) != "train":
            pixels = _seen(photographs.place(photograph), settings)
            top, left = (max(0, length - limit) // 2 for length in pixels.shape[:2])
            save_image(folder / side / f"{photograph.image_id}.png", pixels[top : top + limit, left : left + limit])
