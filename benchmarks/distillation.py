"""Whether a small network learns more from a larger one of ours than from the clean photographs alone.

    python -m benchmarks.distillation --photographs PHOTOGRAPHS --test CBSD68

`resunet-small` is trained from the same weights on the same noisy crops of sigma 25, with three targets: the clean
crop, what the shipped `denoise` makes of the noisy one, and the mean of both. PSNR is measured on whole noisy images,
not clipped. One training each, so differences below about 0.02 dB say nothing.
"""

import argparse
import datetime
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from relume import products
from relume.files import write_json
from relume.images import read_image
from relume.losses.pixel import charbonnier_loss
from relume.metrics import psnr, to_8_bit
from relume.models.artifact import load_model
from relume.models.registry import build, variants
from relume.serving.backends import processor

SIGMA, PATCH, BATCH, MAX_SIDE, RATE = 25, 64, 16, 1600, 2e-3
SHARES = {"clean photographs": 0.0, "both": 0.5, "the larger network": 1.0}  # of the larger network in the target


def main() -> None:
    """Trains and measures the three, prints a table and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation")
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--test", type=Path, required=True, help="folder of clean test images")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    listed = sorted(path for path in asked.photographs.glob("[!.]*.*") if path.suffix != ".md")  # its licences
    photographs = [_shrunk(read_image(path).pixels) for path in listed]
    teacher = load_model(products.shipped("denoise")).eval()
    tests = [read_image(path).pixels for path in sorted(asked.test.glob("[!.]*.*"))]
    rows = {"the larger network itself": _measured(teacher, tests)}
    for name, share in SHARES.items():
        torch.manual_seed(0)
        student = build("resunet", variants()["resunet-small"].arguments)
        _train(student, teacher, photographs, asked.steps, share)
        rows[name] = _measured(student.eval(), tests)
        print(f"{name}: {rows[name]:.3f} dB", flush=True)
    if asked.results:
        found = {"date": f"{datetime.date.today()}", "processor": processor(), "steps": asked.steps, "psnr": rows}
        write_json(asked.results, found)


def _train(
    student: torch.nn.Module, teacher: torch.nn.Module, photographs: list[np.ndarray], steps: int, share: float
) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps, pct_start=0.1)
    for clean, noisy in _batches(photographs, steps):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                target = torch.lerp(clean, teacher(noisy).float(), share) if share else clean
            loss = charbonnier_loss(student(noisy).float(), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _batches(photographs: list[np.ndarray], steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same crops and noise at each call: clean and noisy, (BATCH, 3, PATCH, PATCH)."""
    rng = np.random.default_rng(7)
    for _ in range(steps):
        crops = []
        for _ in range(BATCH):
            image = photographs[rng.integers(len(photographs))]
            y, x = (rng.integers(side - PATCH + 1) for side in image.shape[:2])
            crops.append(np.rot90(image[y : y + PATCH, x : x + PATCH], int(rng.integers(4))))
        clean = torch.from_numpy(np.stack(crops).astype(np.float32) / np.float32(255)).permute(0, 3, 1, 2)
        noise = torch.from_numpy(rng.normal(0, SIGMA / 255, clean.shape).astype(np.float32))
        clean = clean.contiguous(memory_format=torch.channels_last)
        yield clean, clean + noise


@torch.inference_mode()
def _measured(network: torch.nn.Module, images: list[np.ndarray]) -> float:
    """The mean PSNR in dB of restored noisy images, the same noise at each call."""
    found = []
    for number, image in enumerate(images):
        clean = image.astype(np.float32) / np.float32(255)
        noise = np.random.default_rng([11, number]).normal(0, SIGMA / 255, clean.shape).astype(np.float32)
        noisy = torch.from_numpy((clean + noise).transpose(2, 0, 1)[None])
        restored = network(noisy)[0].numpy().transpose(1, 2, 0)  # of any size
        found.append(psnr(to_8_bit(restored), image))
    return float(np.mean(found))


def _shrunk(image: np.ndarray) -> np.ndarray:
    """At most MAX_SIDE pixels a side, so that a photograph's own noise is gone."""
    scale = MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
