"""The report of a run: one HTML file with images and curves that opens without a network."""

import base64
import dataclasses
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flows.release.package import read_facts, read_parity
from relume.counts import counted
from relume.errors import ModelMissingError
from relume.evaluation.card import read_metrics
from relume.evaluation.comparison import FEWEST, bootstrap_interval
from relume.evaluation.tasks import INPUTS, TaskDegradation, degradation_of
from relume.files import write_text
from relume.reading import read_as, read_table, reading
from relume.serving.served_model import read_serving
from relume.training.patches import PatchShards

PROTOCOLS = {
    "clipped": "Noise clipped and rounded to 8 bits (the product's protocol), restored in tiles as served",
    "unclipped": "Noise unclipped (the literature's protocol), restored whole and in process",
    "jpeg95": "The clipped noise saved as JPEG of quality 95, restored in tiles as served",
    "jpeg85": "The clipped noise saved as JPEG of quality 85, restored in tiles as served",
    "poisson": "Poisson noise, restored in tiles as served, measured on luma",
    "speckle": "Speckle noise, restored in tiles as served, measured on luma",
    "salt-and-pepper": "Salt and pepper, restored in tiles as served, measured on luma",
    "rendering": "Noise of few rays for each pixel, restored in tiles as served, measured on luma",
    "correlated": "Noise that neighbours share, restored in tiles as served, measured on luma",
    "mixture": "Speckle, Gaussian noise, and salt and pepper, restored in tiles as served, measured on luma",
    "developed": "Noise of developed photographs, saved as JPEG of quality 95, restored in tiles as served",
    "camera": "Noise of a sensor through its development, restored in tiles as served",
    "jpeg": "JPEG of libjpeg, 4:2:0, restored in tiles as served",
    "sr": "Bicubic down and, for a network that keeps the size, up again; restored in tiles as served, measured on luma"
    " without a border of the scale",
    "rain": "Streaks of rain, restored in tiles as served, measured on luma",
    "haze": "Haze, restored in tiles as served",
    "motion-blur": "Blur along a random path, restored in tiles as served",
    "paired": "Held-out pairs of degraded and clean images, restored in tiles as served; levels given are estimated",
    "pairs": "Real pairs of noisy and clean images, restored in tiles as served; levels that are given are estimated",
}
SYSTEMS = {
    **INPUTS,
    "blur": "Gaussian blur (given sigma)",
    "nlm": "OpenCV non-local means (given sigma)",
    "bm3d": "BM3D (given sigma)",
    "average": "plain average of the base models",
    "ensemble": "ensemble head",
    "final": "ensemble head, hard-mining fine-tune",
    "blind": "the same at the level that its level estimator estimates",
}
# Of real pairs nobody knows the level: there both are at the one setting that is best on all of these pairs.
FILTERS_OF_PAIRS = {"blur": "Gaussian blur (best setting)", "nlm": "OpenCV non-local means (best setting)"}
_EVALUATE = "run `dvc repro --force evaluate`"
_SCORE = {"system": str, "image_id": str, "level": float, "protocol": str, "psnr": float}
CROP = 288  # pixels; crops are shown at full resolution


def write_report(path: str | Path, *, root: str | Path = ".", facts: dict[str, Any] | None = None) -> Path:
    """Writes the report of the outs in a checkout.

    Args:
        path: The HTML file.
        root: The checkout, with the outs of `evaluate`, `export` and `package`.
        facts: What only the run knows, shown when given: `stages` (rows of `stage`, `outcome` and `seconds`),
            `release` (`model`, `version` and the gate's `checks`), `served` (`product`, `release`, `size`, and the
            `noisy` and `restored` image).

    Returns:
        `path`.

    Raises:
        ModelMissingError: The evaluation has not run.
    """
    import jinja2

    root, facts = Path(root), facts or {}
    if not (root / "reports" / "metrics.json").is_file():
        raise ModelMissingError(
            "There is nothing to report yet",
            where=root / "reports",
            why="metrics.json is missing: the stage `evaluate` has not run",
            next_step="run `relume pipeline run`",
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    card, table = root / "reports" / "metrics.json", root / "reports" / "evaluation" / "per_image.csv"
    metrics, scores = read_metrics(card), read_table(table, _SCORE, next_step=_EVALUATE)
    with reading(card, next_step=_EVALUATE):
        tables = [
            {"title": title, **_table(metrics[protocol]), "weak": _weak(metrics[protocol])}
            for protocol, title in PROTOCOLS.items()
            if protocol in metrics
        ]
    with reading(table, next_step=_EVALUATE):
        foremost = _foremost(scores)
        helped, images = _helped(scores), _image_rows(root, scores)
    with reading(card, next_step=_EVALUATE):
        level_curves = _level_curves(metrics[foremost.protocols[0]])
    content = environment.get_template("report.html.j2").render(
        package=read_facts(root / "package"),
        serving=read_serving(root / "package" / "serving"),
        parity=read_parity(root / "package"),
        tables=tables,
        helped=helped,
        images=images,
        training_curves=_training_curves(root),
        level_curves=level_curves,
        parameter=foremost.parameter,
        data=_data(root),
        stages=facts.get("stages"),
        release=facts.get("release"),
        served=_served(facts.get("served")),
    )
    write_text(path, content)
    return Path(path)


def _foremost(scores: list[dict[str, Any]]) -> TaskDegradation:
    """The degradation that the product is for before all others: the one that `evaluate` wrote first."""
    return degradation_of(scores[0]["protocol"])


def _title(system: str, level: str = "") -> str:
    if level == "all" and system in FILTERS_OF_PAIRS:
        return FILTERS_OF_PAIRS[system]
    return SYSTEMS.get(system, system.replace("base:", "base model "))


def _table(systems: dict[str, Any]) -> dict[str, Any]:
    """The levels, and rows of metrics, the baselines first, the final model last; a column's best PSNR is marked."""
    bases = sorted(name for name in systems if name.startswith("base:"))
    order = [
        name
        for name in (*INPUTS, "blur", "nlm", "bm3d", *bases, "average", "ensemble", "final", "blind")
        if name in systems
    ]
    levels = sorted(systems["final"], key=lambda level: float(level.partition("_")[2] or 0))
    best = {level: max(metrics[level]["psnr"] for metrics in systems.values()) for level in levels}
    rows = [
        {
            "title": _title(name, levels[0]),
            "cells": [
                {**systems[name][level], "best": systems[name][level]["psnr"] == best[level]} for level in levels
            ],
        }
        for name in order
    ]
    return {"levels": [level.replace("_", " ") for level in levels], "rows": rows}


def _weak(systems: dict[str, Any]) -> list[str]:
    """A sentence for each level at which a filter without a network is better than the final model."""
    sentences, filters = [], [name for name in ("blur", "nlm") if name in systems]
    for level, final in systems["final"].items() if filters else ():
        best = max(filters, key=lambda name: systems[name][level]["psnr"])
        if (psnr := systems[best][level]["psnr"]) > final["psnr"]:
            where = "" if level == "all" else f" at {level.replace('_', ' ')}"
            by = f"{_title(best, level)} is better by {psnr - final['psnr']:.2f} dB."
            sentences.append(f"This model is not for such images{where}: {by}")
    return sentences


def _helped(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each stage changed, as the mean difference over photographs and levels of the foremost degradation.

    The interval is 95 % of a bootstrap over photographs; from too few of them there is none.
    """
    protocol = _foremost(scores).protocols[0]
    psnr = {
        (row["system"], row["image_id"], row["level"]): float(row["psnr"])
        for row in scores
        if row["protocol"] == protocol
    }
    baseline = _baseline(scores)
    steps = [
        ("ensemble head against the plain average", "ensemble", "average"),
        ("hard-mining fine-tune against the ensemble head", "final", "ensemble"),
        (f"the final model against {'non-local means' if baseline == 'nlm' else _title(baseline)}", "final", baseline),
    ]
    images = sorted({image for _, image, _ in psnr})
    levels = sorted({level for _, _, level in psnr}, key=float)
    rows = []
    for title, after, before in steps:
        gains = np.array([[psnr[after, i, v] - psnr[before, i, v] for v in levels] for i in images]).mean(axis=1)
        row: dict[str, Any] = {"title": title, "gain": float(gains.mean()), "interval": None}
        if len(gains) < FEWEST:
            row["verdict"] = f"too few for a confidence interval: {counted(len(gains), 'photograph')}"
        else:
            row["interval"] = low, high = bootstrap_interval(gains)
            row["verdict"] = "helped" if low > 0 else "hurt" if high < 0 else "made no clear difference"
        rows.append(row)
    return rows


def _baseline(scores: list[dict[str, Any]]) -> str:
    """Non-local means where they were measured on more than pairs, else the input, which is in the first row."""
    protocol = _foremost(scores).protocols[0]
    measured = any(row["system"] == "nlm" and row["protocol"] == protocol for row in scores)
    return "nlm" if measured else scores[0]["system"]


def _image_rows(root: Path, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each held-out photograph the degraded, the baseline's, the restored and the clean crop with their PSNR."""
    folder = root / "reports" / "evaluation" / "pictures"
    foremost, given, baseline = _foremost(scores), scores[0]["system"], _baseline(scores)
    protocol = foremost.protocols[0]
    shown = foremost.strongest(float(row["level"]) for row in scores if row["protocol"] == protocol)
    psnr = {
        (row["image_id"], row["system"]): float(row["psnr"])
        for row in scores
        if row["protocol"] == protocol and float(row["level"]) == shown
    }
    rows = []
    for clean in sorted(folder.glob("*_clean.png")):
        image_id = clean.stem.removesuffix("_clean")
        columns = [(given, f"{_title(given)}, {foremost.parameter} {shown:g}"), ("final", "restored")]
        if baseline != given:
            columns.insert(1, (baseline, "non-local means"))
        cells = [
            {
                "title": title,
                "psnr": psnr[image_id, name],
                "source": _crop(_read_pixels(folder / f"{image_id}_{name}.png")),
            }
            for name, title in columns
        ]
        cells.append({"title": "clean", "psnr": None, "source": _crop(_read_pixels(clean))})
        rows.append({"image_id": image_id, "cells": cells})
    return rows


def _served(served: dict[str, Any] | None) -> dict[str, Any] | None:
    """The whole image that Triton restored, beside the noisy one that it was sent."""
    if served is None:
        return None
    return {**served, "noisy": _embedded(served["noisy"]), "restored": _embedded(served["restored"])}


def write_contact_sheet(path: str | Path, *, root: str | Path = ".") -> None:
    """Writes the held-out photographs as one image: a row each, degraded, the baseline's, restored and clean.

    Args:
        path: The image file.
        root: The checkout, with the outs of `evaluate`.
    """
    from relume.images import save_image

    folder = Path(root) / "reports" / "evaluation" / "pictures"
    rows = []
    for clean in sorted(folder.glob("*_clean.png")):
        names = [clean.name.replace("_clean", f"_{system}") for system in (*INPUTS, "nlm", "final", "clean")]
        images = [_read_pixels(folder / name) for name in names if (folder / name).is_file()]
        rows.append(np.concatenate([_centre(image) for image in images], axis=1))
    save_image(path, np.concatenate(rows))


def _read_pixels(path: Path) -> np.ndarray:
    from relume.images import read_image

    return read_image(path).pixels


def _crop(image: np.ndarray) -> str:
    return _embedded(_centre(image))


def _centre(image: np.ndarray) -> np.ndarray:
    top, left = (max(0, side - CROP) // 2 for side in image.shape[:2])
    return image[top : top + CROP, left : left + CROP]


def _embedded(image: np.ndarray) -> str:
    """An image as a data URL. WebP at quality 95 keeps the noise, which is what these images show."""
    from relume.images import encode

    return "data:image/webp;base64," + base64.b64encode(encode(image, ".webp")).decode()


def _training_curves(root: Path) -> str:
    """Validation PSNR over steps of every training, as inline SVG."""
    lines = {}
    for path in sorted((root / "reports" / "curves").glob("training_*.csv")):
        rows = read_table(path, {"step": float, "psnr": float}, next_step=_EVALUATE)
        lines[path.stem.removeprefix("training_")] = ([row["step"] for row in rows], [row["psnr"] for row in rows])
    return _plot(lines, "training step", "validation PSNR (dB)")


def _level_curves(systems: dict[str, Any]) -> str:
    """PSNR over the level of every system, as inline SVG."""
    lines, parameter = {}, ""
    for name, levels in systems.items():
        parameter = next(iter(levels)).partition("_")[0]
        points = sorted((float(level.partition("_")[2]), value["psnr"]) for level, value in levels.items())
        lines[_title(name)] = ([level for level, _ in points], [value for _, value in points])
    return _plot(lines, "sigma (0 to 255 scale)" if parameter == "sigma" else parameter, "PSNR (dB)")


def _plot(lines: dict[str, tuple[list[float], list[float]]], x_label: str, y_label: str) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for name, (x, y) in lines.items():
        axes.plot(x, y, marker="o", markersize=3, linewidth=1.4, label=name)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What the report shows of an expectation on the data."""

    success: bool


def _data(root: Path) -> dict[str, Any]:
    """What was ingested, quarantined, curated and checked."""
    curated = root / "data" / "curated"
    columns = {"address": str, "split": str, "reason": str}
    images = read_table(curated / "images.csv", columns, next_step="run `dvc repro --force curate`")
    quarantine = root / "data" / "ingested" / "quarantine.csv"
    validation = root / "data" / "validation" / "validation.json"
    return {
        "splits": dict(Counter(row["split"] for row in images)),
        "rejected": [row for row in images if row["split"] == "rejected"],
        "quarantine": read_table(
            quarantine, {"address": str, "reason": str}, next_step="run `dvc repro --force ingest`"
        ),
        "patches": len(PatchShards(curated)),
        "validation": read_as(list[Expectation], validation, next_step="run `dvc repro --force validate`"),
    }
