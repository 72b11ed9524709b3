"""Makes a shipped model of a trained one: its artifact, the served model, and the measured parity of every runtime."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import skimage.data

from relume.degradations import counter_rng
from relume.evaluation.networks import at_level, tiled
from relume.files import atomic_folder, write_json
from relume.inference.plan import Inference
from relume.models.artifact import load_card, load_model
from relume.serving.export import OPSET, Parity, export_onnx, levels_of, measure_parity
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.openvino_restorer import OpenVinoRestorer
from relume.serving.served_model import Serving, write_served_model

INFERENCE = Inference(
    tile=512, halo=32, overlap=16
)  # larger tiles waste less on halos; at 512 a restore stays below 700 MB
LIMITS = {"onnxruntime": (60.0, 1), "openvino_f32": (60.0, 1), "openvino_bf16": (50.0, 3)}  # dB, 8-bit levels


def ship(trained: Path, target: Path) -> dict[str, list[Parity]]:
    """Writes a shipped model, whole or not at all.

    Args:
        trained: The model artifact.
        target: Its folder in relume/products.

    Returns:
        By runtime, the parity with PyTorch on noisy photographs.
    """
    network, card = load_model(trained), load_card(trained)
    card_text = (target / "README.md").read_text() if (target / "README.md").is_file() else None
    with atomic_folder(target) as folder:
        for name in ("model.json", "model.safetensors"):
            shutil.copyfile(trained / name, folder / name)
        if card_text:
            (folder / "README.md").write_text(card_text)
        levels = levels_of(network, card)
        with tempfile.TemporaryDirectory() as scratch:
            onnx_file = Path(scratch) / "model.onnx"
            export_onnx(network, onnx_file, tile=INFERENCE.tile)
            serving = Serving(inference=INFERENCE, opset=OPSET, levels=levels)
            write_served_model(onnx_file, folder / "serving", serving)
        found = parity(folder)
        write_json(folder / "parity.json", {name: [vars(row) for row in rows] for name, rows in found.items()})
    return found


def parity(folder: Path) -> dict[str, list[Parity]]:
    """Each runtime against PyTorch, on two photographs with noise, one larger than a tile.

    Raises:
        AssertionError: A runtime is outside its limits.
    """
    network = load_model(folder)
    images = {"astronaut": skimage.data.astronaut()[:300, :400], "coffee": skimage.data.coffee()[:400, :600]}
    noisy = {}
    for number, (name, image) in enumerate(images.items()):
        noise = counter_rng(0, "evaluation", number).normal(0, 15, image.shape)
        noisy[name] = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    restorers = {
        "onnxruntime": OnnxRestorer(folder / "serving"),
        "openvino_f32": OpenVinoRestorer(folder / "serving", precision="f32"),
        "openvino_bf16": OpenVinoRestorer(folder / "serving", precision="bf16"),
    }
    level = 15.0 if restorers["onnxruntime"].serving.levels else None
    reference = tiled(network if level is None else at_level(network, level), INFERENCE, batch=1)
    expected = {name: reference(image) for name, image in noisy.items()}
    found = {
        runtime: [
            measure_parity(name, expected[name], restorer.restore(image, level=level).image, tile=INFERENCE.tile)
            for name, image in noisy.items()
        ]
        for runtime, restorer in restorers.items()
    }
    for runtime, rows in found.items():
        psnr, difference = LIMITS[runtime]
        for row in rows:
            assert row.psnr >= psnr, f"{runtime}: {row}"
            assert row.max_difference <= difference, f"{runtime}: {row}"
    return found
