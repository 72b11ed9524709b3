"""The gate: measures a candidate as it would be served, and says whether it may be released.

The served ONNX file restores held-out photographs at the product's protocol, 8-bit files with clipped
noise; champion and candidate get the same noisy pixels. A model that takes a sigma is given that of the noise.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.release.package import Package, read_parity
from flows.release.trial import Latency, take_turns
from relume.errors import GateRefusedError, ModelFormatError, UserError
from relume.params import ReleaseSettings
from relume.reading import read_table

if TYPE_CHECKING:
    from relume.inference.plan import Inference
    from relume.serving.onnx_restorer import OnnxRestorer

_AGAIN = "run `relume pipeline run`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One measured value against its limit.

    Attributes:
        name: What is measured.
        value: The measured value.
        limit: What it must reach.
        at_least: True if larger is better.
        unit: Unit of both.
    """

    name: str
    value: float
    limit: float
    at_least: bool
    unit: str

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit. NaN is not."""
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.name}: {self.value:.2f} {self.unit}, must be {sign} {self.limit:.2f} {self.unit}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateReport:
    """All checks of one candidate.

    Attributes:
        candidate: Hash of its package.
        champion: Hash of the champion's package, or None.
        images: Image ids of the photographs that were used.
        checks: The checks, in the order they were made.
        notes: How the candidate restores and what that costs, and what may make the checks less true.
    """

    candidate: str
    champion: str | None
    images: tuple[str, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks whose value is not within the limit."""
        return tuple(check for check in self.checks if not check.passed)

    def as_json(self) -> dict:
        """The report as JSON values."""
        checks = [dataclasses.asdict(check) | {"passed": check.passed} for check in self.checks]
        return dataclasses.asdict(self) | {
            "images": list(self.images),
            "checks": checks,
            "notes": list(self.notes),
            "passed": not self.failed,
        }

    def table(self) -> str:
        """The report as text, one line a check."""
        against = f"champion {self.champion[:8]}" if self.champion else "no champion yet"
        width = max(len(check.name) for check in self.checks)
        lines = [f"Gate of package {self.candidate[:8]} on {len(self.images)} held-out photographs, {against}"]
        for check in self.checks:
            sign = "≥" if check.at_least else "≤"
            verdict = "pass" if check.passed else "FAIL"
            lines.append(
                f"  {verdict}  {check.name:<{width}}  {check.value:9.2f}  {sign} {check.limit:.2f} {check.unit}"
            )
        lines += [f"  note  {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def require_passed(self) -> None:
        """Ends the release of a candidate that failed a check.

        Raises:
            GateRefusedError: It names each failed check, its value and its limit.
        """
        if self.failed:
            raise GateRefusedError(
                "The gate refused the candidate; what serves was not changed",
                where=f"package {self.candidate[:8]}",
                why="; ".join(map(str, self.failed)),
                next_step="train a better model, or change the limits in the section `release` of params.yaml",
            )


def measure(
    candidate: Package,
    champion: Package | None,
    settings: ReleaseSettings,
    held_out: Path,
    latency: Latency | None = None,
) -> GateReport:
    """Measures a candidate.

    Args:
        candidate: The package to release.
        champion: The package that serves, or None.
        settings: The limits.
        held_out: Folder of held-out photographs, `<image_id>.png`.
        latency: As a server showed it; measured in this process when None.

    Returns:
        The report; whether it passed is for the caller to act on.

    Raises:
        UserError: There is no held-out photograph.
        ModelFormatError: A file of the package is not what it should be.
    """
    from relume.serving.onnx_restorer import OnnxRestorer

    restorer = OnnxRestorer(candidate.folder / "serving")
    champion_restorer = OnnxRestorer(champion.folder / "serving") if champion else None
    restorers = [restorer, *([champion_restorer] if champion_restorer else [])]
    tile = max(each.serving.inference.tile for each in restorers)
    photographs = held_out_photographs(held_out, settings, tile=tile)
    levels = restorer.serving.levels
    given = " (given to it)" if levels and levels.kind == "sigma" else ""
    found = _psnr_by_sigma(restorer, photographs, settings)
    checks = [
        _gain(
            f"gain over the noisy input, sigma {sigma}{given}",
            found[sigma],
            _noisy_psnr(photographs, sigma, settings),
            limit,
        )
        for sigma, limit in settings.min_gain_over_noisy_db.items()
    ]
    if champion_restorer is None:
        checks += _against_non_local_means(candidate, settings)
    else:
        champion_found = _psnr_by_sigma(champion_restorer, photographs, settings)
        checks += _against_champion(found, champion_found, settings)
    checks += _export_parity(candidate)
    packages = [candidate, *([champion] if champion else [])]
    latency = latency or take_turns("in process", packages, [_one_level(restorer) for restorer in restorers])
    checks += _latency(latency, [restorer.serving.inference for restorer in restorers], settings)
    return GateReport(
        candidate=candidate.sha256,
        champion=champion.sha256 if champion else None,
        images=tuple(photographs),
        checks=tuple(checks),
        notes=tuple(_notes(restorer.serving.inference, photographs, tile)),
    )


def _notes(inference: "Inference", photographs: Mapping[str, np.ndarray], tile: int) -> Iterator[str]:
    yield f"{inference}; {inference.runs_per_megapixel:.0f} runs of the network a megapixel"
    if small := sum(min(image.shape[:2]) < tile for image in photographs.values()):
        yield (
            f"{small} photographs are smaller than a tile of {tile} pixels and were continued by mirroring; the gains"
            " may differ on larger ones: raise curate.held_out_side, or list larger photographs"
        )


def held_out_photographs(folder: Path, settings: ReleaseSettings, *, tile: int = 0) -> dict[str, np.ndarray]:
    """Centre crops, uint8 (H, W, 3), of evenly chosen held-out photographs by image id.

    Args:
        folder: `<image_id>.png`.
        settings: How many, and the side of the crop.
        tile: Side of the largest tile that they are restored in; a crop is no smaller.

    Raises:
        UserError: There is none.
    """
    from relume.images import read_image

    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise UserError(
            "There are no held-out photographs for the gate",
            where=folder,
            next_step="run `dvc checkout`, or `relume pipeline run`",
        )
    crop = max(settings.crop, tile)
    chosen = {i * len(paths) // settings.images for i in range(settings.images)}
    photographs = {}
    for path in [path for i, path in enumerate(paths) if i in chosen or len(paths) <= settings.images]:
        image = read_image(path).pixels
        top, left = (max(0, (side - crop) // 2) for side in image.shape[:2])
        photographs[path.stem] = image[top : top + crop, left : left + crop]
    return photographs


def noisy_photographs(
    photographs: Mapping[str, np.ndarray], sigma: int, settings: ReleaseSettings
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Noisy and clean image, both uint8 (H, W, 3). The noise depends on seed, photograph and sigma only."""
    from relume.evaluation.held_out import noisy_photograph
    from relume.metrics import to_8_bit

    for image_id, clean in photographs.items():
        yield to_8_bit(noisy_photograph(clean, image_id, sigma, "clipped", settings.seed)), clean


def _noisy_psnr(photographs: Mapping[str, np.ndarray], sigma: int, settings: ReleaseSettings) -> list[float]:
    from relume.metrics import psnr

    return [psnr(noisy, clean) for noisy, clean in noisy_photographs(photographs, sigma, settings)]


def _psnr_by_sigma(
    restorer: "OnnxRestorer", photographs: Mapping[str, np.ndarray], settings: ReleaseSettings
) -> dict[int, list[float]]:
    """PSNR of each restored photograph, by sigma, which is given to a model that takes one."""
    from relume.metrics import psnr
    from relume.serving.levels import level_for

    return {
        sigma: [
            psnr(restorer.restore(noisy, level=level_for(restorer.serving.levels, "sigma", sigma)).image, clean)
            for noisy, clean in noisy_photographs(photographs, sigma, settings)
        ]
        for sigma in settings.min_gain_over_noisy_db
    }


def _at_least(name: str, value: float, limit: float, unit: str) -> Check:
    return Check(name=name, value=value, limit=limit, at_least=True, unit=unit)


def _at_most(name: str, value: float, limit: float, unit: str) -> Check:
    return Check(name=name, value=value, limit=limit, at_least=False, unit=unit)


def _gain(name: str, found: Sequence[float], baseline: Sequence[float], limit: float) -> Check:
    value = statistics.fmean(found) - statistics.fmean(baseline)
    return _at_least(name, value, limit, "dB")


def _against_champion(
    found: dict[int, list[float]], champion: dict[int, list[float]], settings: ReleaseSettings
) -> list[Check]:
    checks = [
        _gain(f"gain over the champion, sigma {sigma}", found[sigma], champion[sigma], -settings.max_regression_db)
        for sigma in found
    ]
    worst = min(a - b for sigma in found for a, b in zip(found[sigma], champion[sigma], strict=True))
    limit = -settings.max_image_regression_db
    return [*checks, _at_least("gain over the champion, worst photograph", worst, limit, "dB")]


def _against_non_local_means(candidate: Package, settings: ReleaseSettings) -> list[Check]:
    """The package's own metrics: non-local means takes longer than everything else here together."""
    path = candidate.folder / "evaluation" / "per_image.csv"
    columns = {"system": str, "protocol": str, "sigma": float, "psnr": float}
    rows = [row for row in read_table(path, columns, next_step=_AGAIN) if row["protocol"] == "clipped"]
    checks = []
    for sigma, limit in settings.min_gain_over_nlm_db.items():
        final, nlm = (
            [row["psnr"] for row in rows if row["system"] == system and row["sigma"] == sigma]
            for system in ("final", "nlm")
        )
        if not final or len(final) != len(nlm):
            raise ModelFormatError(
                "The package's metrics are incomplete",
                where=path,
                why=f"it has {len(final)} rows of final and {len(nlm)} of nlm at sigma {sigma}, clipped",
                next_step=_AGAIN,
            )
        checks.append(_gain(f"gain over non-local means, sigma {sigma}", final, nlm, limit))
    return checks


def _export_parity(candidate: Package) -> list[Check]:
    """PyTorch against ONNX Runtime as `export` measured it, against the limits of the export."""
    parity = read_parity(candidate.folder)
    difference = max(image.max_difference for image in parity.pictures)
    psnr = min(image.psnr for image in parity.pictures)
    return [
        _at_most("PyTorch against ONNX, largest difference", difference, parity.limits.max_difference, "of 255"),
        _at_least("PyTorch against ONNX, PSNR", psnr, parity.limits.min_psnr, "dB"),
    ]


def _one_level(restorer: "OnnxRestorer") -> Callable[[np.ndarray, float | None], np.ndarray]:
    """Restores a tile at one level, as a server does."""
    return lambda tile, level: restorer.restore_batch(tile, None if level is None else np.array([level], np.float32))


def _latency(found: Latency, plans: Sequence["Inference"], settings: ReleaseSettings) -> list[Check]:
    """The time of one run of the network, and its ratio to the champion's for the runs that a megapixel takes."""
    runs = [plan.runs_per_megapixel for plan in plans]
    name = f"latency of one tile of {plans[0].tile} pixels, {found.where}"
    checks = [_at_most(name, found.candidate, settings.latency_ms_per_tile, "ms")]
    if found.champion is not None:
        ratio = (found.candidate * runs[0]) / (found.champion * runs[1])
        name = f"latency of a pixel over the champion's, {found.where}"
        checks.append(_at_most(name, ratio, settings.max_latency_ratio, "times"))
    return checks
