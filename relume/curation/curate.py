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
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from relume.curation.collection import Collection, read_collection
from relume.curation.diversity import clusters, covering, in_order, nearest
from relume.curation.duplicates import Scenes, find_scenes, joined
from relume.curation.hashes import near_pairs
from relume.curation.measuring import measure, seen
from relume.curation.patches import Patch, PatchShardWriter, choose_patches, cut
from relume.curation.records import Records, curation_code, opened_records
from relume.curation.selection import keep_best, write_scores
from relume.curation.settings import CurateSettings
from relume.curation.split import SIDES, split_scenes
from relume.files import write_bytes
from relume.images import encode, to_uint8
from relume.ingestion.ingest import Photograph, Place, manifest_rows, read_photographs
from relume.kept import Kept, Part

_COLUMNS = (
    *("image_id", "set", "address", "group", "split", "width", "height"),
    *("sharpness", "noise_sigma", "flat_fraction", "cluster", "reason"),
)
_REJECTED, _TRAIN = -1, SIDES.index("train")
# Clusters are those of so many photographs of a set at most, the others are in the nearest.
CLUSTERED = 20_000
_AT_ONCE = 4096  # descriptors that are read together


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is chosen of a collection.

    Attributes:
        ranks: For each score of the rule the rank of each photograph in its set, 0 for none.
        scene: (N,) the smallest `id` in the scene of each.
        cluster: (N,) the cluster of each, -1 for the rejected.
        side: (N,) a position in SIDES, -1 for the rejected.
    """

    ranks: dict[str, np.ndarray]
    scene: np.ndarray
    cluster: np.ndarray
    side: np.ndarray


def curate(
    ingested: str | Path,
    folder: Path,
    settings: CurateSettings,
    *,
    progress: Callable[[str, int, int], None],
    cache: Path | None = None,
) -> dict[str, int]:
    """Fills a curated folder.

    Args:
        ingested: What `ingest` filled.
        folder: An empty folder to fill.
        settings: Thresholds, fractions and sizes.
        progress: Given what is counted, how many are done, and of how many.
        cache: A folder that keeps what is measured, so that the next curation measures new photographs alone, and one
            that was killed is taken up where it was. The result is the same without.

    Returns:
        The number of photographs by side of the split (`train`, `validation`, `test`), by reason for
        the rejected, and under `patches` the number of training patches.

    Raises:
        SourceError: Too few photographs are left to hold some out.
    """
    seen_as = hashlib.sha256(f"{settings.max_side} {settings.patch} {curation_code()}".encode()).hexdigest()[:24]
    with opened_records(cache, settings) as records, Kept(cache and cache / "patches", seen_as) as kept:
        _measure_new(ingested, records, settings, progress)
        photographs = read_collection(ingested, records, settings.keep.by if settings.keep else ())
        choice = choose(photographs, records, settings, progress)
        write_tables(folder, ingested, photographs, records, choice)
        patches, shards = _write_patches(folder, ingested, photographs, records, choice, kept, settings)
        held_out = _write_held_out(folder, ingested, choice.side, kept, settings)
        kept.keep(folder, shards + held_out)

    counts = {name: int((choice.side == number).sum()) for number, name in enumerate(SIDES)}
    return counts | photographs.reasons() | {"patches": patches}


def choose(
    photographs: Collection, records: Records, settings: CurateSettings, progress: Callable[[str, int, int], None]
) -> Choice:
    """Chooses among measured photographs; says in the collection why each other one is rejected."""
    ranks = keep_best(photographs, settings.keep) if settings.keep else {}
    scene = _group(photographs, records, settings, progress)
    if settings.cover:
        _cover(photographs, records, settings.cover)
    cluster = _cluster(photographs, records, settings)
    return Choice(ranks=ranks, scene=scene, cluster=cluster, side=_split(photographs, scene, settings))


def write_tables(folder: Path, ingested: str | Path, photographs: Collection, records: Records, choice: Choice) -> None:
    """Writes `images.csv` and, with a rule, `scores.parquet`."""
    _write_images(folder / "images.csv", ingested, photographs, choice)
    if choice.ranks:
        write_scores(folder / "scores.parquet", manifest_rows(ingested), photographs, records, choice.ranks)


def _measure_new(
    ingested: str | Path, records: Records, settings: CurateSettings, progress: Callable[[str, int, int], None]
) -> None:
    """Measures the photographs of which nothing is recorded."""
    total = sum(1 for _ in manifest_rows(ingested))
    new = sum(photograph.image_id not in records for photograph in manifest_rows(ingested))

    def unknown() -> Iterator[tuple[Photograph, Place]]:
        for photograph, place, _ in read_photographs(ingested):
            if photograph.image_id not in records:
                yield photograph, place

    if new < total:
        progress("photographs known from before", total - new, total)
    for done, item in enumerate(measure(unknown(), settings), start=1):
        records.add(item)
        progress("photographs measured", done, new)


def _group(
    photographs: Collection,
    records: Records,
    settings: CurateSettings,
    progress: Callable[[str, int, int], None],
) -> np.ndarray:
    """The scene of each photograph, (N,) the smallest `id` in it; rejects near duplicates."""
    left = photographs.left()
    # Many pairs may have one clean image, which is compared once.
    files = np.stack([photographs.clean[left], photographs.paired[left].astype(np.uint64)], axis=1)
    _, first, inverse = np.unique(files, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    compared, file = left[first[order]], np.argsort(order)[inverse.ravel()]
    find = _by_keypoints if settings.scenes == "keypoints" else _by_hashes
    scenes = find(photographs, compared, records, progress)
    for pair in scenes.near_duplicates:
        keep, drop = photographs.by_preference(compared[list(pair)]).tolist()
        if photographs.is_left(keep) and not photographs.paired[drop]:
            photographs.reject(drop, "near_duplicate")
    scene = _with_whole_videos(photographs.video[compared], scenes.scene)[file]
    smallest = np.full(len(compared), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, scene, photographs.id[left])
    named = photographs.id.copy()
    named[left] = smallest[scene]
    return named


def _with_whole_videos(video: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """The scenes, joined where they hold frames of one video: what it shows may not be on two sides of the split."""
    frames = np.flatnonzero(video >= 0)
    if not len(frames):
        return scene
    _, first, inverse = np.unique(video[frames], return_index=True, return_inverse=True)
    together = zip(frames[first[inverse]].tolist(), frames.tolist(), strict=True)
    pairs = [*((int(scene[one]), int(scene[other])) for one, other in together)]
    return joined(len(scene), pairs)[scene]


def _by_keypoints(
    photographs: Collection, compared: np.ndarray, records: Records, progress: Callable[[str, int, int], None]
) -> Scenes:
    fingerprints = [records.fingerprint(name) for name in photographs.image_ids(compared)]
    return find_scenes(fingerprints, progress=lambda done, total: progress("pairs compared", done, total))


def _by_hashes(
    photographs: Collection, compared: np.ndarray, records: Records, progress: Callable[[str, int, int], None]
) -> Scenes:
    """The scenes by hashes; of each the photograph to keep is paired with every other."""
    pairs = near_pairs(
        photographs.hash[compared], progress=lambda done, total: progress("hashes compared", done, total)
    )
    scene = joined(len(compared), map(tuple, pairs))
    members = np.unique(pairs)
    position = np.full(len(photographs), -1, np.int32)
    position[compared[members]] = members
    ordered = position[photographs.by_preference(compared[members])]
    _, first, inverse = np.unique(scene[ordered], return_index=True, return_inverse=True)
    kept = ordered[first[inverse]]
    both = zip(kept.tolist(), ordered.tolist(), strict=True)
    return Scenes(scene=scene, near_duplicates=[(best, other) for best, other in both if best != other])


def _split(photographs: Collection, scene: np.ndarray, settings: CurateSettings) -> np.ndarray:
    """(N,) the side of each photograph, set by set, -1 for the rejected; of a held-out scene one photograph is left."""
    left = photographs.left()
    scenes, of = np.unique(scene[left], return_inverse=True)
    in_colour, set_of = np.zeros(len(scenes), bool), np.full(len(scenes), len(photographs.sets), np.uint16)
    np.logical_or.at(in_colour, of, photographs.colour[left])
    np.minimum.at(set_of, of, photographs.set[left])  # a scene that is in several counts for the first of their names
    sets = [number for number in range(len(photographs.sets)) if (set_of == number).any()]
    side_of_scene = np.full(len(scenes), _TRAIN, np.int8)
    for number in sets or [0]:
        members = np.flatnonzero(set_of == number)
        side_of_scene[members] = split_scenes(
            (f"{name:016x}" for name in scenes[members].tolist()),
            in_colour[members],
            settings,
            of_set=photographs.sets[number] if len(sets) > 1 else None,
            rejected=photographs.reasons(number if len(sets) > 1 else None),
        )
    side = np.full(len(photographs), _REJECTED, np.int8)
    side[left] = side_of_scene[of]
    ordered = photographs.by_preference(left[side[left] != _TRAIN])
    _, first = np.unique(scene[ordered], return_index=True)
    again = np.delete(ordered, first)
    photographs.reject(again, "same_scene")
    side[again] = _REJECTED
    return side


def _cover(photographs: Collection, records: Records, fraction: float) -> None:
    """Rejects the photographs that others stand for."""
    left = photographs.left()
    left = left[np.argsort(photographs.id[left])]
    for number in range(len(photographs.sets)):
        members = left[photographs.set[left] == number]
        if len(members):
            vectors = records.descriptors(photographs.image_ids(members), len(members))
            chosen = covering(vectors, math.ceil(fraction * len(members) - 1e-9))
            photographs.reject(np.delete(members, chosen), "covered")


def _cluster(photographs: Collection, records: Records, settings: CurateSettings) -> np.ndarray:
    """(N,) the cluster of each photograph, counted on from set to set; -1 for the rejected."""
    left = photographs.left()
    cluster = np.full(len(photographs), -1, np.int32)
    for number in range(len(photographs.sets)):
        members = left[photographs.set[left] == number]
        if not len(members):
            continue
        some = members
        if len(members) > CLUSTERED:  # the first by name, which is a hash
            some = np.sort(members[np.argsort(photographs.id[members])[:CLUSTERED]])
        labels, centres = clusters(
            records.descriptors(photographs.image_ids(some), len(some)), settings.clusters, settings.seed
        )
        if len(some) < len(members):
            parts = np.split(members, range(_AT_ONCE, len(members), _AT_ONCE))
            labels = np.concatenate(
                [nearest(records.descriptors(photographs.image_ids(part), len(part)), centres) for part in parts]
            )
        cluster[members] = cluster.max() + 1 + in_order(labels)
    return cluster


def _write_images(path: Path, ingested: str | Path, photographs: Collection, choice: Choice) -> None:
    figures, side = photographs.figures, choice.side
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for position, photograph in enumerate(manifest_rows(ingested)):
            writer.writerow(
                [
                    photograph.image_id,
                    photograph.set,
                    photograph.address,
                    f"{choice.scene[position]:016x}",
                    "rejected" if side[position] == _REJECTED else SIDES[side[position]],
                    photograph.width,
                    photograph.height,
                    f"{figures['sharpness'][position]:.3f}",
                    f"{figures['noise_sigma'][position]:.3f}",
                    f"{figures['flat_fraction'][position]:.4f}",
                    choice.cluster[position],
                    photographs.reason(position),
                ]
            )


def _write_patches(
    folder: Path,
    ingested: str | Path,
    photographs: Collection,
    records: Records,
    choice: Choice,
    kept: Kept,
    settings: CurateSettings,
) -> tuple[int, list[str]]:
    """Cuts the patches of the training photographs, of pairs after the others; returns how many, and the shards."""
    trained, cluster = np.flatnonzero(choice.side == _TRAIN), choice.cluster
    chosen: set[str] | None = None
    if settings.patches_per_cluster is not None:
        chosen = set()
        for number in np.unique(cluster[trained]).tolist():
            of_cluster = photographs.image_ids(trained[cluster[trained] == number])
            chosen |= choose_patches(map(records.patches, of_cluster), settings.patches_per_cluster, settings.seed)

    def patches_of(position: int) -> list[Patch]:
        found = records.patches(photographs.image_id(position))
        return [patch for patch in found if chosen is None or patch.patch_id in chosen]

    def count(positions: np.ndarray) -> int:
        if chosen is None:
            return int(photographs.patches[positions].sum())
        return sum(len(patches_of(position)) for position in positions.tolist())

    paired = photographs.paired[trained]
    single, pairs = trained[~paired], trained[paired]
    counts = count(single), count(pairs)
    shards = PatchShardWriter(
        folder, counts[0], pairs=counts[1], side=settings.patch, shard_megabytes=settings.shard_megabytes
    )
    for some in filter(len, (single, pairs)):
        for position, (photograph, place, degraded_place) in _at(some, ingested):
            if patches := patches_of(position):
                contents = [_kept_patch(kept, patch, shards.shape(bool(degraded_place))) for patch in patches]
                if any(content is None for content in contents):
                    pixels = seen(photograph, place, settings)
                    degraded = to_uint8(degraded_place.pixels()) if degraded_place else None
                    contents = [cut(patch, settings.patch, pixels, degraded) for patch in patches]
                for patch, content in zip(patches, contents, strict=True):
                    assert content is not None
                    part = shards.add(patch, content, of_set=photograph.set)
                    kept.note(patch.patch_id, None, [part])
    shards.close()
    return sum(counts), shards.files


def _kept_patch(kept: Kept, patch: Patch, shape: tuple[int, ...]) -> np.ndarray | None:
    found = kept.get(patch.patch_id)
    data = found and kept.read(found[1][0])
    return np.frombuffer(data, np.uint8).reshape(shape) if data else None


def _write_held_out(
    folder: Path, ingested: str | Path, side: np.ndarray, kept: Kept, settings: CurateSettings
) -> list[str]:
    """Writes the images of the held-out sides; returns their names."""
    limit, written = settings.held_out_side, []
    held_out = np.flatnonzero((side != _TRAIN) & (side != _REJECTED))
    for position, (photograph, place, degraded_place) in _at(held_out, ingested):
        for part, of in {"": place, "degraded/": degraded_place}.items():
            if of is None:
                continue
            key = f"held out {part}{photograph.image_id} {limit}"
            found = kept.get(key)
            data = found and kept.read(found[1][0])
            if not data:
                pixels = to_uint8(of.pixels()) if part else seen(photograph, of, settings)
                top, left = (max(0, length - limit) // 2 for length in pixels.shape[:2])
                data = encode(pixels[top : top + limit, left : left + limit], ".png")
            name = f"held_out/{SIDES[side[position]]}/{part}{photograph.image_id}.png"
            write_bytes(folder / name, data)
            kept.note(key, None, [Part(name, 0, len(data), zlib.crc32(data))])
            written.append(name)
    return written


def _at(positions: np.ndarray, ingested: str | Path) -> Iterator[tuple[int, tuple[Photograph, Place, Place | None]]]:
    """Photographs at some positions of the manifest, which are sorted."""
    found, before = read_photographs(ingested), -1
    for position in positions.tolist():
        yield position, next(islice(found, position - before - 1, None))
        before = position
