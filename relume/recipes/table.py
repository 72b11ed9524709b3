"""What of each recipe works where, as Markdown: in the training, in the evaluation and the gate, as it is served."""

from pathlib import Path
from typing import Any

from relume.counts import counted
from relume.evaluation.tasks import TASKS
from relume.inference.plan import Inference
from relume.recipes.recipe import Recipe, load, names, resolve
from relume.settings import validated


def practices_table(folder: Path) -> str:
    """A row for each recipe at its published scale, `full`.

    Args:
        folder: Of the recipes.
    """
    heads = ("recipe", "trained", "evaluated and gated on", "evaluated, gated, exported and served", "not as published")
    rows = [heads, ("---",) * len(heads)]
    for recipe in (load(name, folder) for name in names(folder)):
        sections = resolve(recipe.name, "full", folder)
        plan = validated(Inference, sections["inference"])
        rows.append(
            (
                f"`{recipe.name}`",
                _training(sections),
                _measured(recipe, sections["evaluate"]["levels"]),
                f"as `{recipe.product_name}` in {plan}; {plan.runs_per_megapixel:.0f} runs a megapixel",
                " ".join(recipe.deviations),
            )
        )
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _training(sections: dict[str, Any]) -> str:
    """The trainings, such as `nafnet in 1 phase of side 256; the hardest 30% in 1 phase of side 256`."""
    parts = [f"{name} {_phases(base)}" for name, base in sections["pretrain"]["bases"].items()]
    head, finetune = sections["ensemble_head"], sections["finetune_hard"]
    if head["fusion"]:
        parts.append(f"fusion `{head['fusion']['architecture']}` {_phases(head) if head['phases'] else 'as it is'}")
    if finetune["phases"]:
        share = sections["mine_hard"]["fraction"]
        parts.append(f"{f'the hardest {share:.0%}' if share < 1 else 'all patches'} {_phases(finetune)}")
    return "; ".join(parts)


def _phases(stage: dict[str, Any]) -> str:
    sides = sorted({phase["patch"] for phase in stage["phases"]})
    span = f"{sides[0]} to {sides[-1]}" if len(sides) > 1 else f"{sides[0]}"
    return f"in {counted(len(stage['phases']), 'phase')} of side {span}"


def _measured(recipe: Recipe, levels: dict[str, list[float]]) -> str:
    """Each degradation of the task with its levels, such as `sigma 50`."""
    parts = []
    for degradation in TASKS[recipe.task].degradations:
        if chosen := levels.get(degradation.parameter, degradation.levels):
            parts.append(f"{degradation.parameter} {', '.join(f'{level:g}' for level in chosen)}")
    return "; ".join(parts)
