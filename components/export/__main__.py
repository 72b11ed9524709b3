"""python -m components.export: models/final as a Triton model directory with a parity report."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from components.step import run_component
from relume.errors import ConfigError, ParityError
from relume.evaluation.held_out import noisy_photograph, photographs
from relume.evaluation.networks import at_level, level_estimate, restoring_tiles, tiled
from relume.files import atomic_folder, write_json
from relume.inference.plan import Inference
from relume.inference.tiling import member_images
from relume.metrics import to_8_bit
from relume.models.artifact import load_card, load_model
from relume.params_file import load_section
from relume.serving.export import (
    OPSET,
    Parity,
    levels_of,
    measure_parity,
    parity_report,
)
from relume.serving.levels import LevelRange, kind_of
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.served_export import export_served_model
from relume.serving.served_model import Serving
from relume.serving.settings import ExportSettings

BASES, OUT = Path("models/bases"), Path("models/exported")


def main() -> None:
    """Reads `export`, `inference`, models/final and the level estimator of models/bases, if there is one; writes
    models/exported, or nothing when parity fails."""
    params, inference = load_section("export", ExportSettings), load_section("inference", Inference)
    torch.set_num_threads(params.threads)
    network = load_model("models/final")
    levels = levels_of(network, load_card("models/final"))
    level_estimator = _level_estimator(BASES / inference.estimator, levels) if inference.estimator else None
    serving = Serving(inference=inference, opset=OPSET, levels=levels)
    images = _images(params.sizes)

    with atomic_folder(OUT) as folder:
        export_served_model(network, folder, serving, level_estimator=level_estimator)
        restorer = OnnxRestorer(folder, threads=params.threads)
        report = parity_report(
            [
                *_parity(network, restorer, images),
                *_mixed_parity(network, restorer),
                *_blind_parity(network, level_estimator, restorer, images),
            ],
            min_psnr=params.min_psnr,
            max_difference=params.max_difference,
        )
        for row in report["pictures"]:
            print(
                f"export  parity {row['picture']}: {row['psnr']:.1f} dB,"
                f" largest difference {row['max_difference']} of 255",
                flush=True,
            )
        if not report["passed"]:
            raise ParityError(
                "ONNX output differs from PyTorch",
                where=OUT,
                why=report,
                next_step="find the layer that is exported incorrectly; nothing was written",
            )
        write_json(folder / "parity.json", report)


def _level_estimator(folder: Path, levels: LevelRange | None) -> nn.Module:
    """What estimates the levels of the final model.

    Raises:
        ConfigError: The final model takes no level, or one of another kind.
    """
    kind = kind_of(load_card(folder).trained_for)
    if levels is None or levels.kind != kind:
        raise ConfigError(
            "The level estimator does not fit the model",
            where=folder,
            why=f"it estimates a {kind}, but the model takes {f'a {levels.kind}' if levels else 'no level'}",
            next_step="correct pretrain.bases or inference.estimator in recipe.yaml",
        )
    return load_model(folder)


def _parity(network: nn.Module, restorer: OnnxRestorer, images: dict[str, np.ndarray]) -> Iterator[Parity]:
    """Each image by PyTorch and by ONNX Runtime, at the ends of an adjustable model's range and at its default.

    Where finished images are fused, each member's image.
    """
    inference, levels = restorer.serving.inference, restorer.serving.levels
    if inference.fusion:
        in_torch = restoring_tiles(network, inference)
        for name, image in images.items():
            both = (member_images(image, run, inference) for run in (in_torch, restorer.restore_batch))
            yield measure_parity(f"{name}, members", *both, tile=inference.tile)
        return
    for level in sorted(set(levels.points)) if levels else [None]:
        in_process = tiled(network if level is None else at_level(network, level), inference, batch=2)
        for name, image in images.items():
            title = name if level is None else f"{name} level {level:g}"
            restored = restorer.restore(image, level=level).image
            yield measure_parity(title, in_process(image), restored, tile=inference.tile)


def _mixed_parity(network: nn.Module, restorer: OnnxRestorer) -> Iterator[Parity]:
    """Of an adjustable model, one tile at three levels in one batch against PyTorch at one level after the other."""
    inference, levels = restorer.serving.inference, restorer.serving.levels
    if levels is None:
        return
    tile, once = inference.tile, inference.windows[0].model_copy(update={"orientations": 1})
    image = np.random.default_rng(0).integers(0, 256, (tile, tile, 3), np.uint8)
    expected = [tiled(at_level(network, level), once, batch=1)(image) for level in levels.points]
    tiles_NCHW = np.stack([image.transpose(2, 0, 1)] * len(expected))
    if inference.dtype == "float32":
        tiles_NCHW = tiles_NCHW / np.float32(255)
    restored = restorer.restore_batch(tiles_NCHW, np.array(levels.points, np.float32)).transpose(0, 2, 3, 1)
    if inference.dtype == "float32":
        restored = to_8_bit(restored)
    yield measure_parity("three levels in a batch", np.concatenate(expected), np.concatenate(restored), tile=tile)


def _blind_parity(
    network: nn.Module, level_estimator: nn.Module | None, restorer: OnnxRestorer, images: dict[str, np.ndarray]
) -> Iterator[Parity]:
    """Each image at the level that the level estimator estimates, by PyTorch and by ONNX Runtime."""
    inference, levels = restorer.serving.inference, restorer.serving.levels
    if level_estimator is None or levels is None:
        return
    estimate = level_estimate(level_estimator)
    for name, image in images.items():
        in_process = tiled(at_level(network, levels.nearest(estimate(image))), inference, batch=2)
        yield measure_parity(
            f"{name} level estimated", in_process(image), restorer.restore(image).image, tile=inference.tile
        )


def _images(sizes: tuple[tuple[int, int], ...]) -> dict[str, np.ndarray]:
    """Noisy crops of the held-out photographs, one for each size, and one flat and one saturated image."""
    clean = list(photographs("data/curated/held_out/test").items())
    images = {}
    for number, (height, width) in enumerate(sizes):
        image_id, image = clean[number % len(clean)]
        crop = image[:height, :width]
        noisy = noisy_photograph(crop, image_id, 50, "clipped", seed=0)
        images[f"{image_id} {crop.shape[0]}x{crop.shape[1]}"] = to_8_bit(noisy)
    images["black 96x96"] = np.zeros((96, 96, 3), dtype=np.uint8)
    images["black and white 96x96"] = (
        np.where(np.indices((96, 96)).sum(0)[..., None] % 2, 255, 0).astype(np.uint8).repeat(3, axis=2)
    )
    return images


run_component(main)
