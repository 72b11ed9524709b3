"""python -m components.package: weights, served model, metrics and lineage in package/."""

import shutil
from typing import Any

from components.step import run_component
from relume.evaluation.card import read_metrics
from relume.evaluation.settings import EvaluateSettings
from relume.files import atomic_folder, sha256_file, sha256_folder, write_json
from relume.models.artifact import load_card
from relume.params_file import load_section
from relume.reading import reading
from relume.serving.settings import PackageSettings


def main() -> None:
    """Reads `package`, `evaluate` and the results of the stages before; writes package/."""
    params, evaluate = load_section("package", PackageSettings), load_section("evaluate", EvaluateSettings)
    with atomic_folder("package") as folder:
        shutil.copytree("models/final", folder / "model")
        shutil.copytree("models/exported", folder / "serving")
        shutil.copytree("reports/evaluation", folder / "evaluation")
        metrics = read_metrics("reports/metrics.json")
        write_json(folder / "evaluation" / "metrics.json", metrics)
        write_json(folder / "lineage.json", _lineage())
        with reading("reports/metrics.json", next_step="run `dvc repro --force evaluate`"):
            figures = {
                level: value["psnr"]
                for degradation, _ in evaluate.measured()
                for level, value in metrics[degradation.protocols[0]]["final"].items()
            }
        facts: dict[str, Any] = {
            "product": params.product,
            "architecture": load_card("models/final").architecture,
            "figures": figures,
            "sha256": sha256_folder(folder),
        }
        write_json(folder / "package.json", facts)
    print(f"package  {params.product} {facts['sha256'][:8]}  {facts['figures']}", flush=True)


def _lineage() -> dict[str, Any]:
    """What the model was made of. Registration adds the run's commit, its params.yaml and its dvc.lock."""
    return {"sources_sha256": sha256_file("sources.json"), "training": load_card("models/final").provenance}


run_component(main)
