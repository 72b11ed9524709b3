"""What each option of a plan of inference is worth, with the models that ship.

    python -m benchmarks.inference --test KODAK24 --results benchmarks/results/inference.json

The centres (256 x 256) of photographs with white noise, clipped and rounded to 8 bits. All ways restore the
same noisy pixels; PSNR over all RGB values; differences are paired over the photographs, with a 95 % bootstrap interval
(BCa). `denoise` is blind, `denoise_adjustable` is given the true sigma where nothing else is said.
"""

import argparse
import datetime
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from relume import products
from relume.curation.quality import image_noise
from relume.evaluation.comparison import bootstrap_interval
from relume.evaluation.held_out import noisy_photograph
from relume.evaluation.networks import ALONE, at_level, restore_whole, tiled
from relume.files import write_json
from relume.images import read_image
from relume.inference.plan import EdgeFusion, Inference, Window
from relume.metrics import psnr, to_8_bit
from relume.models.artifact import load_card, load_model
from relume.serving.backends import processor
from relume.serving.export import levels_of

SIGMAS, SIDE = (15, 50), 256
TILES = Inference(tile=64, halo=0, overlap=0)
FURTHER = (Window(tile=96, halo=0, overlap=16), Window(tile=128, halo=0, overlap=24))


class _Mean(nn.Module):
    def __init__(self, bases: list[nn.Module]):
        super().__init__()
        self.bases = nn.ModuleList(bases)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.stack([base(image) for base in self.bases]).mean(dim=0)


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference")
    parser.add_argument("--test", type=Path, required=True, help="folder of clean test images")
    parser.add_argument("--limit", type=int, default=24, help="photographs")
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted(asked.test.glob("[!.]*.*"))[: asked.limit]:
        image = read_image(path).pixels
        top, left = ((side - SIDE) // 2 for side in image.shape[:2])
        clean = np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])
        image_id = f"{zlib.crc32(path.stem.encode()):08x}"
        for sigma in SIGMAS:
            noisy = to_8_bit(noisy_photograph(clean, image_id, sigma, "clipped", seed=0))
            for name, restore in _ways(sigma).items():
                found.setdefault(name, {}).setdefault(f"sigma {sigma}", []).append(psnr(restore(noisy), clean))
        print(path.stem, flush=True)
    rows = {name: _compared(name, found) for name in found}
    for name, row in rows.items():
        print(f"{name:40}" + "".join(f"  {level} {text}" for level, text in row.items()))
    if asked.results:
        facts = {"date": f"{datetime.date.today()}", "processor": processor(), "photographs": asked.limit}
        write_json(asked.results, facts | {"rows": rows, "psnr": found})


def _ways(sigma: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is compared: of each group the first is what the others are compared with."""
    blind, adjustable, estimated = _networks()
    given = at_level(adjustable, sigma)
    both = _Mean([given, blind]).eval()  # in the order of their names below
    plans = {
        f"tiles: of 64, overlap {overlap}": TILES.model_copy(update={"overlap": overlap}) for overlap in (0, 8, 16, 32)
    }
    plans["tiles: of 64, halo 8, overlap 8"] = TILES.model_copy(update={"halo": 8, "overlap": 8})
    plans["tiles: windows of 64, 96 and 128"] = TILES.model_copy(update={"overlap": 12, "further_windows": FURTHER})
    ways = {name: tiled(blind, plan, batch=2) for name, plan in plans.items()}
    for count in (1, 2, 4, 8):
        ways[f"orientations: {count}"] = _whole(blind, ALONE.in_orientations(count))
    ways["fusion: mean of both"] = _whole(both, ALONE)
    for mask in ("union", "restormer_only", "hat_only", "xor"):
        fusion = EdgeFusion(smooth="blind", detail="adjustable", mask=mask)
        ways[f"fusion: edges, {mask}"] = _whole(both, ALONE.model_copy(update={"fusion": fusion}))
    ways["level: the true sigma"] = _whole(given, ALONE)
    ways["level: estimated from smooth areas"] = estimated
    ways["level: the blind model"] = ways["orientations: 1"]
    return ways


def _networks() -> tuple[nn.Module, nn.Module, Callable[[np.ndarray], np.ndarray]]:
    blind, adjustable = (load_model(products.shipped(name)).eval() for name in ("denoise", "denoise_adjustable"))
    levels = levels_of(adjustable, load_card(products.shipped("denoise_adjustable")))
    assert levels is not None

    def estimated(noisy: np.ndarray) -> np.ndarray:
        return _whole(at_level(adjustable, levels.nearest(image_noise(noisy))), ALONE)(noisy)

    return blind, adjustable, estimated


def _whole(network: nn.Module, plan: Inference) -> Callable[[np.ndarray], np.ndarray]:
    return lambda noisy: restore_whole(network, noisy / np.float32(255), plan)


def _compared(name: str, found: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    group = name.partition(":")[0]
    first = next(other for other in found if other.startswith(group))
    texts = {}
    for level, values in found[name].items():
        texts[level] = f"{np.mean(values):.2f}"
        if name != first:
            gains = [value - other for value, other in zip(values, found[first][level], strict=True)]
            low, high = bootstrap_interval(gains)
            texts[level] += f" ({np.mean(gains):+.3f}, {low:+.3f} to {high:+.3f})"
    return texts


if __name__ == "__main__":
    main()
