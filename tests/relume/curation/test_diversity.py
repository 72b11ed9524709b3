"""Clusters of photographs by what they look like."""

import itertools

import numpy as np

from relume.curation.diversity import clusters, covering, descriptor, in_order, nearest
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
        labels, centres = clusters(points, 3, seed=5)
        np.testing.assert_array_equal(in_order(labels), expected)
        np.testing.assert_array_equal(nearest(points, centres), labels)


def test_there_are_no_more_clusters_than_photographs():
    """One photograph is one cluster, and two are at most two, however many are asked for."""
    points = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(in_order(clusters(points[:1], 4, seed=0)[0]), [0])
    np.testing.assert_array_equal(in_order(clusters(points, 4, seed=0)[0]), [0, 1])


def test_covering_is_at_most_twice_as_far_as_the_best_choice():
    """Of 9 points every choice of 3 is tried: the farthest distance left is at most twice the least of all."""
    for seed in range(20):
        points = np.random.default_rng(seed).normal(size=(9, 2)).astype(np.float32)
        apart = np.linalg.norm(points[:, None] - points, axis=2)

        def farthest(chosen, apart=apart):
            return apart[:, list(chosen)].min(axis=1).max()

        assert farthest(covering(points, 3)) <= 2 * min(map(farthest, itertools.combinations(range(9), 3))) + 1e-6


def test_covering_takes_one_of_each_kind_first_and_all_in_the_end():
    """Of three distant groups one each is chosen, beginning at the mean; equal vectors are chosen once each."""
    centres = np.array([[0, 0], [50, 0], [-45, 0]], np.float32)
    points = np.concatenate([centre + np.random.default_rng(1).normal(size=(20, 2)) for centre in centres])
    chosen = covering(points.astype(np.float32), 3)
    assert [position // 20 for position in chosen] == [0, 1, 2]
    assert sorted(covering(np.zeros((5, 3), np.float32), 5)) == [0, 1, 2, 3, 4]
