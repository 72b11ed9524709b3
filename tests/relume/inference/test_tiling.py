"""The tiler, against networks whose result on the whole photograph is known."""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.errors import ImageError
from relume.inference.plan import Inference
from relume.inference.tiling import count_tiles, cover_axis, restore_tiled

sides = st.integers(1, 70)
tiles = st.tuples(st.integers(8, 33), st.integers(0, 40)).map(lambda pair: (pair[0], pair[1] * (pair[0] - 2) // 100))


def plan(tile: int, halo: int, overlap: int | None = None, weight: str = "linear") -> Inference:
    """Tiles that overlap by half of their halo, when nothing else is said."""
    return Inference(tile=tile, halo=halo, overlap=(halo + 1) // 2 if overlap is None else overlap, weight=weight)


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)


def box_maximum(image: np.ndarray, radius: int, axes: tuple[int, int]) -> np.ndarray:
    """A network with a receptive field of `radius` pixels and zeros outside of what it is given."""
    padding = [(radius, radius) if axis in axes else (0, 0) for axis in range(image.ndim)]
    padded = np.pad(image, padding)
    window = tuple(2 * radius + 1 for _ in axes)
    return np.lib.stride_tricks.sliding_window_view(padded, window, axes).max(axis=(-2, -1))


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, tile_halo=tiles, batch=st.integers(1, 5), in_flight=st.integers(0, 3))
def test_identity(height, width, tile_halo, batch, in_flight):
    """A network that changes nothing gives back every image exactly, whatever its size."""
    image, (tile, halo) = photograph(height, width), tile_halo
    restored = restore_tiled(image, lambda x: x, plan(tile, halo), batch=batch, in_flight=in_flight)
    np.testing.assert_array_equal(restored, image)


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, tile_halo=tiles, value=st.integers(0, 255))
def test_constant(height, width, tile_halo, value):
    """A network that answers one value gives an image of exactly that value."""
    tile, halo = tile_halo
    restored = restore_tiled(photograph(height, width), lambda x: np.full_like(x, value), plan(tile, halo))
    assert (restored == value).all()


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 300),
    tile_halo=tiles,
    weight=st.sampled_from(["linear", "cosine", "uniform"]),
    part=st.floats(0, 1),
)
def test_partition_of_unity(length, tile_halo, weight, part):
    """At each pixel the weights of all tiles are non-negative and sum to one, whatever part of a tile is blended."""
    tile, halo = tile_halo
    axis = cover_axis(length, plan(tile, halo, round(part * (tile - 2 * halo - 1)), weight))
    total = np.zeros(max(length, tile))
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        assert (weight >= 0).all()
        total[start : start + tile] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("tile", "halo", "overlap"), [(256, 0, 50), (256, 0, 16), (192, 0, 32), (64, 8, 5), (64, 8, 0)]
)
@pytest.mark.parametrize("weight", ["linear", "cosine", "uniform"])
def test_neighbours_share_their_overlap_and_nothing_more(tile, halo, overlap, weight):
    """Starts are tile - 2 halo - overlap apart; two tiles have a weight at exactly the pixels of their overlap, where
    those of the second are k / (F + 1), the square of a sine, or a half."""
    pitch = tile - 2 * halo - overlap
    axis = cover_axis(tile + 3 * pitch, plan(tile, halo, overlap, weight))
    assert axis.starts == [0, pitch, 2 * pitch, 3 * pitch]
    first, second = (np.pad(axis.weights[i], (i * pitch, (1 - i) * pitch)) for i in (0, 1))
    both = np.flatnonzero((first > 0) & (second > 0))
    np.testing.assert_array_equal(both, np.arange(overlap) + pitch + halo)
    share = np.arange(1, overlap + 1) / (overlap + 1)
    expected = {"linear": share, "cosine": (1 - np.cos(np.pi * share)) / 2, "uniform": np.full(overlap, 0.5)}[weight]
    np.testing.assert_allclose(second[both], expected, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(33, 90), width=st.integers(33, 90), radius=st.integers(0, 6), more=st.integers(0, 3))
def test_local_network(height, width, radius, more):
    """A network whose receptive field lies within the halo gives, tiled, what it gives on the whole image."""
    image = photograph(height, width)
    restored = restore_tiled(image, lambda x: box_maximum(x, radius, (2, 3)), plan(33, radius + more))
    np.testing.assert_array_equal(restored, box_maximum(image, radius, (0, 1)))


def test_halo_is_needed():
    """With a halo below the receptive field the tiled result differs, so the test above can fail."""
    image = photograph(80, 80)
    restored = restore_tiled(image, lambda x: box_maximum(x, 4, (2, 3)), plan(33, 1))
    assert (restored != box_maximum(image, 4, (0, 1))).any()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (5, 3), (12, 40)])
def test_small_image_is_reflected(height, width):
    """Where an image is smaller than a tile, the network sees it mirrored, as numpy mirrors it."""
    image, seen = photograph(height, width), []

    def network(tiles):
        seen.append(tiles.copy())
        return tiles

    restore_tiled(image, network, plan(24, 3))
    expected = np.pad(image, ((0, max(0, 24 - height)), (0, max(0, 24 - width)), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(seen[0][0], expected[:24, :24].transpose(2, 0, 1))


def test_tiles_differ_without_a_seam():
    """Tiles that come back with different brightness fade into each other instead of meeting at an edge."""
    image = np.zeros((100, 100, 3), np.uint8)
    halo, calls = 8, iter(range(1000))
    restored = restore_tiled(image, lambda x: np.full_like(x, 100 + 40 * (next(calls) % 2)), plan(40, halo), batch=1)
    steps = np.abs(np.diff(restored[:, :, 0].astype(int), axis=1))
    assert steps.max() > 0
    assert steps.max() <= 40 / (halo / 2 + 1) + 1


def test_tiles_given_to_the_network():
    """Every tile is uint8 (N, 3, T, T), contiguous, in batches of the asked size."""
    shapes = []

    def network(tiles):
        assert tiles.dtype == np.uint8
        assert tiles.flags.c_contiguous
        shapes.append(tiles.shape)
        return tiles

    restore_tiled(photograph(70, 50), network, plan(32, 4), batch=4)
    assert {shape[1:] for shape in shapes} == {(3, 32, 32)}
    assert sum(shape[0] for shape in shapes) == count_tiles(70, 50, plan(32, 4))
    assert all(shape[0] == 4 for shape in shapes[:-1])


def test_batches_in_flight():
    """As many batches as asked are in flight at a time, each from a thread of its own."""
    together = threading.Barrier(4)

    def network(tiles):
        together.wait(timeout=10)
        return tiles

    count = count_tiles(64, 96, plan(16, 1))
    assert count % 4 == 0
    restore_tiled(photograph(64, 96), network, plan(16, 1), batch=1, in_flight=4)


def test_own_thread():
    """Unless batches are to be in flight, the backend runs in the caller's thread."""
    threads = set()
    restore_tiled(photograph(60, 60), lambda x: threads.add(threading.get_ident()) or x, plan(32, 2))
    assert threads == {threading.get_ident()}


def test_progress():
    """Progress goes up to the number of tiles."""
    seen = []
    restore_tiled(photograph(60, 60), lambda x: x, plan(32, 2), batch=2, on_progress=lambda *step: seen.append(step))
    total = count_tiles(60, 60, plan(32, 2))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_failure_of_the_network():
    """An error of the backend reaches the caller and leaves no thread behind."""

    def network(tiles):
        raise OSError("the backend is gone")

    with pytest.raises(OSError, match="the backend is gone"):
        restore_tiled(photograph(90, 90), network, plan(16, 1), in_flight=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restore-tiles")]


def test_memory():
    """Beside the image and its result, memory holds one band of tiles and not the image in float."""
    image = photograph(3000, 4000)
    tracemalloc.start()
    try:
        restore_tiled(image, lambda x: x, plan(256, 32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    band = 256 * 4000 * 3 * 4
    assert peak < image.nbytes + 3 * band


@pytest.mark.parametrize("shape", [(20, 20), (20, 20, 4), (3, 20, 20), (0, 20, 3)])
def test_not_an_image(shape):
    """Only 8-bit RGB is restored; anything else is refused by name."""
    with pytest.raises(ImageError) as caught:
        restore_tiled(np.zeros(shape, np.uint8), lambda x: x, plan(16, 1))
    assert caught.value.reason == "not_rgb8"
