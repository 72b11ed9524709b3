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
from relume.evaluation.held_out import Score, evaluate_held_out, evaluate_pairs, open_pairs, photographs, summarize
from relume.evaluation.settings import EvaluateSettings
from relume.files import atomic_file, atomic_folder, write_json
from relume.images import save_image
from relume.inference.plan import Inference
from relume.models.artifact import load_card, load_model
from relume.params_file import load_section
from relume.serving.levels import kind_of

TEST = Path("data/curated/held_out/test")
PICTURED = ("noisy", "nlm", "final")


def main() -> None:
    """Reads `evaluate`, `inference`, the models and the held-out photographs; writes reports/."""
    params, inference = load_section("evaluate", EvaluateSettings), load_section("inference", Inference)
    torch.set_num_threads(params.threads)
    clean = photographs(TEST)
    if not clean:
        raise SourceError("There are no held-out photographs", where=TEST, next_step="run `dvc repro curate`")
    if small := {name: image.shape[:2] for name, image in clean.items() if min(image.shape[:2]) < inference.tile}:
        print(
            f"evaluate  {len(small)} of {len(clean)} photographs are smaller than the tile of {inference.tile} pixels,"
            " and are measured in smaller tiles; raise curate.held_out_side, or list larger photographs",
            flush=True,
        )
    pairs = None if params.pairs is None else open_pairs(params.pairs)
    networks = {f"base:{path.name}": load_model(path) for path in sorted(Path("models/bases").glob("[!.]*"))}
    networks |= {"ensemble": load_model("models/ensemble"), "final": load_model("models/final")}

    kind = kind_of(load_card("models/final").trained_for)
    if kind != "sigma":
        print(
            f"evaluate  the final model takes a {kind}, but these metrics are of Gaussian noise and do not"
            " apply to it; measure it with `relume evaluate`",
            flush=True,
        )
    scores: list[Score] = []
    with StageRun("evaluate", params.model_dump(mode="json")) as run, atomic_folder("reports/evaluation") as folder:
        for image_id, image in clean.items():
            save_image(folder / "pictures" / f"{image_id}_clean.png", image)
        runs = evaluate_held_out(
            clean,
            networks,
            sigmas=params.sigmas,
            inference=inference,
            seed=params.seed,
            bm3d=params.bm3d,
        )
        if pairs is not None:
            found = evaluate_pairs(pairs.examples(), networks["final"], inference, bm3d=params.bm3d)
            runs = itertools.chain(runs, found)
        for row, images in runs:
            scores += row
            first = row[0]
            if first.protocol == "clipped" and first.sigma == max(params.sigmas):
                for system in PICTURED:
                    save_image(folder / "pictures" / f"{first.image_id}_{system}.png", images[system])
            psnr = {score.system: score.psnr for score in row}
            print(
                f"evaluate  {first.image_id}  sigma {first.sigma:g} {first.protocol}:"
                f"  noisy {psnr['noisy']:.2f}  nlm {psnr['nlm']:.2f}  final {psnr['final']:.2f} dB",
                flush=True,
            )
        with open(folder / "per_image.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Score)], lineterminator="\n")
            writer.writeheader()
            for score in scores:
                writer.writerow(asdict(score) | {"psnr": f"{score.psnr:.4f}", "ssim": f"{score.ssim:.4f}"})
        summary = summarize(scores)
        write_json("reports/metrics.json", summary)
        _write_curves(scores)
        run.log(0, _flat(summary))
        run.log_files(folder)


def _write_curves(scores: list[Score]) -> None:
    """The plots' data: PSNR over sigma by system, and the validation PSNR of every training."""
    with atomic_folder("reports/curves") as folder:
        with open(folder / "psnr_by_sigma.csv", "w", encoding="utf-8") as file:
            file.write("system,sigma,psnr\n")
            clipped = [score for score in scores if score.protocol == "clipped"]
            for system in dict.fromkeys(score.system for score in clipped):
                for sigma in dict.fromkeys(score.sigma for score in clipped):
                    values = [score.psnr for score in clipped if (score.system, score.sigma) == (system, sigma)]
                    file.write(f"{system},{sigma:g},{np.mean(values):.4f}\n")
        for history in sorted(Path("models").glob("**/history.csv")):
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
