"""Ways to run a network on an image: whole or in tiles, in float or as it is served, at a level."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from relume.errors import ModelFormatError
from relume.inference.estimator import estimate_level
from relume.inference.fusion import fuse_members
from relume.inference.level import AtLevel
from relume.inference.masks import mean_of_passes
from relume.inference.parts import part_networks
from relume.inference.plan import Inference
from relume.inference.self_ensemble import self_ensemble
from relume.inference.tiling import RestoreBatch, map_tiles, restore_image
from relume.metrics import to_8_bit
from relume.models.registry import inputs_of
from relume.serving.export import ServedNetwork

ALONE = Inference(tile=1, halo=0, overlap=0)
"""The plan of a whole image, whose tile says nothing: one run of the network."""


def at_level(network: nn.Module, level: float) -> nn.Module:
    """An adjustable network at a level in [0, 255], as a network without one; any other network as it is."""
    return AtLevel(network, level).eval() if "level" in inputs_of(network) else network


def level_estimate(network: nn.Module) -> Callable[[np.ndarray], float]:
    """A function from an image, (H, W, C), to its level as a level estimator estimates it, not held to any range."""

    def estimate(tiles_NCHW: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(tiles_NCHW).to(next(network.parameters()).device)
        with torch.inference_mode():
            return network(batch).cpu().numpy()

    return lambda image: estimate_level(image, estimate)


def tiled(network: nn.Module, inference: Inference, *, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function that restores an 8-bit photograph as it is served; for an adjustable network see `at_level`."""
    restore_batch = restoring_tiles(network, inference)
    return lambda image: restore_image(image, restore_batch, inference, batch=batch)


def restoring_tiles(network: nn.Module, inference: Inference) -> RestoreBatch:
    """A network as a function of tiles as they are served."""
    networks = part_networks(network, inference).items()
    served = {name: ServedNetwork(each, dtype=inference.dtype).eval() for name, each in networks}

    def restore_batch(tiles_NCHW: np.ndarray, part: str = "", seeds: np.ndarray | None = None) -> np.ndarray:
        given = () if seeds is None else (torch.from_numpy(seeds[:, np.newaxis]),)
        with torch.inference_mode():
            return served[part](torch.from_numpy(tiles_NCHW), *given).numpy()

    return restore_batch


def run_whole(network: nn.Module, image: np.ndarray, inference: Inference = ALONE) -> np.ndarray:
    """A network on a whole image, on the network's device.

    Args:
        network: float32 (N, C, H, W) in about [0, 1] to the same shape.
        image: float32 (H, W, C).
        inference: All that it says but the tiles; by default the network runs once.

    Returns:
        float32 (H, W, C), not clamped.

    Raises:
        ModelFormatError: What comes back is not an image of the plan's size.
    """
    whole = inference.model_copy(update={"members": {}})
    run = mean_of_passes(_run_of(network, whole), whole.passes, [(0, 0)])
    restored_NCHW = self_ensemble(run, whole.orientations)(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
    return fuse_members(restored_NCHW[0].transpose(1, 2, 0), whole.fusion)


def _run_of(network: nn.Module, inference: Inference) -> RestoreBatch:
    networks = part_networks(network, inference)

    def run(batch_NCHW: np.ndarray, part: str = "", seeds: np.ndarray | None = None) -> np.ndarray:
        return _run_batch(networks[part], inference.scale, batch_NCHW, seeds)

    return run


def _run_batch(network: nn.Module, scale: int, batch_NCHW: np.ndarray, seeds: np.ndarray | None = None) -> np.ndarray:
    batch = torch.from_numpy(np.ascontiguousarray(batch_NCHW))
    device = next(network.parameters(), batch).device
    given = () if seeds is None else (torch.from_numpy(seeds).to(device),)
    with torch.inference_mode():
        restored = network(batch.to(device).contiguous(memory_format=torch.channels_last), *given)
    count, channels, *sides = batch.shape
    expected = count, (*(scale * side for side in sides),)
    if (restored.shape[0], restored.shape[2:]) != expected or restored.shape[1] % channels:
        raise ModelFormatError(
            "The model is not a restoration network",
            where=" x ".join(map(str, batch.shape)) + " became " + " x ".join(map(str, restored.shape)),
            next_step="name a model whose result has the size of its input",
        )
    return restored.cpu().numpy()


def run_tiled(network: nn.Module, image: np.ndarray, inference: Inference) -> np.ndarray:
    """A network on an image tile by tile: tiles and weights as they are served, without rounding to 8 bits.

    Args:
        network: float32 (N, C, T, T) in about [0, 1] to the same shape.
        image: float32 (H, W, C); continued by mirroring where it is smaller than a tile.
        inference: How it is tiled.

    Returns:
        float32 (H, W, C), not clamped but where tiles of 8 bits are served: those hold nothing outside of [0, 1].
    """
    run = _run_of(network, inference)

    def run_served(batch_NCHW: np.ndarray, part: str = "", seeds: np.ndarray | None = None) -> np.ndarray:
        restored = run(batch_NCHW, part, seeds)
        return restored.clip(0, 1) if inference.dtype == "uint8" else restored

    return fuse_members(map_tiles(image, run_served, inference, batch=1), inference.fusion)


def restore_whole(network: nn.Module, noisy: np.ndarray, inference: Inference = ALONE) -> np.ndarray:
    """A network on a whole photograph in float32: (H, W, 3) in about [0, 1] to uint8 (H, W, 3); see `run_whole`."""
    return to_8_bit(run_whole(network, noisy, inference))
