"""The summary of the rows of an evaluation: means, level sweeps, and the table that is printed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from relume.counts import counted
from relume.evaluation.benchmark.measure import Row
from relume.evaluation.benchmark.protocols import PROTOCOLS
from relume.evaluation.comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class Means:
    """Means over the images of a set.

    Attributes:
        set: Name of the set.
        protocol: Name of the protocol.
        level: Of the protocol's parameter; None for one without.
        system: Name of the system.
        asked: Mean of the levels that the system was given; None for a system that takes none.
        images: Number of images.
        psnr: In dB.
        ssim: From -1 to 1.
        psnr_y: In dB, on the luma.
        ssim_y: On the luma.
    """

    set: str
    protocol: str
    level: float | None
    system: str
    asked: float | None
    images: int
    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


def means_of(rows: Iterable[Row], *, sweep: bool) -> list[Means]:
    """Means over the images.

    Args:
        rows: Of any sets, protocols, levels and systems.
        sweep: Whether the asked levels are kept apart, or belong to the images.

    Returns:
        In the order in which the groups first occur.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        key = (row.set, row.protocol, row.level, row.system, row.asked if sweep else None)
        groups.setdefault(key, []).append(row)
    means = []
    for (name, protocol, level, system, _), group in groups.items():
        asked = [row.asked for row in group if row.asked is not None]
        values = {
            metric: round(float(np.mean([getattr(row, metric) for row in group])), 4)
            for metric in ("psnr", "ssim", "psnr_y", "ssim_y")
        }
        means.append(
            Means(
                set=name,
                protocol=protocol,
                level=level,
                system=system,
                asked=round(float(np.mean(asked)), 4) if asked else None,
                images=len(group),
                **values,
            )
        )
    return means


@dataclass(frozen=True, kw_only=True)
class BestLevel:
    """At which asked level an adjustable system restores a true level best.

    Attributes:
        set: Name of the set.
        protocol: Name of the protocol.
        system: Name of the system.
        true: Of the protocol's parameter; None for a protocol without.
        best: The asked level of the highest mean PSNR.
        psnr: That PSNR in dB.
        loss: What is lost in dB when the true level is asked for; None where it was not asked, or where the protocol's
            parameter is not what the system's level means.
    """

    set: str
    protocol: str
    system: str
    true: float | None
    best: float
    psnr: float
    loss: float | None


def best_levels(means: Iterable[Means], luma_of: set[tuple[str, str]], *, kinds: Mapping[str, str]) -> list[BestLevel]:
    """The best asked level of each system for each true level.

    Args:
        means: Of a level sweep.
        luma_of: Sets and protocols that are measured on the luma.
        kinds: What the level of each system means, such as `sigma`.
    """
    sweeps: dict[tuple, dict[float, float]] = {}
    for mean in means:
        if mean.asked is not None:
            key = (mean.set, mean.protocol, mean.system, mean.level)
            sweeps.setdefault(key, {})[mean.asked] = _shown(mean, luma_of)[0]
    found = []
    for (name, protocol, system, true), psnr in sweeps.items():
        best = max(psnr, key=psnr.__getitem__)
        comparable = PROTOCOLS[protocol].parameter == kinds[system]
        loss = round(psnr[best] - psnr[true], 4) if comparable and true in psnr else None
        found.append(
            BestLevel(set=name, protocol=protocol, system=system, true=true, best=best, psnr=psnr[best], loss=loss)
        )
    return found


def _shown(mean: Means, luma_of: set[tuple[str, str]]) -> tuple[float, float]:
    luma = (mean.set, mean.protocol) in luma_of
    return (mean.psnr_y, mean.ssim_y) if luma else (mean.psnr, mean.ssim)


def render(
    means: Sequence[Means],
    comparisons: Sequence[Comparison],
    sweeps: Sequence[BestLevel],
    *,
    luma_of: set[tuple[str, str]],
    sweep: bool,
) -> str:
    """The tables as text: a block for each set and protocol, a line for each system, a column for each level."""
    blocks = []
    for name, protocol in dict.fromkeys((mean.set, mean.protocol) for mean in means):
        group = [mean for mean in means if (mean.set, mean.protocol) == (name, protocol)]
        measured = "luma" if (name, protocol) in luma_of else "all values"
        levels = list(dict.fromkeys(mean.level for mean in group))
        lines: dict[tuple, dict] = {(mean.system, mean.asked if sweep else None): {} for mean in group}
        for mean in group:
            psnr, ssim = _shown(mean, luma_of)
            lines[mean.system, mean.asked if sweep else None][mean.level] = f"{psnr:6.2f} {ssim:.4f}"
        titles = [_title(protocol, level) for level in levels]
        labels = [system + (f" asked {asked:g}" if asked is not None else "") for system, asked in lines]
        width = max(len(label) for label in labels)
        block = [f"{name}  {protocol}  {counted(group[0].images, 'image')}, PSNR in dB and SSIM on {measured}"]
        if any(titles):
            block.append("  " + " " * width + "".join(f"  {title:>13}" for title in titles))
        block += [
            f"  {label:<{width}}" + "".join(f"  {cells.get(level, ''):>13}" for level in levels)
            for label, cells in zip(labels, lines.values(), strict=True)
        ]
        here = (name, protocol)
        block += [_said(comparison) for comparison in comparisons if (comparison.set, comparison.protocol) == here]
        block += [_best(found) for found in sweeps if (found.set, found.protocol) == here]
        blocks.append("\n".join(block))
    return "\n\n".join(blocks)


def _title(protocol: str, level: float | None) -> str:
    return "" if level is None else f"{PROTOCOLS[protocol].parameter} {level:g}"


def _said(found: Comparison) -> str:
    title = _title(found.protocol, found.level)
    interval = "" if found.low is None else f"; 95 % confidence interval {found.low:+.3f} to {found.high:+.3f}"
    ties = found.images - found.wins - found.losses
    return (
        f"  {title}{': ' if title else ''}{found.second} over {found.first}: {found.gain:+.3f} dB{interval};"
        f" better on {found.wins}, worse on {found.losses}, equal on {ties}"
    )


def _best(found: BestLevel) -> str:
    loss = "" if found.loss is None else f", {found.loss:.2f} dB more than with the true level"
    title = _title(found.protocol, found.true)
    return f"  {title}{': ' if title else ''}{found.system} is best at level {found.best:g}{loss}"


def as_json(items: Iterable[Means | Comparison | BestLevel]) -> list[dict]:
    """Dataclasses as plain dictionaries."""
    return [asdict(item) for item in items]
