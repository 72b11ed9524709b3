"""Scenes are found in the pixels: stereo pairs, crops and copies are joined, different photographs are not."""

import cv2
import numpy as np
import pytest

from relume.curation.duplicates import find_scenes, fingerprint
from relume.images import decode, encode
from tests.relume.curation.photographs import skimage_photograph

NAMES = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "ihc",
    "moon",
    "motorcycle_left",
)


@pytest.fixture(scope="module")
def others():
    """Fingerprints of eleven different photographs."""
    return [fingerprint(skimage_photograph(f"{name}.png")) for name in NAMES]


def joined(others, pixels):
    """The names of the photographs that one more is joined with, and those that it nearly duplicates."""
    scenes = find_scenes([*others, fingerprint(pixels)])
    last = len(others)
    same = [name for name, scene in zip(NAMES, scenes.scene[:last], strict=True) if scene == scenes.scene[last]]
    return same, [NAMES[first] for first, second in scenes.near_duplicates if second == last]


def test_different_photographs_stay_apart(others):
    """Among eleven photographs of different things, textures included, no two are joined."""
    scenes = find_scenes(others)
    assert scenes.scene.tolist() == list(range(len(others)))
    assert scenes.near_duplicates == []


def test_a_stereo_pair_is_one_scene(others):
    """The right view of the motorcycle joins the left one, and is no near duplicate of it."""
    assert joined(others, skimage_photograph("motorcycle_right.png")) == (["motorcycle_left"], [])


def test_a_crop_is_the_same_scene(others):
    """A quarter of a photograph, enlarged, joins the whole, though no thumbnail shows it."""
    crop = skimage_photograph("coffee.png")[50:300, 150:500]
    assert joined(others, cv2.resize(crop, None, fx=1.6, fy=1.6)) == (["coffee"], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: decode(encode(pixels, ".jpg")).pixels,
        lambda pixels: cv2.resize(pixels, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
        lambda pixels: np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
        lambda pixels: np.clip(pixels.astype(int) * 1.1 + 5, 0, 255).astype(np.uint8),
        lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
        lambda pixels: np.ascontiguousarray(pixels[::-1]),
        lambda pixels: np.ascontiguousarray(np.rot90(pixels)),
        lambda pixels: np.ascontiguousarray(pixels.transpose(1, 0, 2)),
    ],
    ids=["as JPEG", "smaller", "in gray", "brighter", "mirrored", "upside down", "turned", "transposed"],
)
def test_a_copy_is_a_near_duplicate(others, change):
    """A copy that was compressed, scaled, made gray, brightened or flipped is a near duplicate of its original only."""
    assert joined(others, change(skimage_photograph("astronaut.png"))) == (["astronaut"], ["astronaut"])


@pytest.mark.parametrize("name", NAMES)
def test_a_mirrored_crop_is_the_same_scene(others, name):
    """Training flips its crops, so that a mirrored crop in the held-out set would be a leak; each one is found."""
    pixels = skimage_photograph(f"{name}.png")
    height, width = pixels.shape[:2]
    crop = np.ascontiguousarray(pixels[height // 6 : -height // 6, width // 6 : -width // 6][:, ::-1])
    assert name in joined(others, crop)[0]


def test_images_without_keypoints_are_compared_by_thumbnail(others):
    """Copies of a fog without a keypoint, one of them mirrored, are near duplicates; another fog is not."""
    fog = np.repeat(np.linspace(80, 200, 300)[None, :, None], 200, axis=0).repeat(3, axis=2).astype(np.uint8)
    other = (200 - np.abs(fog.astype(int) - 140)).astype(np.uint8)
    copies = (fog, other, fog[::2, ::2], fog[:, ::-1])
    scenes = find_scenes([*others, *(fingerprint(np.ascontiguousarray(pixels)) for pixels in copies)])
    last = len(others)
    assert scenes.near_duplicates == [(last, last + 2), (last, last + 3), (last + 2, last + 3)]
    assert scenes.scene[last:].tolist() == [last, last + 1, last, last]


def test_few_photographs_are_no_special_case():
    """None, one and two photographs are grouped like many."""
    picture = fingerprint(skimage_photograph("coins.png"))
    assert find_scenes([]).scene.tolist() == []
    assert find_scenes([picture]).scene.tolist() == [0]
    assert find_scenes([picture, picture]).scene.tolist() == [0, 0]
