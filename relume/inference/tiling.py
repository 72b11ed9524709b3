"""The one executor: an image of any size through a network that takes tiles of one size, as the plan says.

Every way of restoring an image (evaluation, parity, in process, through Triton) uses this file, so they differ in
nothing but the backend. A tile of side T has a halo of H pixels, which gives the network context and is thrown away
where the tile has a neighbour; the kept parts of neighbours overlap by F pixels and are blended over all of these. A
network whose receptive field reaches at most H pixels gives, tiled, what it gives on the whole image; any other network
gets a blend instead of a seam. See `relume.inference.plan`.

The weights are separable and on a grid, so their sum is the product of two sums over one axis. They are divided by
these sums beforehand: the blended image needs no weight image.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from relume.errors import ImageError
from relume.inference.fusion import fuse_members
from relume.inference.masks import mean_of_passes
from relume.inference.plan import Inference, Part
from relume.inference.self_ensemble import self_ensemble

RestoreBatch = Callable[..., np.ndarray]
"""Takes tiles (N, 3, T, T) RGB and gives as many restored ones of the same type, of the plan's scale times the side:
uint8 for an 8-bit image and a plan of uint8 tiles, else float32 in [0, 1]; with a fusion the channels of all members,
one after the other. Where the plan has several parts it is called with the keyword `part` as well, the name of one, and
where it has several passes with `seeds`, float32 (N,), of the masks."""

TYPES = (np.uint8, np.uint16, np.float32)
PEAKS = {"uint8": np.float32(255), "uint16": np.float32(65535), "float32": np.float32(1)}


class Axis(NamedTuple):
    """How one axis of an image is covered by tiles."""

    starts: list[int]
    """First pixel of each tile."""
    weights: list[np.ndarray]
    """For each tile, (T,) float32 weights; over all tiles they sum to 1 at each pixel."""


def cover_axis(length: int, inference: Inference) -> Axis:
    """Lays tiles over one axis of an image, those of the first window.

    Tiles have one pitch; the last is moved back to end with the image. At the image's own border a tile is
    kept whole, so that the network's own padding acts as it does on the whole image.

    Args:
        length: Pixels of the image along the axis, at least 1.
        inference: Tile, halo, overlap and weight.
    """
    tile = inference.tile
    last = max(0, length - tile)
    starts = [*range(0, last, inference.pitch), last]
    ramp = np.concatenate([np.zeros(inference.halo), _fade(inference.overlap, inference.weight)])
    total = np.zeros(max(length, tile))
    raw = []
    for start in starts:
        weight = np.ones(tile)
        if start > 0:
            weight[: ramp.size] *= ramp
        if start < last:
            weight[tile - ramp.size :] *= ramp[::-1]
        total[start : start + tile] += weight
        raw.append(weight)
    weights = [
        (weight / total[start : start + tile]).astype(np.float32) for start, weight in zip(starts, raw, strict=True)
    ]
    return Axis(starts, weights)


def _fade(overlap: int, weight: str) -> np.ndarray:
    """Weights above 0 over the pixels of an overlap, which with those of the neighbour have the same sum everywhere."""
    share = np.arange(1, overlap + 1) / (overlap + 1)
    return {"linear": share, "cosine": np.sin(np.pi / 2 * share) ** 2, "uniform": np.ones(overlap)}[weight]


def _reflected(length: int, tile: int) -> np.ndarray:
    """Indices 0 ... max(length, tile) - 1, mirrored about the last pixel and the first as often as needed."""
    period = max(1, 2 * (length - 1))
    positions = np.arange(max(length, tile)) % period
    return np.minimum(positions, period - positions)


def count_tiles(height: int, width: int, inference: Inference) -> int:
    """The number of tiles that an image of this size is cut into, those of all windows and parts together."""
    windows = [window for part in inference.parts for window in part.plan.windows]
    return sum(len(cover_axis(height, window).starts) * len(cover_axis(width, window).starts) for window in windows)


def restore_image(
    image_HWC: np.ndarray,
    restore_batch: RestoreBatch,
    inference: Inference,
    *,
    types: Sequence[type] = TYPES,
    dtype: str | None = None,
    batch: int = 4,
    in_flight: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Restores an image as the plan says: the one executor, whatever computes a tile.

    The mean of several orientations, the blend, the mean of several windows and the fusion of base models are computed
    in floating point, and clipped and rounded once, at the end.

    Args:
        image_HWC: (H, W, 3) RGB of any size from 1x1: uint8, uint16, or float32 in [0, 1]; what is outside is clipped.
        restore_batch: The backend.
        inference: How the model restores.
        types: Of the images that the backend can restore.
        dtype: Of its tiles where that is not the plan's, as in more orientations than the model was exported for.
        batch: See `map_tiles`, as for the arguments below.
        in_flight: Batches in flight.
        on_progress: Called after each batch.

    Returns:
        The restored image, of the same type, larger by the plan's scale. With a `restore_batch` that changes nothing,
        exactly `image_HWC`.

    Raises:
        ImageError: `image_HWC` is not an RGB image of one of the types.
    """
    require_rgb(image_HWC, types)
    peak = PEAKS[image_HWC.dtype.name]

    def in_float(tiles_NCHW: np.ndarray, **which: Any) -> np.ndarray:
        return restore_batch(tiles_NCHW / peak, **which) * peak

    run = restore_batch if image_HWC.dtype.name == (dtype or inference.dtype) == "uint8" else in_float
    image = map_tiles(image_HWC, run, inference, batch=batch, in_flight=in_flight, on_progress=on_progress)
    if inference.fusion:
        image = _rounded(fuse_members(image / peak, inference.fusion) * peak, image_HWC.dtype).astype(image_HWC.dtype)
    return np.clip(image, 0, 1, out=image) if image.dtype == np.float32 else image


def member_images(image_HWC: np.ndarray, restore_batch: RestoreBatch, inference: Inference) -> np.ndarray:
    """What each member makes of an image, before their fusion: what two backends must agree in.

    Edges are decided by thresholds, so that a last bit can take a pixel from another member.

    Args:
        image_HWC: (H, W, 3) RGB, uint8.
        restore_batch: The backend, of float32 tiles.
        inference: How the model restores, with a fusion.

    Returns:
        uint8 (H, W, 3 · members).
    """
    members = map_tiles(image_HWC / np.float32(255), restore_batch, inference, batch=1)
    return _rounded(members * np.float32(255), np.dtype(np.uint8)).astype(np.uint8)


def require_rgb(image_HWC: np.ndarray, types: Sequence[type] = TYPES) -> None:
    """Refuses what is not an image that can be restored.

    Raises:
        ImageError: `image_HWC` is not an RGB image of one of the types.
    """
    if image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.size == 0 or image_HWC.dtype not in types:
        raise ImageError(
            "The array is not an RGB image",
            reason="not_rgb",
            where=f"array of {image_HWC.dtype} {image_HWC.shape}",
            next_step=f"give (height, width, 3) of one of: {', '.join(np.dtype(kind).name for kind in types)}",
        )


def map_tiles(
    image_HWC: np.ndarray,
    restore_batch: RestoreBatch,
    inference: Inference,
    *,
    batch: int,
    in_flight: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Puts an image through a function of tiles, as the plan says, and blends the results.

    Holds the image, its result, one band of tile rows in float32 and the batches in flight, never the whole image in
    another type but for the mean of several windows and for what is made of several images. With batches in flight, the
    next is cut and the last one blended meanwhile.

    Args:
        image_HWC: (H, W, C), uint8, uint16 or float32, any size from 1x1.
        restore_batch: As of `restore_image`, but for tiles (N, C, T, T) of the image's type and on its scale.
        inference: How the model restores.
        batch: Tiles in a batch at most; the last batch may hold fewer.
        in_flight: Batches given to `restore_batch` at a time, each from a thread of its own. 0 calls it in the
            caller's thread, as torch needs: the number of threads set for it holds in that thread alone.
        on_progress: Called after each batch with the tiles done and the tiles in all.

    Returns:
        (scale · H, scale · W, C) of the image's type; values of an integer type are clipped and rounded. With a fusion,
        which is for the caller to carry out, (…, members · C) in float32, neither clipped nor rounded.
    """
    total, done = count_tiles(image_HWC.shape[0], image_HWC.shape[1], inference), 0
    parts, channels = inference.parts, image_HWC.shape[2]
    alone = len(parts) == 1 and inference.fusion is None
    dtype = image_HWC.dtype if alone else np.dtype(np.float32)

    def progress(tiles: int) -> None:
        nonlocal done
        done += tiles
        if on_progress:
            on_progress(done, total)

    images = []
    for part in parts:
        run: RestoreBatch = partial(restore_batch, part=part.name) if len(parts) > 1 else restore_batch
        images.append(_part_image(image_HWC, run, part, dtype, batch, in_flight, progress))
    if len(images) == 1:
        return images[0]
    if inference.fusion is None:
        return _rounded(sum(images[1:], start=images[0]), image_HWC.dtype).astype(image_HWC.dtype, copy=False)
    members = np.empty((*images[0].shape[:2], len(inference.members) * channels), np.float32)
    for part, image in zip(parts, images, strict=True):
        for place, result in zip(part.places, np.split(image, part.results, axis=2), strict=True):
            members[..., place * channels : (place + 1) * channels] = result
    return members


def _part_image(
    image_HWC: np.ndarray,
    restore_batch: RestoreBatch,
    part: Part,
    dtype: np.dtype,
    batch: int,
    in_flight: int,
    progress: Callable[[int], None],
) -> np.ndarray:
    """What a part of the base models makes of an image, the mean over its windows: (…, results · C) of a type."""
    (height, width, channels), scale, windows = image_HWC.shape, part.plan.scale, part.plan.windows
    shape = height * scale, width * scale, part.results * channels
    run = partial(_restored, restore_batch, part.plan)
    image: np.ndarray | None = None
    for window in windows:
        rows, columns = cover_axis(height, window), cover_axis(width, window)
        canvas = _Canvas(shape, window, dtype if len(windows) == 1 else np.float32)
        batches = _batches(image_HWC, rows, columns, window.tile, batch)
        with contextlib.closing(_overlapped(batches, run, in_flight)) as restored_batches:
            for restored_NCHW in restored_batches:
                for tile_CHW in restored_NCHW:
                    canvas.add(tile_CHW)
                progress(len(restored_NCHW))
        image = canvas.image_HWC if image is None else np.add(image, canvas.image_HWC, out=image)
    assert image is not None  # there is a window
    if len(windows) == 1:
        return image
    return _rounded(np.divide(image, np.float32(len(windows)), out=image), dtype).astype(dtype, copy=False)


def _restored(restore_batch: RestoreBatch, inference: Inference, tiles: "_Tiles") -> np.ndarray:
    """A batch restored: the mean over orientations and passes."""
    run = mean_of_passes(restore_batch, inference.passes, tiles.corners)
    return self_ensemble(run, inference.orientations)(tiles.tiles_NCHW)


def _rounded(blended: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Blended values clipped and rounded, in place, to those that an image of an integer type can have."""
    if dtype.kind == "u":
        np.rint(np.clip(blended, 0, np.iinfo(dtype).max, out=blended), out=blended)
    return blended


class _Tiles(NamedTuple):
    """A batch: (N, C, T, T), and the first row and column of each tile in the image."""

    tiles_NCHW: np.ndarray
    corners: list[tuple[int, int]]


def _batches(image_HWC: np.ndarray, rows: Axis, columns: Axis, tile: int, batch: int) -> Iterator[_Tiles]:
    """Tiles in reading order, up to `batch` at a time."""
    height, width, channels = image_HWC.shape
    if height < tile or width < tile:
        image_HWC = image_HWC[np.ix_(_reflected(height, tile), _reflected(width, tile))]
    corners = iter([(top, left) for top in rows.starts for left in columns.starts])
    while chosen := list(islice(corners, batch)):
        tiles_NCHW = np.empty(
            (len(chosen), channels, tile, tile), image_HWC.dtype
        )  # contiguous, as every backend wants it
        for tile_CHW, (top, left) in zip(tiles_NCHW, chosen, strict=True):
            tile_CHW[:] = image_HWC[top : top + tile, left : left + tile].transpose(2, 0, 1)
        yield _Tiles(tiles_NCHW, chosen)


def _overlapped(
    batches: Iterator[_Tiles], restore_batch: Callable[[_Tiles], np.ndarray], in_flight: int
) -> Generator[np.ndarray, None, None]:
    """The restored batches in their order; for each batch that is with the backend, the next is cut and waits."""
    if in_flight == 0:
        yield from map(restore_batch, batches)
        return
    executor = ThreadPoolExecutor(in_flight, thread_name_prefix="restore-tiles")
    flying: deque[Future[np.ndarray]] = deque()
    try:
        for tiles in batches:
            if len(flying) == 2 * in_flight:
                yield flying.popleft().result()
            flying.append(executor.submit(restore_batch, tiles))
        while flying:
            yield flying.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


class _Canvas:
    """Blends tiles that come in reading order; holds one band of T rows in float32 and the finished rows.

    What one tile alone gives, most of it, goes to the image as it is where the types are the same: no sum, no rounding.
    """

    def __init__(self, shape: tuple[int, int, int], window: Inference, dtype: DTypeLike):
        self.image_HWC = np.empty(shape, dtype)
        enlarged = window.enlarged()
        self._tile = tile = enlarged.tile
        rows, columns = self._rows, self._columns = cover_axis(shape[0], enlarged), cover_axis(shape[1], enlarged)
        self._alone = [_alone(axis) for axis in (rows, columns)]
        self._shared = [_shared(axis, alone) for axis, alone in zip((rows, columns), self._alone, strict=True)]
        self._band = np.zeros((tile, max(shape[1], tile), shape[2]), np.float32)
        self._row = self._column = 0

    def add(self, tile_CHW: np.ndarray) -> None:
        """Adds the next tile, (C, T, T)."""
        import cv2  # a tenth of a second, which commands that restore nothing do without

        # Thirty times as fast as a transposed copy by NumPy; of one channel it gives no axis.
        tile_HWC = cv2.merge([*tile_CHW]).reshape(self._tile, self._tile, -1)
        top, left = self._rows.starts[self._row], self._columns.starts[self._column]
        rows, columns = self._alone[0][self._row], self._alone[1][self._column]
        if to_be_rounded := tile_CHW.dtype != self.image_HWC.dtype:
            rows = columns = slice(0, 0)
        vertical, horizontal = self._rows.weights[self._row], self._columns.weights[self._column]
        band = self._band[:, left : left + self._tile]
        above, beside = _around(vertical, rows), _around(horizontal, columns)
        across = slice(beside[0].start, beside[1].stop)
        for y, x in [(above[0], across), (above[1], across), (rows, beside[0]), (rows, beside[1])]:
            band[y, x] += tile_HWC[y, x] * (vertical[y, None] * horizontal[x])[..., None]
        own = self.image_HWC[top : top + self._tile, left : left + self._tile][rows, columns]
        own[:] = tile_HWC[rows, columns][: own.shape[0], : own.shape[1]]  # the image may end before the tile
        self._column += 1
        if self._column == len(self._columns.starts):
            self._column = 0
            self._finish_row(whole=to_be_rounded)

    def _finish_row(self, *, whole: bool) -> None:
        """Moves the rows that no later tile reaches to the image, and the band down to the next row of tiles.

        Args:
            whole: Whether the band holds all of them; otherwise only what several tiles give.
        """
        height, width = self.image_HWC.shape[:2]
        start = self._rows.starts[self._row]
        self._row += 1
        following = self._rows.starts[self._row] if self._row < len(self._rows.starts) else height
        finished = following - start
        image, done = self.image_HWC[start:following], self._band[:finished, :width]
        if whole:
            image[:] = _rounded(done, image.dtype)
        else:
            rows, columns = self._shared[0][start:following], self._shared[1][:width]
            image[rows] = _rounded(done[rows], image.dtype)
            image[:, columns] = _rounded(done[:, columns], image.dtype)
        self._band[: self._tile - finished] = self._band[finished:].copy()
        self._band[max(0, self._tile - finished) :] = 0


def _alone(axis: Axis) -> list[slice]:
    """For each tile, its pixels that no other tile has a weight at."""
    found = [np.flatnonzero(weights == 1) for weights in axis.weights]
    return [slice(int(ones[0]), int(ones[-1]) + 1) if ones.size else slice(0, 0) for ones in found]


def _around(weights: np.ndarray, alone: slice) -> tuple[slice, slice]:
    """The pixels of a tile before and behind those that it alone gives, without the halo, where its weight is 0."""
    given = np.flatnonzero(weights)
    return slice(int(given[0]), max(alone.start, int(given[0]))), slice(
        max(alone.stop, int(given[0])), int(given[-1]) + 1
    )


def _shared(axis: Axis, alone: list[slice]) -> np.ndarray:
    """Whether each pixel of an axis is of several tiles: bool."""
    shared = np.ones(axis.starts[-1] + len(axis.weights[-1]), bool)
    for start, own in zip(axis.starts, alone, strict=True):
        shared[start + own.start : start + own.stop] = False
    return shared
