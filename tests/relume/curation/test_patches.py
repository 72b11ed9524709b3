"""Patches: they cover a photograph, flat ones are left out, quotas are shared, shards hold what the table says."""

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from relume.curation.patches import Patch, Patches, PatchShardWriter, choose_patches, cut, find_patches


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def patches_of(name, count):
    return [Patch(image_id=name, y=n, x=0, sharpness=1.0, flat_fraction=0.0) for n in range(count)]


@given(st.integers(32, 150), st.integers(32, 150), st.integers(8, 32))
def test_patches_cover_the_photograph(height, width, stride):
    """With a stride up to the side, every pixel lies in a patch and no patch leaves the photograph."""
    covered = np.zeros((height, width), bool)
    luma = noise(height, width)[..., 0].astype(np.float32)
    for patch in find_patches("a", luma, side=32, stride=stride, max_flat_fraction=1):
        part = covered[patch.y : patch.y + 32, patch.x : patch.x + 32]
        assert part.shape == (32, 32)
        part[:] = True
    assert covered.all()


@given(st.integers(32, 150), st.integers(32, 150))
def test_without_flush_no_pixel_is_in_two_patches(height, width):
    """With a stride of the side the patches are the whole cells of the grid, each once."""
    luma = noise(height, width)[..., 0].astype(np.float32)
    places = [(p.y, p.x) for p in find_patches("a", luma, side=32, stride=32, max_flat_fraction=1, flush=False)]
    assert places == [(y, x) for y in range(0, height - 31, 32) for x in range(0, width - 31, 32)]


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 9999), st.floats(0, 1e6), st.floats(0, 1)), max_size=20))
def test_patches_in_an_array_are_the_patches(rows):
    """What is kept of a photograph's patches in 24 bytes each gives them back, to the last bit."""
    patches = [Patch(image_id="a", y=y, x=x, sharpness=sharp, flat_fraction=flat) for y, x, sharp, flat in rows]
    kept = Patches("a", patches)
    assert list(kept) == patches == kept[:]
    assert list(pickle.loads(pickle.dumps(kept))) == patches


def test_flat_patches_are_left_out():
    """Of a photograph that is half sky, the patches in the sky are not listed, those half in it by the limit."""
    luma = noise(128, 256)[..., 0].astype(np.float32)
    luma[:, 128:] = 200
    for limit, expected in [(0.4, [0]), (0.6, [0, 64]), (1.0, [0, 64, 128])]:
        found = find_patches("a", luma, side=128, stride=64, max_flat_fraction=limit)
        assert [patch.x for patch in found] == expected


def test_a_quota_is_shared_evenly():
    """A quota of 10 over photographs of 100, 100 and 2 patches takes 4, 4 and 2."""
    chosen = choose_patches([patches_of("a", 100), patches_of("b", 100), patches_of("c", 2)], 10, seed=1)
    assert [sum(name.startswith(letter) for name in chosen) for letter in "abc"] == [4, 4, 2]


def test_the_choice_is_stable():
    """A larger quota keeps what a smaller one chose, and another seed chooses others."""
    groups = [patches_of("a", 50), patches_of("b", 50)]
    small, large = choose_patches(groups, 20, seed=1), choose_patches(groups, 40, seed=1)
    assert small < large
    assert small != choose_patches(groups, 20, seed=2)
    assert len(choose_patches(groups, 1000, seed=1)) == 100


def test_shards_hold_what_the_table_says(tmp_path):
    """Each row of the table names the place of exactly those pixels, and the shards are plain mapped arrays."""
    pictures = {name: noise(100, 120, seed) for seed, name in enumerate(["a", "b"])}
    patches = [
        Patch(image_id=name, y=y, x=x, sharpness=1.5, flat_fraction=0.25)
        for name in pictures
        for y, x in [(0, 0), (36, 56), (10, 3)]
    ]
    shards = PatchShardWriter(tmp_path, len(patches), side=64, shard_megabytes=0.05)  # four patches a shard
    for patch in patches:
        shards.add(patch, cut(patch, 64, pictures[patch.image_id]))
    shards.close()
    rows = parquet.read_table(tmp_path / "patches.parquet").to_pylist()
    assert [row["patch_id"] for row in rows] == [patch.patch_id for patch in patches]
    assert [(row["shard"], row["row"]) for row in rows] == [
        *(("train-00000.npy", row) for row in range(4)),
        *(("train-00001.npy", row) for row in range(2)),
    ]
    for row in rows:
        shard = np.load(tmp_path / row["shard"], mmap_mode="r")
        picture = pictures[row["image_id"]]
        np.testing.assert_array_equal(shard[row["row"]], picture[row["y"] : row["y"] + 64, row["x"] : row["x"] + 64])
        assert row["split"] == "train"
        assert row["size"] == 64
