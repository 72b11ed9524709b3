"""From ingested photographs to a curated folder: scored, grouped by scene, split, and cut into patches.

A curated folder holds

- `images.csv`: every photograph with its set, scene (`group`), side of the split, quality metrics, cluster and, if it
  was rejected, the reason;
- `train-00000.npy`, `pairs-00000.npy`, ... and `patches.parquet`: see `relume.curation.patches`;
- `held_out/validation/<image_id>.png` and `held_out/test/<image_id>.png`: 8-bit RGB; the degraded image of a pair is
  in a subfolder, `degraded/<image_id>.png`;
- with a rule `keep`, `scores.parquet`: the scores of every photograph, its rank in its set by each score of the rule,
  and the reason if it was rejected; what was rejected before the rule has no further scores and no ranks.

Scenes are found among all sets, so that no set trains on what another one holds out; all frames of a video are one
scene. Split, clusters and quotas are
those of each set; a scene that is in several sets counts for the first of their names. Of a pair the clean image is
measured, and both are cut alike.

Reasons: `smaller_than_patch`, `blurred`, `noisy`, `flat`, `not_best_niqe` and the like (the first score of the rule by
which it is not among the best), `near_duplicate` (a better copy is kept), `covered` (a kept one looks like it) and
`same_scene` (another photograph of a held-out scene is kept, so that each scene counts once). A pair is no near
duplicate of another pair: what degrades them is not the same.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from relume.curation.diversity import clusters, covering
from relume.curation.duplicates import Fingerprint, Scenes, find_scenes, joined
from relume.curation.hashes import near_pairs
from relume.curation.measuring import Measured, measure_all, seen
from relume.curation.patches import PatchShardWriter, choose_patches
from relume.curation.selection import keep_best, write_scores
from relume.curation.settings import CurateSettings
from relume.curation.split import split_scenes
from relume.images import save_image, to_uint8
from relume.ingestion.ingest import UNNAMED, Photographs, video_of

_COLUMNS = (
    *("image_id", "set", "address", "group", "split", "width", "height"),
    *("sharpness", "noise_sigma", "flat_fraction", "cluster", "reason"),
)


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
    measured = measure_all(photographs, settings, progress)
    reasons = {item.image_id: item.reason for item in measured}
    ranks = keep_best(measured, reasons, settings.keep) if settings.keep else {}
    accepted = [item for item in measured if not reasons[item.image_id]]

    scene_of = _group(accepted, reasons, settings, progress)
    accepted = [item for item in accepted if not reasons[item.image_id]]
    if settings.cover:
        _cover(accepted, reasons, settings.cover)
        accepted = [item for item in accepted if not reasons[item.image_id]]
    cluster_of = _cluster(accepted, settings)
    rejected = Counter(reason for reason in reasons.values() if reason)
    side_of_scene = _split(accepted, scene_of, settings, rejected)

    held_out_scenes: set[str] = set()
    side_of: dict[str, str] = {}
    for item in sorted(accepted, key=lambda item: item.preference):
        name, scene = item.image_id, scene_of[item.image_id]
        if (side := side_of_scene[scene]) != "train" and scene in held_out_scenes:
            reasons[name] = "same_scene"
            continue
        side_of[name] = side
        if side != "train":
            held_out_scenes.add(scene)

    _write_images(folder / "images.csv", measured, scene_of, side_of, cluster_of, reasons)
    if settings.keep:
        write_scores(folder / "scores.parquet", measured, ranks, reasons)
    trained = [item for item in accepted if side_of.get(item.image_id) == "train"]
    chosen: set[str] = set()
    for cluster in sorted({cluster_of[item.image_id] for item in trained}):
        members = [item.patches for item in trained if cluster_of[item.image_id] == cluster]
        chosen |= choose_patches(members, settings.patches_per_cluster, settings.seed)
    _write_patches(folder, photographs, trained, chosen, settings)
    _write_held_out(folder / "held_out", photographs, side_of, settings)

    counts = {"train": 0, "validation": 0, "test": 0}
    for name, reason in reasons.items():
        key = reason or side_of[name]
        counts[key] = counts.get(key, 0) + 1
    return counts | {"patches": len(chosen)}


def _group(
    accepted: Sequence[Measured],
    reasons: dict[str, str],
    settings: CurateSettings,
    progress: Callable[[str, int, int], None],
) -> dict[str, str]:
    """The scene of each photograph, named by its smallest image_id; names near duplicates in `reasons`."""
    of_file: dict[tuple[str, bool], Measured] = {}  # many pairs may have one clean image, which is compared once
    for item in accepted:
        of_file.setdefault(_clean_file(item), item)
    compared, position = list(of_file.values()), {file: number for number, file in enumerate(of_file)}
    find = _by_keypoints if settings.scenes == "keypoints" else _by_hashes
    scenes = find(compared, progress)
    for pair in scenes.near_duplicates:
        keep, drop = sorted((compared[number] for number in pair), key=lambda item: item.preference)
        if not reasons[keep.image_id] and not drop.photograph.degraded:
            reasons[drop.image_id] = "near_duplicate"
    scene = _with_whole_videos(compared, scenes.scene)
    members: dict[int, list[str]] = {}
    for item in accepted:
        members.setdefault(scene[position[_clean_file(item)]], []).append(item.image_id)
    return {name: min(names) for names in members.values() for name in names}


def _with_whole_videos(compared: Sequence[Measured], scene: Sequence[int]) -> list[int]:
    """The scenes, joined where they hold frames of one video: what it shows may not be on two sides of the split."""
    first: dict[str, int] = {}
    pairs = list(enumerate(scene))
    for position, item in enumerate(compared):
        if video := video_of(item.photograph.address):
            pairs.append((first.setdefault(video, position), position))
    return joined(len(compared), pairs)


def _by_keypoints(compared: Sequence[Measured], progress: Callable[[str, int, int], None]) -> Scenes:
    fingerprints = [item.fingerprint for item in compared if isinstance(item.fingerprint, Fingerprint)]
    return find_scenes(fingerprints, progress=lambda done, total: progress("pairs compared", done, total))


def _by_hashes(compared: Sequence[Measured], progress: Callable[[str, int, int], None]) -> Scenes:
    """The scenes by hashes; of each the photograph to keep is paired with every other."""
    hashes = np.array([item.fingerprint for item in compared], np.uint64)
    pairs = near_pairs(hashes, progress=lambda done, total: progress("hashes compared", done, total))
    scene = joined(len(compared), map(tuple, pairs.tolist()))
    best: dict[int, int] = {}
    near_duplicates = []
    for position in sorted(range(len(compared)), key=lambda position: compared[position].preference):
        if (kept := best.setdefault(scene[position], position)) != position:
            near_duplicates.append((kept, position))
    return Scenes(scene=scene, near_duplicates=near_duplicates)


def _clean_file(item: Measured) -> tuple[str, bool]:
    return item.photograph.sha256, bool(item.photograph.degraded)


def _split(
    accepted: Sequence[Measured], scene_of: dict[str, str], settings: CurateSettings, rejected: Counter[str]
) -> dict[str, str]:
    """The side of each scene, divided set by set."""
    scenes_left = [scene_of[item.image_id] for item in accepted]
    in_colour, set_of = dict.fromkeys(scenes_left, False), dict.fromkeys(scenes_left, UNNAMED)
    for item in sorted(accepted, key=lambda item: item.photograph.set, reverse=True):
        scene = scene_of[item.image_id]
        in_colour[scene] |= item.photograph.channels >= 3
        set_of[scene] = item.photograph.set
    sets = sorted(set(set_of.values())) or [UNNAMED]
    sides: dict[str, str] = {}
    for name in sets:
        scenes = {scene: colour for scene, colour in in_colour.items() if set_of[scene] == name}
        sides |= split_scenes(scenes, settings, of_set=name if len(sets) > 1 else None, rejected=rejected)
    return sides


def _cover(accepted: Sequence[Measured], reasons: dict[str, str], fraction: float) -> None:
    """Names the photographs that others stand for in `reasons`."""
    ordered = sorted(accepted, key=lambda item: item.image_id)
    for of_set in sorted({item.photograph.set for item in ordered}):
        members = [item for item in ordered if item.photograph.set == of_set]
        chosen = covering(_descriptors(members), math.ceil(fraction * len(members) - 1e-9))
        for position in set(range(len(members))) - set(chosen):
            reasons[members[position].image_id] = "covered"


def _descriptors(items: Sequence[Measured]) -> np.ndarray:
    return np.stack([item.descriptor for item in items if item.descriptor is not None])


def _cluster(accepted: Sequence[Measured], settings: CurateSettings) -> dict[str, int]:
    """The cluster of each photograph, counted on from set to set."""
    cluster_of: dict[str, int] = {}
    for name in sorted({item.photograph.set for item in accepted}):
        members = [item for item in accepted if item.photograph.set == name]
        first = max(cluster_of.values(), default=-1) + 1
        for item, label in zip(members, clusters(_descriptors(members), settings.clusters, settings.seed), strict=True):
            cluster_of[item.image_id] = first + int(label)
    return cluster_of


def _write_images(
    path: Path,
    measured: Sequence[Measured],
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
                    photograph.set,
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
    folder: Path, photographs: Photographs, trained: Sequence[Measured], chosen: set[str], settings: CurateSettings
) -> None:
    single, pairs = ([i for i in trained if bool(i.photograph.degraded) == paired] for paired in (False, True))
    count, of_pairs = (sum(patch.patch_id in chosen for i in items for patch in i.patches) for items in (single, pairs))
    megabytes = settings.shard_megabytes
    shards = PatchShardWriter(folder, count, pairs=of_pairs, side=settings.patch, shard_megabytes=megabytes)
    for item in (*single, *pairs):
        patches = [patch for patch in item.patches if patch.patch_id in chosen]
        if patches:
            photograph = item.photograph
            pixels = seen(photograph, photographs.place(photograph), settings)
            degraded = to_uint8(photographs.degraded_pixels(photograph)) if photograph.degraded else None
            for patch in patches:
                shards.add(patch, pixels, of_set=photograph.set, degraded=degraded)
    shards.close()


def _write_held_out(folder: Path, photographs: Photographs, side_of: dict[str, str], settings: CurateSettings) -> None:
    limit = settings.held_out_side
    for photograph in photographs.manifest:
        if (side := side_of.get(photograph.image_id, "train")) != "train":
            images = {folder / side: seen(photograph, photographs.place(photograph), settings)}
            if photograph.degraded:
                images[folder / side / "degraded"] = to_uint8(photographs.degraded_pixels(photograph))
            for place, pixels in images.items():
                top, left = (max(0, length - limit) // 2 for length in pixels.shape[:2])
                save_image(place / f"{photograph.image_id}.png", pixels[top : top + limit, left : left + limit])
