"""Parity of the server with the package in process: the same images and tiles on another path."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flows.release.gate import held_out_photographs
from relume.errors import ParityError
from relume.inference.plan import Inference
from relume.inference.tiling import cover_axis
from relume.params import ReleaseSettings
from relume.serving.backends import Served, open_backend

Restore = Callable[[np.ndarray], np.ndarray]

# Sides in tiles: one tile, several with a remainder, and less than one, which the tiler pads.
SIZES = ((1.0, 1.0), (1.7, 2.3), (0.6, 1.4))
SIGMAS = (15, 50)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathDifference:
    """How far the results of the two paths differ on one image.

    Attributes:
        picture: Its name, size and noise.
        psnr: Between the two results in dB; 120 means equal results.
        max_difference: Largest difference of 8-bit values, of 255.
        worst_tile: Largest mean difference of a tile-sized square, in levels.
        tile_borders: Mean difference where neighbouring tiles are faded into each other, in levels.
    """

    picture: str
    psnr: float
    max_difference: int
    worst_tile: float
    tile_borders: float


def compare_served(
    serving: Path,
    address: str,
    model: str,
    held_out: Path,
    settings: ReleaseSettings,
    *,
    backend: Served = "onnxruntime",
    key: str | None = None,
) -> list[PathDifference]:
    """Compares a served model with the same files in process, at both ends of its range if it takes a level, and at
    what it estimates if it does.

    Args:
        serving: Folder of the served model.
        address: gRPC address of the server.
        model: Name under which the server has it.
        held_out: Folder of the held-out photographs.
        settings: Their seed and number.
        backend: What computes it in process, the same as there.
        key: The server's control key, if it has one.
    """
    from relume.serving.triton_client import TritonRestorer

    in_process = open_backend(backend, serving)
    inference = in_process.serving.inference
    images = parity_images(held_out, settings, tile=max(inference.tiles))
    levels = in_process.serving.levels
    asked: list[float | None] = [*sorted({levels.lowest, levels.highest})] if levels else [None]
    titles = {level: "" if level is None else f", level {level:g}" for level in asked}
    if inference.estimator:
        titles[None] = ", level estimated"
    differences: list[PathDifference] = []
    with TritonRestorer(address, model, key=key) as served:
        for level, title in titles.items():
            differences += compare_paths(
                lambda image, level=level: in_process.restore(image, level=level).image,  # type: ignore[misc]
                lambda image, level=level: served.restore(image, level=level).image,  # type: ignore[misc]
                {f"{name}{title}": image for name, image in images.items()},
                inference,
            )
    return differences


def compare_paths(
    in_process: Restore, served: Restore, images: dict[str, np.ndarray], inference: Inference
) -> list[PathDifference]:
    """Restores images on both paths and compares the results.

    Args:
        in_process: Restores uint8 (H, W, 3) in this process.
        served: Restores the same through the server.
        images: uint8 (H, W, 3) by name.
        inference: How the model restores.
    """
    from relume.serving.export import measure_parity

    differences = []
    for name, image in images.items():
        first, second = in_process(image), served(image)
        parity = measure_parity(name, first, second, tile=inference.tile)
        borders = _border_difference(first, second, inference)
        differences.append(PathDifference(**dataclasses.asdict(parity), tile_borders=borders))
    return differences


def parity_images(held_out: Path, settings: ReleaseSettings, *, tile: int) -> dict[str, np.ndarray]:
    """Noisy held-out photographs at sizes around the tile's, and a checkerboard of black and white.

    Args:
        held_out: Folder of the photographs.
        settings: Their seed and number.
        tile: Side of the served tile in pixels.

    Returns:
        uint8 (H, W, 3) by name. A photograph that is too small is mirrored.
    """
    from relume.evaluation.held_out import noisy_photograph
    from relume.metrics import to_8_bit

    photographs = list(held_out_photographs(held_out, settings).items())
    images = {}
    for number, sides in enumerate(SIZES):
        image_id, clean = photographs[number % len(photographs)]
        height, width = (round(side * tile) for side in sides)
        missing = [(0, max(0, size - have)) for size, have in zip((height, width), clean.shape[:2], strict=True)]
        crop = np.pad(clean, [*missing, (0, 0)], mode="symmetric")[:height, :width]
        for sigma in SIGMAS:
            noisy = noisy_photograph(crop, image_id, sigma, "clipped", settings.seed)
            images[f"{image_id[:8]} {width}x{height} sigma {sigma}"] = to_8_bit(noisy)
    board = np.indices((tile, tile + 1)).sum(axis=0) % 2 * 255
    images[f"checkerboard {tile + 1}x{tile}"] = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    return images


def require_parity(differences: list[PathDifference], settings: ReleaseSettings) -> None:
    """Stops the release when the results of the two paths differ by more than allowed on any image.

    Raises:
        ParityError: It names the worst image and both measures.
    """
    limits = settings.served_parity
    failed = [d for d in differences if d.max_difference > limits.max_difference or d.psnr < limits.min_psnr]
    if failed:
        worst = min(failed, key=lambda difference: difference.psnr)
        raise ParityError(
            "The server does not restore images as the package does in process",
            where=f"{len(failed)} of {len(differences)} images differ, the worst is {worst.picture}",
            why=f"the largest difference is {worst.max_difference} of 255, must be ≤ {limits.max_difference}; "
            f"the PSNR between the results is {worst.psnr:.1f} dB, must be ≥ {limits.min_psnr:.1f} dB",
            next_step="compare the server's backend and model.py with the package's, then run `relume release`",
        )


def _border_difference(first: np.ndarray, second: np.ndarray, inference: Inference) -> float:
    """Mean difference of two uint8 (H, W, 3) in the bands where two tiles meet; 0 where there is one tile only."""
    bands = meeting(first.shape, inference)
    difference = np.abs(first.astype(np.int16) - second.astype(np.int16)).mean(axis=2)
    return round(float(difference[bands].mean()), 4) if bands.any() else 0.0


def meeting(shape: Sequence[int], inference: Inference) -> np.ndarray:
    """Whether each pixel of a restored image of these sides takes its value from several tiles: bool (H, W)."""
    restored = inference.enlarged()
    bands = [_band(length, restored) for length in shape[:2]]
    return bands[0][:, None] | bands[1][None, :]


def _band(length: int, inference: Inference) -> np.ndarray:
    """Whether each pixel of an axis takes part of its value from more than one tile."""
    axis = cover_axis(length, inference)
    parts = np.zeros(max(length, inference.tile), int)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        parts[start : start + inference.tile] += weights > 0
    return parts[:length] > 1
