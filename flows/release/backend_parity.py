"""Parity of a backend with float32: the same package in process, on images that are hard for a low precision."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from flows.release.gate import held_out_photographs
from flows.release.served_parity import Restore, meeting
from relume.errors import ParityError
from relume.inference.plan import Inference
from relume.metrics import EQUAL, psnr
from relume.params import PrecisionLimits, ReleaseSettings
from relume.serving.backends import Served, fastest_backends, open_backend
from relume.serving.in_process import InProcessRestorer
from relume.serving.tensorrt_engine import engine_folder, require_engine

_FLAT = 2  # of 255: range of the 3 x 3 neighbours in an area that counts as flat
_FEW = 0.01  # share of the pixels that is too little for the mean of an area


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendParity:
    """How far a backend's result is from that of float32 on one image, both 8 bit.

    Attributes:
        picture: Its name.
        psnr: Between the two results in dB; 120 means equal results.
        within: Share of the pixels no value of which differs by more levels than the limit says.
        mean_error: Largest mean error of a colour, of either sign, in levels: a shift of the colour.
        at_borders: Mean difference where neighbouring tiles are faded into each other over that elsewhere, in levels.
        in_flat_areas: The same for areas without structure, where a pattern is seen first.
    """

    picture: str
    psnr: float
    within: float
    mean_error: float
    at_borders: float
    in_flat_areas: float

    def problems(self, limits: PrecisionLimits) -> list[str]:
        """What is outside of the limits."""
        measured = [
            (f"{self.psnr:.1f} dB, must be ≥ {limits.min_psnr:g}", self.psnr >= limits.min_psnr),
            (
                f"{self.within:.4%} of the pixels are within {limits.difference} levels, must be ≥ {limits.within:.2%}",
                self.within >= limits.within,
            ),
            (
                f"the mean error is {self.mean_error:.3f} levels, must be ≤ {limits.mean_error}",
                self.mean_error <= limits.mean_error,
            ),
            *(
                (
                    f"the difference {where} is {excess:.3f} levels more, must be ≤ {limits.pattern}",
                    excess <= limits.pattern,
                )
                for where, excess in (("at tile borders", self.at_borders), ("in flat areas", self.in_flat_areas))
            ),
        ]
        return [text for text, kept in measured if not kept]


def choose_backend(
    serving: Path, held_out: Path, settings: ReleaseSettings, home: Path
) -> tuple[str, list[BackendParity]]:
    """The backend to release a served model for, and its proof where `export` did not compare it with PyTorch.

    Args:
        serving: Folder of the served model.
        held_out: Folder of the held-out photographs.
        settings: The backend; for `auto` it is the fastest on this machine that keeps its limits.
        home: RELUME_HOME, which keeps what was measured for `auto`.

    Raises:
        ParityError: The backend that the settings name is outside of its limits.
        EngineError: It is `tensorrt_plan`, and no engine of the model ran on this machine.
        BackendUnavailableError: It is `tensorrt_plan`, and this machine has no TensorRT or no GPU.
    """
    if settings.backend == "tensorrt_plan":
        require_engine(serving, engine_folder(serving, home))
    if settings.backend == "openvino_f32" or settings.backend == "openvino_bf16":
        return settings.backend, prove_backend(serving, settings.backend, held_out, settings)
    if settings.backend != "auto":
        return settings.backend, []
    for backend in fastest_backends(serving, home):
        if backend == "onnxruntime":
            break
        with contextlib.suppress(ParityError):
            return backend, prove_backend(serving, backend, held_out, settings)
    return "onnxruntime", []


def prove_backend(serving: Path, backend: Served, held_out: Path, settings: ReleaseSettings) -> list[BackendParity]:
    """Compares a backend with ONNX Runtime, which `export` compared with PyTorch, and requires the limits; at both ends
    of its range if the model takes a level.

    Args:
        serving: Folder of the served model.
        backend: To prove.
        held_out: Folder of the held-out photographs.
        settings: Their number, and the limits of each precision.

    Raises:
        ParityError: It names the image that is outside of most limits, and the limits.
    """
    natural = next(iter(held_out_photographs(held_out, settings).values()))
    limits = settings.precision_parity["bf16" if backend == "openvino_bf16" else "f32"]
    next_step = "set release.backend to onnxruntime in params.yaml, then run `relume release`"
    return prove(open_backend(backend, serving), natural, limits, name=backend, next_step=next_step)


def prove(
    restorer: InProcessRestorer, natural: np.ndarray, limits: PrecisionLimits, *, name: str, next_step: str
) -> list[BackendParity]:
    """Compares a served model, however it is computed, with ONNX Runtime, as `prove_backend` does.

    Args:
        restorer: The served model.
        natural: A photograph, uint8 (H, W, 3), of which the images are made.
        limits: Of the precision in which it is computed.
        name: Of what computes it, for the message.
        next_step: What to do where it is refused.

    Raises:
        ParityError: It names the image that is outside of most limits, and the limits.
    """
    reference = open_backend("onnxruntime", restorer.folder)
    images = worst_images(natural, side=restorer.inference.tile * 3 // 2)
    found: list[BackendParity] = []
    levels = restorer.serving.levels
    for level in sorted({levels.lowest, levels.highest}) if levels else [None]:
        found += measure_backend(
            lambda image, level=level: reference.restore(image, level=level).image,  # type: ignore[misc]
            lambda image, level=level: restorer.restore(image, level=level).image,  # type: ignore[misc]
            images if level is None else {f"{title}, level {level:g}": image for title, image in images.items()},
            restorer.inference,
            limits,
        )
    if failed := [each for each in found if each.problems(limits)]:
        worst = max(failed, key=lambda each: len(each.problems(limits)))
        raise ParityError(
            f"{name} does not compute what float32 does",
            where=f"{len(failed)} of {len(found)} images differ, the worst is {worst.picture}",
            why="; ".join(worst.problems(limits)),
            next_step=next_step,
        )
    return found


def measure_backend(
    reference: Restore, restore: Restore, images: dict[str, np.ndarray], inference: Inference, limits: PrecisionLimits
) -> list[BackendParity]:
    """Restores images by two backends and compares the results.

    Args:
        reference: Restores uint8 (H, W, 3) in float32.
        restore: Restores the same by the backend.
        images: By name.
        inference: How the model restores.
        limits: Say what a small difference is.
    """
    return [_compared(name, reference(image), restore(image), inference, limits) for name, image in images.items()]


def worst_images(natural: np.ndarray, *, side: int) -> dict[str, np.ndarray]:
    """A natural image, the same dark and saturated, a flat one, and noise: uint8 (side, side, 3) by name.

    Args:
        natural: A photograph, uint8 (H, W, 3); one that is too small is mirrored.
        side: Of the images.
    """
    missing = [(0, max(0, side - have)) for have in natural.shape[:2]]
    image = np.pad(natural, [*missing, (0, 0)], mode="symmetric")[:side, :side]
    flat = np.full_like(image, 117)
    flat[:, side // 2 :] = (200, 60, 30)
    return {
        "natural": image,
        "dark": image // 16,
        "saturated": np.clip((image.astype(int) - 96) * 4, 0, 255).astype(np.uint8),
        "flat": flat,
        "noisy": np.random.default_rng(0).integers(0, 256, image.shape, np.uint8),
    }


def _compared(
    name: str, expected: np.ndarray, found: np.ndarray, inference: Inference, limits: PrecisionLimits
) -> BackendParity:
    import cv2

    signed = found.astype(np.int16) - expected
    error = np.abs(signed)
    kernel = np.ones((3, 3), np.uint8)
    flat = (cv2.dilate(expected, kernel) - cv2.erode(expected, kernel)).max(axis=2) <= _FLAT
    return BackendParity(
        picture=name,
        psnr=round(min(EQUAL, psnr(found, expected)), 2),
        within=float((error.max(axis=2) <= limits.difference).mean()),
        mean_error=float(np.abs(signed.mean(axis=(0, 1))).max()),
        at_borders=_excess(error.mean(axis=2), meeting(expected.shape, inference)),
        in_flat_areas=_excess(error.mean(axis=2), flat),
    )


def _excess(error: np.ndarray, area: np.ndarray) -> float:
    """Mean error in an area less that elsewhere; 0 where either of them is small."""
    if not _FEW <= area.mean() <= 1 - _FEW:
        return 0.0
    return float(error[area].mean() - error[~area].mean())
