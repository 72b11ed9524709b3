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
    assert scenes.scene == list(range(len(others)))
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
    ],
    ids=["as JPEG", "smaller", "in gray", "brighter"],
)
def test_a_copy_is_a_near_duplicate(others, change):
    """A copy that was compressed, scaled, made gray or brightened is a near duplicate of its original only."""
    assert joined(others, change(skimage_photograph("astronaut.png"))) == (["astronaut"], ["astronaut"])


def test_pictures_without_keypoints_are_compared_by_thumbnail(others):
    """Two copies of a fog without a keypoint are near duplicates; the same fog the other way round is not."""
    fog = np.repeat(np.linspace(80, 200, 300)[None, :, None], 200, axis=0).repeat(3, axis=2).astype(np.uint8)
    scenes = find_scenes([*others, fingerprint(fog), fingerprint(fog[:, ::-1]), fingerprint(fog[::2, ::2])])
    last = len(others)
    assert scenes.near_duplicates == [(last, last + 2)]
    assert scenes.scene[last:] == [last, last + 1, last]


def test_few_photographs_are_no_special_case():
    """None, one and two photographs are grouped like many."""
    picture = fingerprint(skimage_photograph("coins.png"))
    assert find_scenes([]).scene == []
    assert find_scenes([picture]).scene == [0]
    assert find_scenes([picture, picture]).scene == [0, 0]
