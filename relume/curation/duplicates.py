"""Which photographs show the same scene, found in the pixels: copies, crops, bursts, stereo pairs, rotated or mirrored.

Every photograph is compared with its nearest neighbours, by thumbnail, which finds copies and bursts,
and by visual words, which finds crops and other views. A pair shows one scene when enough of its SIFT
matches agree on one homography; a pair is a near duplicate when the thumbnails are almost equal as
well. Scenes are the connected components of the pairs.

On 547 photographs of BSDS and the classic test sets this finds every overlap that is known between
them, and one pair that is none: two photographs of a tiger.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from relume.curation.quality import gray
from relume.parallel import map_in_order

_THUMBNAIL = 24
THUMBNAIL = _THUMBNAIL**2  # gray values
_WORKING_SIDE = 512
_KEYPOINTS = 600
# Photographs that are compared in detail with each one: so many by thumbnail, so many by visual words.
_NEIGHBOURS = 8
_WORDS = 2048
# Lowe's ratio between the distances of the best and the second match. Source: Lowe, IJCV 2004, section 7.1.
_RATIO = 0.75
# Pixels at the working size by which a match may miss the homography: enough for the parallax of a
# stereo pair, which no homography fits exactly.
_REPROJECTION = 8.0
# Chance matches between the 466 BSDS photographs agree on fewer than 20 points, but for repeated grids,
# of which only a small share of the matches agrees.
_MIN_INLIERS = 20
_MIN_INLIER_SHARE = 0.35
_NEAR_DUPLICATE = 0.98
# Without any keypoint (fog, sky) only the thumbnail is left, and must agree all but completely.
_NEAR_DUPLICATE_WITHOUT_KEYPOINTS = 0.998


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What is compared of a photograph.

    Attributes:
        thumbnail: 24x24 gray values, of mean 0 and length 1, flattened.
        points: (N, 2) places of the keypoints at the working size, in pixels.
        descriptors: (N, 128) SIFT descriptors, uint8.
    """

    thumbnail: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The result of the comparison, by position in the list of photographs.

    Attributes:
        scene: (N,) for each photograph the smallest position in its scene.
        near_duplicates: Pairs of positions.
    """

    scene: np.ndarray
    near_duplicates: list[tuple[int, int]]


def fingerprint(pixels: np.ndarray) -> Fingerprint:
    """Fingerprints a photograph, (H, W, 3) RGB uint8."""
    import cv2

    scale = min(1.0, _WORKING_SIDE / max(pixels.shape[:2]))
    small = cv2.resize(gray(pixels), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    thumbnail = cv2.resize(small, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA).ravel()
    thumbnail = thumbnail - thumbnail.mean()
    thumbnail /= max(float(np.linalg.norm(thumbnail)), 1e-6)
    sift = cv2.SIFT.create(nfeatures=_KEYPOINTS, contrastThreshold=0.02)
    keypoints, descriptors = sift.detectAndCompute(np.rint(small).astype(np.uint8), None)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.uint8)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
    return Fingerprint(thumbnail=thumbnail, points=points, descriptors=descriptors.astype(np.uint8))


def find_scenes(
    fingerprints: Sequence[Fingerprint], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Scenes:
    """Finds the scenes among photographs.

    Args:
        fingerprints: Of all photographs.
        progress: Given how many pairs of how many were compared.

    The time grows with the number of photographs times 16, but for the products that find the neighbours.
    """
    near_duplicates: list[tuple[int, int]] = []
    same_scenes: list[tuple[int, int]] = []

    def compare(pair: tuple[int, int, float]) -> tuple[int, int, bool, bool]:
        first, second, similarity = pair
        same = same_scene(fingerprints[first], fingerprints[second])
        return first, second, same, same and similarity >= _NEAR_DUPLICATE

    candidates = _candidates(fingerprints)
    for done, (first, second, same, near) in enumerate(map_in_order(compare, candidates), start=1):
        progress(done, len(candidates))
        if same:
            same_scenes.append((first, second))
        if near:
            near_duplicates.append((first, second))
    return Scenes(scene=joined(len(fingerprints), same_scenes), near_duplicates=near_duplicates)


def joined(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """For each of so many positions the smallest one that pairs join it with, at once or by way of others."""
    parent = np.arange(count)

    def root(position: int) -> int:
        while (above := int(parent[position])) != position:
            parent[position] = parent[above]
            position = above
        return position

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    while not np.array_equal(parent, above := parent[parent]):
        parent = above
    return parent


def _candidates(fingerprints: Sequence[Fingerprint]) -> list[tuple[int, int, float]]:
    """Pairs of near neighbours, each once, with the highest correlation of their thumbnails, rotated or mirrored."""
    if len(fingerprints) < 2:
        return []
    thumbnails = np.stack([fingerprint.thumbnail for fingerprint in fingerprints])
    turned = [np.stack([_turned(thumbnail, mode) for thumbnail in thumbnails]) for mode in range(8)]
    words = _word_vectors(fingerprints, [fingerprint.descriptors for fingerprint in fingerprints])
    mirrored_words = _word_vectors(fingerprints, [_mirrored(fingerprint.descriptors) for fingerprint in fingerprints])
    pairs = set()
    for vectors, versions in ((thumbnails, turned), (words, [words, mirrored_words])):
        for start in range(0, len(vectors), 1024):
            similarity = np.max([vectors[start : start + 1024] @ version.T for version in versions], axis=0)
            similarity[np.arange(len(similarity)), start + np.arange(len(similarity))] = -2.0  # not with itself
            nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(_NEIGHBOURS, len(vectors) - 1)]
            pairs |= {
                (min(start + row, other), max(start + row, other))
                for row, others in enumerate(nearest)
                for other in others.tolist()
            }
    return [
        (first, second, max(float(thumbnails[first] @ version[second]) for version in turned))
        for first, second in sorted(pairs)
    ]


def _turned(thumbnail: np.ndarray, mode: int) -> np.ndarray:
    """A flattened thumbnail in one of its eight orientations; 0 leaves it as it is."""
    square = np.rot90(thumbnail.reshape(_THUMBNAIL, _THUMBNAIL), mode % 4)
    return (square[:, ::-1] if mode >= 4 else square).ravel()


def _mirrored(descriptors: np.ndarray) -> np.ndarray:
    """What SIFT describes at the same places of the mirrored photograph: the cells across the keypoint's direction in
    reverse order, each with its angles negated. (N, 128) to (N, 128)."""
    cells = descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
    return np.ascontiguousarray(cells[..., -np.arange(8) % 8]).reshape(-1, 128)


def _word_vectors(fingerprints: Sequence[Fingerprint], described: Sequence[np.ndarray]) -> np.ndarray:
    """Describes each photograph by how often it holds each visual word, weighted by how rare the word is.

    Args:
        fingerprints: Of all photographs, from which the words are taken.
        described: The descriptors of each photograph, or of its mirror image.

    The words are descriptors drawn evenly from all photographs, which serves to find candidates as
    well as clusters would and needs no training.

    Returns:
        (N, words) float32, of length 1, or 0 without keypoints.

    Source: Sivic and Zisserman, Video Google, ICCV 2003; Arandjelovic and Zisserman (RootSIFT), CVPR 2012.
    """
    ends = np.cumsum([len(fingerprint.descriptors) for fingerprint in fingerprints])
    if ends[-1] == 0:
        return np.zeros((len(fingerprints), 1), np.float32)
    drawn = np.unique(np.linspace(0, ends[-1] - 1, _WORDS).astype(np.int64))
    owners = np.searchsorted(ends, drawn, side="right")
    words = _root(
        np.stack([fingerprints[owner].descriptors[at - ends[owner]] for owner, at in zip(owners, drawn, strict=True)])
    )
    counts = np.zeros((len(fingerprints), len(words)), np.float32)
    for row, descriptors in zip(counts, described, strict=True):
        nearest = (_root(descriptors) @ words.T).argmax(axis=1)
        row += np.bincount(nearest, minlength=len(words))
    rarity = np.log(len(counts) / np.maximum((counts > 0).sum(axis=0), 1))
    vectors = np.sqrt(counts) * rarity.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Scales SIFT descriptors so that their products compare them as histograms (RootSIFT)."""
    values = descriptors.astype(np.float32)
    return np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))


def same_scene(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two photographs show one scene, which turning or mirroring one of them does not hide."""
    if min(len(a.points), len(b.points)) < _MIN_INLIERS:
        correlation = max(float(a.thumbnail @ _turned(b.thumbnail, mode)) for mode in range(8))
        return correlation >= _NEAR_DUPLICATE_WITHOUT_KEYPOINTS
    # A homography may mirror, so that only the descriptors need to be.
    return any(
        _agree(a.points, a.descriptors, b.points, descriptors)
        for descriptors in (b.descriptors, _mirrored(b.descriptors))
    )


def _agree(points_a: np.ndarray, descriptors_a: np.ndarray, points_b: np.ndarray, descriptors_b: np.ndarray) -> bool:
    """Whether enough matches agree on one homography."""
    import cv2

    from_a, from_b = descriptors_a.astype(np.float32), descriptors_b.astype(np.float32)
    # Squared distances are whole numbers below 2**24, so float32 holds them exactly on every machine.
    distances = (from_a**2).sum(axis=1)[:, None] + (from_b**2).sum(axis=1) - 2 * from_a @ from_b.T
    rows = np.arange(len(distances))
    best = distances.argmin(axis=1)
    nearest = distances[rows, best]
    distances[rows, best] = np.inf
    good = nearest < _RATIO**2 * distances.min(axis=1)
    if good.sum() < _MIN_INLIERS:
        return False
    from_points, to_points = points_a[good], points_b[best[good]]
    _, mask = cv2.findHomography(from_points, to_points, cv2.RANSAC, _REPROJECTION)
    if mask is None:
        return False
    # Several keypoints may match one: an agreement counts once a place.
    inliers = len(np.unique(to_points[mask.ravel() == 1], axis=0))
    return inliers >= max(_MIN_INLIERS, _MIN_INLIER_SHARE * good.sum())
