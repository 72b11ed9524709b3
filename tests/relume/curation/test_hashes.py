"""Perceptual hashes and their index, against brute force and changed photographs."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from relume.curation.hashes import RADIUS, near_pairs, orientations, perceptual_hash
from relume.curation.quality import gray
from relume.images import decode, encode, read_image
from tests.relume.curation.photographs import skimage_photograph

NAMES = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "ihc", "moon", "rocket")

CHANGES = {
    "jpeg": lambda pixels: decode(encode(pixels, ".jpg", quality=30)).pixels,
    "smaller": lambda pixels: cv2.resize(pixels, None, fx=0.37, fy=0.37, interpolation=cv2.INTER_CUBIC),
    "larger": lambda pixels: cv2.resize(pixels, None, fx=1.7, fy=1.7),
    "brighter": lambda pixels: np.clip(pixels * 1.1 + 5, 0, 255).astype(np.uint8),
    "turned and smaller": lambda pixels: np.rot90(cv2.resize(pixels, None, fx=0.5, fy=0.5)),
    "mirrored": lambda pixels: pixels[::-1],
}
SHARED = Path(__file__).parents[4] / "shared" / "data"


def hash_of(pixels):
    return perceptual_hash(gray(np.ascontiguousarray(pixels)))


@pytest.fixture(scope="module")
def others():
    """Hashes of eleven different photographs."""
    return [hash_of(skimage_photograph(f"{name}.{'jpg' if name == 'rocket' else 'png'}")) for name in NAMES]


def distance(first, second):
    """Bits by which a hash differs from the nearest orientation of another, one by one."""
    return min(bin(int(turned) ^ second).count("1") for turned in orientations(np.array([first], np.uint64))[:, 0])


def test_the_hashes_of_all_orientations_follow_from_one():
    """They are the hashes of the turned and mirrored photograph, each once."""
    photograph = skimage_photograph("coffee.png")
    turned = {hash_of(np.rot90(image, times)) for image in (photograph, photograph[:, ::-1]) for times in range(4)}
    assert set(orientations(np.array([hash_of(photograph)], np.uint64))[:, 0].tolist()) == turned
    assert len(turned) == 8


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_is_near_and_no_other_photograph_is(others, change):
    """A changed copy of each photograph is paired with it alone; two different ones differ by more than ten bits."""
    names = ("astronaut", "chelsea", "coffee")
    copies = [hash_of(change(skimage_photograph(f"{name}.png"))) for name in names]
    pairs = near_pairs(np.array([*others, *copies], np.uint64))
    assert pairs.tolist() == [[NAMES.index(name), len(NAMES) + number] for number, name in enumerate(names)]
    assert min(distance(first, second) for first in others for second in others if first != second) > 10


@pytest.mark.exhaustive
@pytest.mark.skipif(not SHARED.is_dir(), reason="the sets are not beside the checkout")
def test_no_two_photographs_of_the_sets_are_taken_for_one():
    """Of 490 photographs of BSDS and Kodak no two are near; their changed copies are, of some kinds all but a few."""
    files = [*(SHARED / "train" / "bsd400").iterdir(), *(SHARED / "test" / "cbsd68").iterdir()]
    files += (SHARED / "test" / "kodak24").iterdir()
    photographs = [read_image(path).pixels for path in sorted(files)]
    hashes = [hash_of(pixels) for pixels in photographs]
    assert len(hashes) == 490
    assert len(near_pairs(np.array(hashes, np.uint64))) == 0
    rng = np.random.default_rng(0)
    noisy = {"noisy": lambda pixels: np.clip(pixels + rng.normal(0, 10, pixels.shape), 0, 255).astype(np.uint8)}
    cut = {"cut": lambda pixels: pixels[len(pixels) // 100 : -(len(pixels) // 100), 4:-4]}
    found = {
        name: np.mean(
            [distance(own, hash_of(change(pixels))) <= RADIUS for pixels, own in zip(photographs, hashes, strict=True)]
        )
        for name, change in (CHANGES | noisy | cut).items()
    }
    assert found.pop("cut") > 0.97
    assert found.pop("brighter") > 0.99
    assert set(found.values()) == {1}


def test_the_index_finds_what_comparing_all_finds():
    """Of 400 hashes with 300 planted neighbours at 0 to 7 bits, turned at random, it finds the pairs up to RADIUS."""
    rng = np.random.default_rng(0)
    hashes = (rng.integers(0, 1 << 63, 700, dtype=np.uint64) << np.uint64(1)).astype(np.uint64)
    for number in range(300):
        turned = orientations(hashes[number : number + 1])[rng.integers(8), 0]
        for bit in rng.choice(np.arange(1, 64), rng.integers(8), replace=False):
            turned ^= np.uint64(1) << np.uint64(bit)
        hashes[400 + number] = turned
    apart = np.bitwise_count(orientations(hashes)[:, :, None] ^ hashes).min(axis=0)
    expected = np.argwhere(np.triu(apart <= RADIUS, 1))
    assert 150 < len(expected) < 300
    assert near_pairs(hashes).tolist() == expected.tolist()


def test_equal_hashes_are_paired_with_the_first_of_them():
    """A thousand equal hashes give 999 pairs, and no hashes none."""
    pairs = near_pairs(np.full(1000, 42, np.uint64))
    assert pairs.tolist() == [[0, other] for other in range(1, 1000)]
    assert near_pairs(np.zeros(0, np.uint64)).shape == (0, 2)
