"""One evaluation from end to end: from sets, protocols and systems to tables, results.csv, summary.json, images."""

import contextlib
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from relume.errors import ConfigError
from relume.evaluation.benchmark.measure import INPUT, Asking, Row, check_fit, measure, measured_on_luma
from relume.evaluation.benchmark.output import PICTURES, ROWS, SUMMARY, check_output
from relume.evaluation.benchmark.protocols import Protocol, parse_protocol
from relume.evaluation.benchmark.sets import ImageSet
from relume.evaluation.benchmark.summary import as_json, best_levels, means_of, render
from relume.evaluation.benchmark.systems import System
from relume.evaluation.comparison import Cases, Comparison, compare, sheet
from relume.files import atomic_file, atomic_folder, write_json
from relume.images import save_image

Progress = Callable[[str, int, int], None]
"""Called with what is counted, how many of them are done and their total."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        sets: Opened sets.
        systems: Two or more are compared: the first with each of the others.
        protocols: As `parse_protocol` reads them; empty for the protocol that each set is made for.
        asking: Which level adjustable systems are given.
        seed: Of the noise and of the bootstrap.
        limit: Only the first so many images of each set.
    """

    sets: Sequence[ImageSet]
    systems: Sequence[System]
    protocols: Sequence[str] = ()
    asking: Asking = field(default_factory=Asking)
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        for kind, names in (
            ("set", [image_set.name for image_set in self.sets]),
            ("system", [INPUT, *(system.name for system in self.systems)]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(
                    f"A {kind} is given twice", where=", ".join(twice), next_step=f"give each {kind} once"
                )
        self.runs()  # refuses unknown protocols and levels

    def runs(self) -> list[tuple[ImageSet, Protocol, float | None]]:
        """Each set, protocol and level."""
        found = [
            (image_set, protocol, level)
            for image_set in self.sets
            for text in self.protocols or [image_set.protocol]
            for protocol, levels in [parse_protocol(text)]
            for level in levels
        ]
        return list(dict.fromkeys(found))

    def pairs(self) -> list[tuple[str, str]]:
        """The systems that are compared; one alone with its input. Those that are asked for several levels are not."""
        names = [system.name for system in self.systems if not (system.level and len(self.asking.levels) > 1)]
        if len(names) < 2:
            return [(INPUT, name) for name in names]
        return [(names[0], name) for name in names[1:]]

    def notes(self) -> list[str]:
        """Notes for the reader of the metrics."""
        notes = []
        for image_set in self.sets:
            count = len(image_set.paths()[: self.limit])
            if image_set.images not in (None, count):
                notes.append(
                    f"{image_set.name}: {count} of {image_set.images} images; do not compare with published metrics"
                )
        if any(image_set.gray for image_set in self.sets) and any(1 not in system.channels for system in self.systems):
            notes.append(
                "colour systems get a gray image as three equal channels, and the mean of their result is measured"
            )
        return notes


def run(plan: Plan, out: str | Path, *, settings: dict[str, Any], on_progress: Progress | None = None) -> str:
    """Measures, compares and writes; `out` appears whole or not at all.

    Args:
        plan: What is measured.
        out: Folder of results.csv (a row for each image and system), summary.json (means, comparisons, level
            sweeps) and `pictures/` (for each comparison the best and the worst: input, first, second, clean). It
            replaces an earlier result.
        settings: Kept in summary.json, for the reader.
        on_progress: Called after each image, of all sets, protocols and levels.

    Returns:
        The tables.

    Raises:
        KeyboardInterrupt: It was interrupted; the rows so far are in `<out>.partial.csv`, which its text says.
        ConfigError: `out` contains a set or anything but an earlier result; or see `check_fit`.
        UserError: An image cannot be read, or a pair is incomplete.
    """
    check_output(out, needed=[image_set.folder for image_set in plan.sets if image_set.folder])
    check_fit(plan.runs(), plan.systems, asking=plan.asking, limit=plan.limit)
    rows: list[Row] = []
    done, total = 0, sum(len(image_set.paths()[: plan.limit]) for image_set, _, _ in plan.runs())
    comparisons: list[Comparison] = []
    sweep = bool(plan.asking.levels)
    luma_of = {
        (image_set.name, protocol.name)
        for image_set, protocol, _ in plan.runs()
        if measured_on_luma(image_set, protocol)
    }
    with _keeping(rows, Path(out)), atomic_folder(out) as folder:
        for image_set, protocol, level in plan.runs():
            title = f"{image_set.name} {protocol.name}" + (
                f" {protocol.parameter} {level:g}" if level is not None else ""
            )
            metric = "psnr_y" if (image_set.name, protocol.name) in luma_of else "psnr"
            gains: dict[tuple[str, str], dict[str, float]] = {pair: {} for pair in plan.pairs()}
            cases = {pair: Cases() for pair in gains}
            results = measure(
                image_set, protocol, level, plan.systems, asking=plan.asking, seed=plan.seed, limit=plan.limit
            )
            for measured in results:
                rows += measured.rows
                shown = dict(zip((row.system for row in measured.rows), measured.results, strict=True))
                value = {row.system: getattr(row, metric) for row in measured.rows}
                image = measured.rows[0].image
                for first, second in gains:
                    gain = value[second] - value[first]
                    gains[first, second][image] = gain
                    names = dict.fromkeys((INPUT, first, second))
                    cases[first, second].add(gain, image, sheet([*(shown[name] for name in names), measured.clean]))
                done += 1
                if on_progress:
                    on_progress("images", done, total)
            for (first, second), by_image in gains.items():
                where = {"set": image_set.name, "protocol": protocol.name, "level": level}
                comparisons.append(compare(by_image, seed=plan.seed, first=first, second=second, **where))
                _save_cases(cases[first, second], folder / PICTURES / _slug(title) / _slug(f"{second} over {first}"))
        means = means_of(rows, sweep=sweep)
        kinds = {system.name: system.level for system in plan.systems}
        sweeps = best_levels(means, luma_of, kinds=kinds) if sweep else []
        _write_rows(folder / ROWS, rows)
        write_json(
            folder / SUMMARY,
            {
                "settings": settings | {"seed": plan.seed, "limit": plan.limit},
                "notes": plan.notes(),
                "figures": as_json(means),
                "comparisons": as_json(comparisons),
                "level_sweeps": as_json(sweeps),
            },
        )
    return render(means, comparisons, sweeps, luma_of=luma_of, sweep=sweep)


@contextlib.contextmanager
def _keeping(rows: Sequence[Row], out: Path) -> Iterator[None]:
    """Keeps the rows of an evaluation that is interrupted, beside `out`, where an earlier result still stands."""
    try:
        yield
    except KeyboardInterrupt:
        if not rows:
            raise
        kept = out.with_name(f"{out.name}.partial.csv")
        with atomic_file(kept) as temporary:
            _write_rows(temporary, rows)
        raise KeyboardInterrupt(
            f"{kept} has the {len(rows)} rows that were measured, a part of the result: means and comparisons need all."
            " To measure all, run the same command again, which begins with the first image."
        ) from None


def _save_cases(cases: Cases, folder: Path) -> None:
    for kind, kept in (("best", cases.best), ("worst", cases.worst)):
        for rank, (gain, image, pixels) in enumerate(kept, 1):
            save_image(folder / f"{kind}_{rank}_{_slug(image)}_{gain:+.2f}dB.png", pixels)


def _slug(text: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("_.")


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [entry.name for entry in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            metrics = {name: f"{getattr(row, name):.4f}" for name in ("psnr", "ssim", "psnr_y", "ssim_y")}
            writer.writerow(asdict(row) | metrics)
