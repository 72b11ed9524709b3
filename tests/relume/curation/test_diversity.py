"""Clusters of photographs by what they look like."""

import numpy as np

from relume.curation.diversity import clusters, descriptor
from tests.relume.curation.photographs import skimage_photograph


def test_like_photographs_are_described_alike():
    """Two textures, and two views of a motorcycle, are nearer to each other than a texture is to a motorcycle."""
    grass, gravel, left, right = (
        descriptor(skimage_photograph(f"{name}.png"))
        for name in ("grass", "gravel", "motorcycle_left", "motorcycle_right")
    )
    apart = min(np.linalg.norm(a - b) for a in (grass, gravel) for b in (left, right))
    assert 2 * max(np.linalg.norm(left - right), np.linalg.norm(grass - gravel)) < apart


def test_separate_groups_become_clusters_numbered_by_appearance():
    """Three well separated groups are found, the first point's cluster is 0, and a second call agrees."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (3, 20))
    truth = np.array([2, 0, 1, 1, 0, 2] * 10)
    points = (centres[truth] + rng.normal(0, 0.5, (60, 20))).astype(np.float32)
    expected = np.array([{2: 0, 0: 1, 1: 2}[label] for label in truth])
    for _ in range(2):
        np.testing.assert_array_equal(clusters(points, 3, seed=5), expected)


def test_there_are_no_more_clusters_than_photographs():
    """One photograph is one cluster, and two are at most two, however many are asked for."""
    points = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(clusters(points[:1], 4, seed=0), [0])
    np.testing.assert_array_equal(clusters(points, 4, seed=0), [0, 1])
