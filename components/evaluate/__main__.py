"""python -m components.evaluate: metrics, curves and images into reports/."""

import csv
import itertools
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch

from components.step import run_component
from components.tracking import StageRun
from relume.errors import SourceError
from relume.evaluation.card import PAIRED, PAIRS
from relume.evaluation.held_out import (
    Score,
    evaluate_held_out,
    evaluate_pairs,
    held_out_pairs,
    open_pairs,
    photographs,
    protocol_of,
    summarize,
)
from relume.evaluation.networks import level_estimate
from relume.evaluation.settings import EvaluateSettings
from relume.files import atomic_file, atomic_folder, write_json
from relume.images import save_image
from relume.inference.plan import Inference
from relume.models.artifact import load_card, load_model
from relume.params_file import load_section
from relume.serving.export import levels_of

TEST = Path("data/curated/held_out/test")


def main() -> None:
    """Reads `evaluate`, `inference`, the models and the held-out photographs; writes reports/."""
    params, inference = load_section("evaluate", EvaluateSettings), load_section("inference", Inference)
    torch.set_num_threads(params.threads)
    clean = photographs(TEST)
    if not clean:
        raise SourceError("There are no held-out photographs", where=TEST, next_step="run `dvc repro curate`")
    tile = inference.scale * max(inference.tiles)
    if small := {name: image.shape[:2] for name, image in clean.items() if min(image.shape[:2]) < tile}:
        print(
            f"evaluate  {len(small)} of {len(clean)} photographs are smaller than the tile of {tile} pixels,"
            " and are measured in smaller tiles; raise curate.held_out_side, or list larger photographs",
            flush=True,
        )
    pairs = None if params.pairs is None else open_pairs(params.pairs)
    held_out = held_out_pairs(TEST)
    if inference.scale > 1 and (pairs or held_out):
        print(
            "evaluate  pairs are not measured: both images of one have the same size, and the model enlarges",
            flush=True,
        )
        pairs, held_out = None, []
    bases = {path.name: load_model(path) for path in sorted(Path("models/bases").glob("[!.]*"))}
    estimate = level_estimate(bases.pop(inference.estimator)) if inference.estimator else None
    networks = {f"base:{name}": network for name, network in bases.items()}
    networks |= {"ensemble": load_model("models/ensemble"), "final": load_model("models/final")}

    levels = levels_of(networks["final"], load_card("models/final"))
    task, (degradation, measured) = params.the_task, next(params.measured())
    foremost = degradation.protocols[0], degradation.strongest(measured)
    shown = [
        task.input,
        *([task.baseline] if task.baseline != "input" else []),
        "final",
        *(["blind"] if estimate else []),
    ]
    if levels and levels.kind != degradation.parameter:
        print(
            f"evaluate  the final model takes a {levels.kind}, which is not what the task {params.task} varies; it"
            f" restores at its default, {levels.default:g}",
            flush=True,
        )
    scores: list[Score] = []
    with StageRun("evaluate", params.model_dump(mode="json")) as run, atomic_folder("reports/evaluation") as folder:
        for image_id, image in clean.items():
            save_image(folder / "pictures" / f"{image_id}_clean.png", image)
        runs = evaluate_held_out(clean, networks, params, inference, levels=levels, estimate=estimate)
        if held_out:
            found = evaluate_pairs(
                lambda: held_out, networks["final"], params, inference, PAIRED, levels=levels, estimate=estimate
            )
            runs = itertools.chain(runs, found)
        if pairs is not None:
            found = evaluate_pairs(
                pairs.examples, networks["final"], params, inference, PAIRS, levels=levels, estimate=estimate
            )
            runs = itertools.chain(runs, found)
        for row, images in runs:
            scores += row
            first = row[0]
            if (first.protocol, first.level) == foremost:
                for system in shown:
                    save_image(folder / "pictures" / f"{first.image_id}_{system}.png", images[system])
            psnr = {score.system: score.psnr for score in row}
            real = first.protocol in (PAIRS, PAIRED)
            parameter = "sigma" if real else protocol_of(first.protocol).parameter
            print(
                f"evaluate  {first.image_id}  {parameter} {first.level:g} {first.protocol}:"
                + "".join(f"  {system} {psnr[system]:.2f}" for system in shown if system in psnr)
                + " dB",
                flush=True,
            )
        with open(folder / "per_image.csv", "w", encoding="utf-8", newline="") as file:
            columns = [field.name for field in fields(Score) if estimate or field.name != "estimated"]
            writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            for score in scores:
                writer.writerow(asdict(score) | {"psnr": f"{score.psnr:.4f}", "ssim": f"{score.ssim:.4f}"})
        summary = summarize(scores)
        write_json("reports/metrics.json", summary)
        _write_curves(scores, foremost[0], but=inference.estimator)
        run.log(0, _flat(summary))
        run.log_files(folder)


def _write_curves(scores: list[Score], protocol: str, *, but: str | None) -> None:
    """The plots' data: PSNR over the level by system under a protocol, and the validation PSNR of every training.

    Args:
        scores: Of all systems.
        protocol: The one.
        but: A base model that has no PSNR.
    """
    with atomic_folder("reports/curves") as folder:
        with open(folder / "psnr_by_level.csv", "w", encoding="utf-8") as file:
            file.write("system,level,psnr\n")
            measured = [score for score in scores if score.protocol == protocol]
            for system in dict.fromkeys(score.system for score in measured):
                for level in dict.fromkeys(score.level for score in measured):
                    values = [score.psnr for score in measured if (score.system, score.level) == (system, level)]
                    file.write(f"{system},{level:g},{np.mean(values):.4f}\n")
        for history in sorted(Path("models").glob("**/history.csv")):
            if history.parent.name == but:
                continue
            with atomic_file(folder / f"training_{history.parent.name}.csv") as temporary:
                shutil.copyfile(history, temporary)


def _flat(summary: dict) -> dict[str, float]:
    """Metric names as MLflow takes them: `clipped/final/sigma_50/psnr`; a colon becomes a dot."""
    return {
        f"{protocol}/{system.replace(':', '.')}/{level}/{name}": value
        for protocol, systems in summary.items()
        for system, levels in systems.items()
        for level, metrics in levels.items()
        for name, value in metrics.items()
    }


run_component(main)
