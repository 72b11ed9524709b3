"""What of each recipe works where, as Markdown: in the training, in the evaluation and the gate, as it is served."""

from pathlib import Path
from typing import Any

from relume.counts import counted
from relume.evaluation.tasks import TASKS
from relume.inference.plan import Inference
from relume.params import PretrainSettings
from relume.recipes.recipe import Recipe, load, names, resolve
from relume.settings import validated
from relume.training.config import StageSettings, TrainingSettings
from relume.training.stages import EnsembleHeadSettings, FinetuneSettings


def practices_table(folder: Path) -> str:
    """A row for each recipe at its published scale, `full`.

    Args:
        folder: Of the recipes.
    """
    heads = (
        "recipe and its source",
        "trained",
        "evaluated and gated on",
        "evaluated, gated, exported and served",
        "not as published",
    )
    rows = [heads, ("---",) * len(heads)]
    for recipe in (load(name, folder) for name in names(folder)):
        sections = resolve(recipe.name, "full", folder)
        plan = validated(Inference, sections["inference"])
        rows.append(
            (
                f"`{recipe.name}`: {recipe.source}",
                _training(sections),
                _measured(recipe, sections["evaluate"]["levels"]),
                f"as `{recipe.product_name}` in {plan}; {plan.runs_per_megapixel:.0f} runs a megapixel",
                " ".join(recipe.deviations),
            )
        )
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _training(sections: dict[str, Any]) -> str:
    """The trainings, such as `nafnet in 1 phase of side 256; the hardest 30% in 1 phase of side 256`, and on what."""
    training = validated(TrainingSettings, sections["training"])
    pretrain, head, finetune = (
        validated(PretrainSettings, sections["pretrain"]),
        validated(EnsembleHeadSettings, sections["ensemble_head"]),
        validated(FinetuneSettings, sections["finetune_hard"]),
    )
    stages: dict[str, StageSettings] = dict(pretrain.bases)
    if head.fusion:
        stages[f"fusion `{head.fusion.architecture}`"] = head
    if finetune.phases:
        share = sections["mine_hard"]["fraction"]
        stages[f"the hardest {share:.0%}" if share < 1 else "all patches"] = finetune
    found = {name: stage.resolved(training) for name, stage in stages.items()}
    learned = {name: _degradations(stage) for name, stage in found.items() if stage.phases}
    same = len(set(learned.values())) == 1
    parts = [
        f"{name} {_phases(stage)}" + ("" if same or name not in learned else f" on {learned[name]}")
        for name, stage in found.items()
    ]
    return "; ".join(parts) + (f". On {next(iter(learned.values()))}" if same else "")


def _degradations(stage: StageSettings) -> str:
    return ", then on ".join(dict.fromkeys(f"{phase.degradation}" for phase in stage.phases))


def _phases(stage: StageSettings) -> str:
    if not stage.phases:
        return "as it is"
    sides = sorted({phase.patch for phase in stage.phases})
    span = f"{sides[0]} to {sides[-1]}" if len(sides) > 1 else f"{sides[0]}"
    return f"in {counted(len(stage.phases), 'phase')} of side {span}"


def _measured(recipe: Recipe, levels: dict[str, list[float]]) -> str:
    """Each degradation of the task with its levels, such as `clipped: sigma 50`."""
    parts = []
    for degradation in TASKS[recipe.task].degradations:
        if chosen := levels.get(degradation.parameter, degradation.levels):
            parts.append(
                f"{degradation.protocols[0]}: {degradation.parameter} {', '.join(f'{level:g}' for level in chosen)}"
            )
    return "; ".join(parts)
