"""The gate: measures a candidate as it would be served, and says whether it may be released.

The recipe's task says on what. The served ONNX file restores held-out photographs, degraded under the product's
protocols at the levels of the recipe; champion and candidate get the same pixels. A model that takes a level of the
degradation's kind is given the true one; one with a level estimator is judged at what that estimates as well. A gain is
that of each photograph, and from five photographs on it counts with the lower end of the confidence interval of its
mean, so that a chance choice of photographs does not release a model.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.release.conditions import Condition, Paired, conditions_of
from flows.release.package import Package, read_parity
from flows.release.trial import Latency, take_turns
from relume.errors import GateRefusedError, ModelFormatError, UserError
from relume.evaluation.settings import EvaluateSettings
from relume.evaluation.tasks import INPUTS
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
        interval: The 95 % confidence interval of the value, whose lower end must be within the limit; None where there
            is none.
    """

    name: str
    value: float
    limit: float
    at_least: bool
    unit: str
    interval: tuple[float, float] | None = None

    @property
    def passed(self) -> bool:
        """Whether the value, or the lower end of its interval, is within the limit. NaN is not."""
        least = self.interval[0] if self.interval else self.value
        return bool(least >= self.limit if self.at_least else self.value <= self.limit)

    @property
    def between(self) -> str:
        """The interval as text, such as ` (6.51 to 7.43)`; empty where there is none."""
        return f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})" if self.interval else ""

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{self.name}: {self.value:.2f}{self.between} {self.unit}, must be {sign} {self.limit:.2f} {self.unit}"


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
                f"  {verdict}  {check.name:<{width}}  {check.value:9.2f}{check.between}  {sign} {check.limit:.2f}"
                f" {check.unit}"
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
    evaluate: EvaluateSettings,
    held_out: Path,
    latency: Latency | None = None,
    memory: Sequence[float] = (),
) -> GateReport:
    """Measures a candidate.

    Args:
        candidate: The package to release.
        champion: The package that serves, or None.
        settings: The limits.
        evaluate: The task and its levels.
        held_out: Folder of held-out photographs, `<image_id>.png`, the degraded images of pairs in its subfolder
            `degraded`.
        latency: As a server showed it; measured in this process when None.
        memory: As `peak_memory` gives it, of the candidate and the champion; not judged when empty.

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
    plans = [each.serving.inference for each in restorers]
    if problem := evaluate.scale_problem(plans[0].scale):
        raise ModelFormatError("The candidate cannot be judged on its task", where=problem, next_step=_AGAIN)
    tile = max(plan.scale * side for plan in plans for side in plan.tiles)
    photographs = held_out_photographs(held_out, settings, tile=tile)
    conditions: list[Condition | Paired] = list(conditions_of(evaluate, restorer.serving))
    # Both images of a pair have one size, which a model that enlarges changes.
    if all(plan.scale == 1 for plan in plans) and (pairs := held_out_pairs(held_out, settings, tile=tile)):
        conditions.append(Paired(pairs=pairs))
    seed = settings.seed
    found = {condition: condition.psnr(restorer, photographs, seed) for condition in conditions}
    inputs = {condition: condition.psnr(None, photographs, seed) for condition in conditions}
    checks = [
        _gain(
            f"gain over the {INPUTS[evaluate.the_task.input]}, {condition}{condition.given(restorer)}",
            found[condition],
            inputs[condition],
            condition.limit(settings),
        )
        for condition in conditions
    ]
    if champion_restorer is not None:
        served = {condition: condition.psnr(champion_restorer, photographs, seed) for condition in conditions}
        checks += _against_champion(found, served, settings)
    elif evaluate.the_task.baseline == "nlm":
        checks.append(_against_non_local_means(candidate, evaluate, settings))
    checks += _export_parity(candidate)
    packages = [candidate, *([champion] if champion else [])]
    latency = latency or take_turns("in process", packages, [_one_level(restorer) for restorer in restorers])
    checks += _latency(latency, plans, settings)
    if memory:
        checks.append(_at_most("memory of a process that restores one tile", memory[0], settings.memory_mb, "MB"))
    notes = [*_notes(latency, plans, photographs, tile)]
    notes += [f"the champion: a process that restores one tile takes {taken:.0f} MB" for taken in memory[1:]]
    return GateReport(
        candidate=candidate.sha256,
        champion=champion.sha256 if champion else None,
        images=tuple(photographs),
        checks=tuple(checks),
        notes=tuple(notes),
    )


def _notes(
    latency: Latency, plans: Sequence["Inference"], photographs: Mapping[str, np.ndarray], tile: int
) -> Iterator[str]:
    for whose, (plan, times) in zip(("", "the champion: "), _timed(latency, plans), strict=False):
        if whose and plan == plans[0]:
            continue
        runs, seconds = plan.runs_per_megapixel, plan.seconds_per_megapixel(times)
        yield f"{whose}{plan}; {runs:.0f} runs of the network a megapixel, which take {seconds:.2g} s {latency.where}"
    if small := sum(min(image.shape[:2]) < tile for image in photographs.values()):
        yield (
            f"{small} of {len(photographs)} photographs are smaller than a tile of {tile} pixels and were continued by"
            " mirroring; the gains may differ on larger ones: raise curate.held_out_side, or list larger photographs"
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
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise UserError(
            "There are no held-out photographs for the gate",
            where=folder,
            next_step="run `dvc checkout`, or `relume pipeline run`",
        )
    crop = max(settings.crop, tile)
    return {path.stem: _centre(path, crop) for path in _evenly(paths, settings.images)}


def held_out_pairs(
    folder: Path, settings: ReleaseSettings, *, tile: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As `held_out_photographs`, the pairs among them: the degraded and the clean image of each; none is no error."""
    crop = max(settings.crop, tile)
    paths = _evenly(sorted(folder.glob("degraded/*.png")), settings.images)
    return {path.stem: (_centre(path, crop), _centre(folder / path.name, crop)) for path in paths}


def _evenly(paths: Sequence[Path], count: int) -> list[Path]:
    chosen = {i * len(paths) // count for i in range(count)}
    return [path for i, path in enumerate(paths) if i in chosen or len(paths) <= count]


def _centre(path: Path, crop: int) -> np.ndarray:
    from relume.images import read_image

    image = read_image(path).pixels
    top, left = (max(0, (side - crop) // 2) for side in image.shape[:2])
    return image[top : top + crop, left : left + crop]


def _at_least(name: str, value: float, limit: float, unit: str) -> Check:
    return Check(name=name, value=value, limit=limit, at_least=True, unit=unit)


def _at_most(name: str, value: float, limit: float, unit: str) -> Check:
    return Check(name=name, value=value, limit=limit, at_least=False, unit=unit)


def _gain(name: str, found: Sequence[float], baseline: Sequence[float], limit: float) -> Check:
    from relume.evaluation.comparison import FEWEST, bootstrap_interval

    value = statistics.fmean(found) - statistics.fmean(baseline)
    gains = [a - b for a, b in zip(found, baseline, strict=True)]
    interval = bootstrap_interval(gains) if len(gains) >= FEWEST and all(map(math.isfinite, gains)) else None
    return Check(name=name, value=value, limit=limit, at_least=True, unit="dB", interval=interval)


def _against_champion(
    found: dict[Condition | Paired, list[float]],
    champion: dict[Condition | Paired, list[float]],
    settings: ReleaseSettings,
) -> list[Check]:
    checks = [
        _gain(
            f"gain over the champion, {condition}", found[condition], champion[condition], -settings.max_regression_db
        )
        for condition in found
    ]
    worst = min(a - b for each in found for a, b in zip(found[each], champion[each], strict=True))
    limit = -settings.max_image_regression_db
    return [*checks, _at_least("gain over the champion, worst photograph", worst, limit, "dB")]


def _against_non_local_means(candidate: Package, evaluate: EvaluateSettings, settings: ReleaseSettings) -> Check:
    """The package's own metrics: non-local means takes longer than everything else here together."""
    path = candidate.folder / "evaluation" / "per_image.csv"
    degradation, levels = next(evaluate.measured())
    strongest, protocol = degradation.strongest(levels), degradation.protocols[0]
    columns = {"system": str, "protocol": str, "level": float, "psnr": float}
    rows = [
        row
        for row in read_table(path, columns, next_step=_AGAIN)
        if (row["protocol"], row["level"]) == (protocol, strongest)
    ]
    final, nlm = ([row["psnr"] for row in rows if row["system"] == system] for system in ("final", "nlm"))
    if not final or len(final) != len(nlm):
        raise ModelFormatError(
            "The package's metrics are incomplete",
            where=path,
            why=f"it has {len(final)} rows of final and {len(nlm)} of nlm at {degradation.parameter} {strongest:g},"
            f" {protocol}",
            next_step=_AGAIN,
        )
    name = f"gain over non-local means, {degradation.parameter} {strongest:g}"
    return _gain(name, final, nlm, settings.min_gain_over_nlm_db)


def _export_parity(candidate: Package) -> list[Check]:
    """PyTorch against ONNX Runtime as `export` measured it, against the limits of the export."""
    parity = read_parity(candidate.folder)
    difference = max(image.max_difference for image in parity.pictures)
    psnr = min(image.psnr for image in parity.pictures)
    return [
        _at_most("PyTorch against ONNX, largest difference", difference, parity.limits.max_difference, "of 255"),
        _at_least("PyTorch against ONNX, PSNR", psnr, parity.limits.min_psnr, "dB"),
    ]


def _one_level(restorer: "OnnxRestorer") -> Callable[..., np.ndarray]:
    """Restores a tile at one level, as a server does."""

    def restore_batch(tile: np.ndarray, level: float | None, **which: Any) -> np.ndarray:
        return restorer.restore_batch(tile, None if level is None else np.array([level], np.float32), **which)

    return restore_batch


def _timed(found: Latency, plans: Sequence["Inference"]) -> list[tuple["Inference", Mapping[tuple[str, int], float]]]:
    """Plan and times of the candidate and of the champion, if there is one."""
    return list(zip(plans, filter(None, (found.candidate, found.champion)), strict=True))


def _latency(found: Latency, plans: Sequence["Inference"], settings: ReleaseSettings) -> list[Check]:
    """The time of the slowest tile, and for a large image, with all that its plan asks for, the ratio to the
    champion's."""
    part, side = max(found.candidate, key=lambda graph: found.candidate[graph])
    name = f"latency of one tile of {side} pixels, {found.where}"
    checks = [_at_most(name, found.candidate[part, side], settings.latency_ms_per_tile, "ms")]
    if found.champion is not None:
        seconds = [plan.seconds_per_megapixel(times) for plan, times in _timed(found, plans)]
        ratio = seconds[0] / seconds[1]
        name = f"latency of a pixel over the champion's, {found.where}"
        checks.append(_at_most(name, ratio, settings.max_latency_ratio, "times"))
    return checks
