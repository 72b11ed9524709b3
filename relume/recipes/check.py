"""Checks a recipe without training: its settings are valid, its networks can be built and fed, its stages fit together.

Networks are built on torch's meta device, which takes no memory, so that the published sizes are checked anywhere.
"""

import copy
import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from relume.errors import ConfigError
from relume.inference.plan import Inference
from relume.params_file import RECIPE
from relume.recipes.recipe import FOLDER, MERGED, Recipe, resolve, shared_keys
from relume.settings import fields, mentioned, problems, validated

if TYPE_CHECKING:
    from torch import nn

    from relume.evaluation.settings import EvaluateSettings
    from relume.params import Params
    from relume.training.config import BaseModelSettings, Phase, StageSettings, TrainingSettings
    from relume.training.stages import EnsembleHeadSettings, FinetuneSettings, MiningSettings

# What a network may raise when its arguments do not fit together or an image does not fit it.
UNFIT = (ConfigError, RuntimeError, ValueError, TypeError, AssertionError, IndexError)
SMALL = 5_000_000  # parameters of a network that runs in a moment


@dataclass(frozen=True, kw_only=True)
class StageSize:
    """How much one stage trains.

    Attributes:
        stage: Its name in the graph.
        parameters: Of the network.
        trained: Of these, the ones that its training moves.
        steps: Optimiser steps.
        samples: Crops that it sees.
    """

    stage: str
    parameters: int
    trained: int
    steps: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """One stage that trains.

    Attributes:
        size: How much.
        phases: Its phases.
        network: The network on the meta device; what is frozen requires no gradient.
    """

    size: StageSize
    phases: "Sequence[Phase]"
    network: "nn.Module"


@dataclass(kw_only=True)
class Report:
    """What was found.

    Attributes:
        recipe: Its name.
        scale: Of the recipe.
        trainings: The stages that train.
        problems: What is wrong; empty when nothing is.
        inference: How the model restores; None where what the recipe says of it is wrong.
    """

    recipe: str
    scale: str
    trainings: list[Training] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    inference: Inference | None = None

    @property
    def sizes(self) -> list[StageSize]:
        """Of the stages that train."""
        return [training.size for training in self.trainings]

    def line(self) -> str:
        """One line: recipe, scale, size of the largest network, steps and samples of all stages."""
        parameters = max((size.parameters for size in self.sizes), default=0)
        steps, samples = sum(size.steps for size in self.sizes), sum(size.samples for size in self.sizes)
        counts = f"{parameters:>11,} parameters {steps:>9,} steps {samples:>10,} samples"
        return f"{self.recipe:<18} {self.scale:<5} {counts}  {'wrong' if self.problems else 'ok'}"


def check(name: str, scale: str, folder: Path = FOLDER) -> Report:
    """Checks one recipe at one scale.

    Raises:
        ConfigError: Recipe or scale are unknown, or the file is not a recipe.
    """
    from relume.evaluation.settings import EvaluateSettings
    from relume.params import Params

    sections = resolve(name, scale, folder)
    report = Report(recipe=name, scale=scale)
    for section, keys in shared_keys(folder).items():
        if alien := sorted(sections[section].keys() - keys - {"task"}):
            report.problems.append(
                f"{section}: recipes may set only the keys of defaults.yaml, which lacks {', '.join(alien)}"
            )

    settings: dict[str, Any] = {}
    for section, value in sections.items():
        (model,) = mentioned(fields(Params)[section])
        try:
            settings[section] = validated(model, value)
        except ValidationError as error:
            found = problems(error, model, at=(section,))
            # A recipe sets only some keys of a merged section.
            report.problems += [line for line in found if section not in MERGED or not line.endswith(" is missing")]
    if not report.problems:
        stages = (settings[section] for section in ("ensemble_head", "mine_hard", "finetune_hard"))
        curate, inference = sections["curate"], settings["inference"]
        report.inference = inference
        evaluate = EvaluateSettings(seed=0, threads=1, **sections["evaluate"])
        _Check(report, curate["patch"], curate["held_out_side"], inference, evaluate, settings["training"]).run(
            settings["pretrain"].bases, *stages
        )
    return report


def check_params(params: "Params") -> Report:
    """What `check` finds in a recipe, for the recipe in use with every change made by hand.

    Each problem begins with its stage: a run would fail there, or serve badly.
    """
    report = Report(recipe=RECIPE, scale="")
    stages = params.ensemble_head, params.mine_hard, params.finetune_hard
    curate, inference = params.curate, params.inference
    _Check(report, curate.patch, curate.held_out_side, inference, params.evaluate, params.training).run(
        params.pretrain.bases, *stages
    )
    return report


def require_sound(name: str, scale: str, folder: Path = FOLDER) -> Report:
    """Refuses a recipe that has problems; the report of one that has none.

    Raises:
        ConfigError: Names every problem.
    """
    report = check(name, scale, folder)
    if report.problems:
        why = "".join(f"\n        {problem}" for problem in report.problems)
        raise ConfigError(
            "The recipe has problems", where=f"{name} at {scale}", why=why, next_step=f"correct {folder / name}.yaml"
        )
    return report


def render(recipe: Recipe, reports: list[Report]) -> str:
    """All that is known of a recipe, as text for a terminal.

    Args:
        recipe: The recipe.
        reports: Of its scales.
    """
    lines = [
        f"{recipe.name}: {recipe.title}",
        f"  source  {recipe.source}",
        f"  task    {recipe.task}",
        f"  product {recipe.product_name}",
        "",
    ]
    for ambiguity in recipe.ambiguities:
        lines += [f"  open: {ambiguity.topic}", f"      here: {ambiguity.default}"]
        lines += [f"      or:   {alternative}" for alternative in ambiguity.alternatives]
    lines += [f"  different from the publication: {deviation}" for deviation in recipe.deviations]
    heads = ("scale", "stage", "parameters", "trained", "steps", "samples")
    lines += ["", "  {:<6}{:<20}{:>12}{:>12}{:>11}{:>12}".format(*heads)]
    for report in reports:
        for size in report.sizes:
            counts = "".join(f"{n:>{w},}" for n, w in _widths(size))
            lines.append(f"  {report.scale:<6}{size.stage:<20}{counts}")
        if report.inference:
            runs = report.inference.runs_per_megapixel
            lines.append(f"  {report.scale:<6}restores in {report.inference}; {runs:.0f} runs a megapixel")
        lines += [f"  {report.scale:<6}wrong: {problem}" for problem in report.problems]
    return "\n".join(lines) + "\n"


def _widths(size: StageSize) -> list[tuple[int, int]]:
    return [(size.parameters, 12), (size.trained, 12), (size.steps, 11), (size.samples, 12)]


@dataclass(frozen=True)
class _Check:
    report: Report
    patch: int
    held_out_side: int
    inference: Inference
    evaluate: "EvaluateSettings"
    training: "TrainingSettings"

    def problem(self, text: str) -> None:
        self.report.problems.append(text)

    def run(
        self,
        bases: dict[str, "BaseModelSettings"],
        head: "EnsembleHeadSettings",
        mining: "MiningSettings",
        finetune: "FinetuneSettings",
    ) -> None:
        from relume.models.bias_adaptation import plan_biases
        from relume.models.fusion.assembly import plan_fusion, restoring
        from relume.training.rules import level_problems, scale_problems

        built = 0
        for name, base in bases.items():
            network = self.built(f"pretrain@{name}", base.architecture, base.arguments)
            if network is not None:
                built += 1
                self.stage(f"pretrain@{name}", base, network)
        self.estimator(set(bases) - set(restoring(bases)))
        if built < len(bases):
            return
        try:
            plan = plan_fusion(head.fusion, restoring(bases))
        except ConfigError as error:
            self.problem(f"ensemble_head: {_line(error)}")
            return
        for option, names in {
            "fusion": self.inference.fusion.members if self.inference.fusion else (),
            "members": tuple(sorted(self.inference.members)),
        }.items():
            if names and tuple(sorted(plan.parts.values())) != names:
                self.problem(f"inference: {option} takes {' and '.join(names)}, which are not the base models")
        network = self.built("ensemble_head", plan.architecture, plan.arguments)
        if network is None:
            return
        ensemble = copy.deepcopy(network)
        plan.freeze(ensemble)
        self.stage("ensemble_head", head, ensemble)
        for rule in (level_problems, scale_problems):
            for found in rule(mining.degradation, network, where="degradation"):
                self.problem(f"mine_hard: {_line(found)}")
        final: nn.Module | None = network
        if finetune.adapt == "biases":
            final = self.built("finetune_hard", "bias_adapted", plan_biases(plan.architecture, plan.arguments))
        elif finetune.adapt is not None:
            final = self.built("finetune_hard", plan.architecture, finetune.arguments(plan.arguments))
        if final is not None:
            self.stage("finetune_hard", finetune, final)
            self.served(final)

    def built(self, stage: str, architecture: str, arguments: dict[str, Any]) -> "nn.Module | None":
        """The network, or None and a problem."""
        try:
            return _network(architecture, json.dumps(arguments))
        except UNFIT as error:
            self.problem(f"{stage}: {architecture} cannot be built or run: {error}")
            return None

    def stage(self, stage: str, settings: "StageSettings", network: "nn.Module") -> None:
        """Checks the training of a network's trainable parameters, and notes its size."""
        from relume.training.rules import problems

        resolved = settings.resolved(self.training)
        for error in problems(resolved, network, ranks=self.training.processes, side=self.patch):
            self.problem(f"{stage}: {_line(error)}")
        if settings.phases:
            size = StageSize(
                stage=stage,
                parameters=_count(network.parameters()),
                trained=_count(parameter for parameter in network.parameters() if parameter.requires_grad),
                steps=settings.steps,
                samples=sum(phase.steps * phase.batch for phase in settings.phases),
            )
            self.report.trainings.append(Training(size=size, phases=settings.phases, network=network))

    def estimator(self, level_estimators: set[str]) -> None:
        """Checks that what is trained to estimate the level is what does."""
        if level_estimators != {self.inference.estimator} - {None}:
            self.problem(
                f"inference: estimator is {self.inference.estimator}, but the base models that estimate a level are:"
                f" {', '.join(sorted(level_estimators)) or 'none'}"
            )

    def served(self, network: "nn.Module") -> None:
        """Checks the tiles."""
        from relume.models.registry import inputs_of, scale_of
        from relume.training.rules import crop_multiple

        multiple = crop_multiple(network)
        for option in ("fusion", "members"):
            if getattr(self.inference, option) and type(network).__name__ != "WeightedAverage":
                self.problem(f"inference: {option} is set, but the final model is no weighted average of base models")
        if self.inference.passes > 1 and not getattr(network, "attention_mask_ratio", 0):
            self.problem("inference: passes is set, but the network has no masks outside of training")
        if self.inference.scale != (scale := scale_of(network)):
            self.problem(f"inference: scale is {self.inference.scale}, but that of the network is {scale}")
        elif problem := self.evaluate.scale_problem(scale):
            self.problem(f"evaluate: {problem}")
        if self.inference.estimator and "level" not in inputs_of(network):
            self.problem("inference: estimator is set, but the network takes no level")
        for tile in self.inference.tiles:
            if tile % multiple:
                self.problem(f"inference: tile {tile} is not a multiple of {multiple}, as the network needs")
            if (side := scale * tile) > self.held_out_side:
                restored = f"restored tile {side}" if scale > 1 else f"tile {tile}"
                self.problem(
                    f"inference: {restored} is larger than a held-out photograph, whose"
                    f" curate.held_out_side is {self.held_out_side}; raise that to {side} at least"
                )


@functools.cache
def _network(architecture: str, arguments_json: str) -> "nn.Module":
    """A network on the meta device. A small one restores a crop on the CPU before; the published ones are known to."""
    import torch

    from relume.models.registry import Variant, build
    from relume.models.table import example_inputs
    from relume.training.rules import crop_multiple

    arguments = json.loads(arguments_json)
    with torch.device("meta"):
        network = build(architecture, arguments)
    if _count(network.parameters()) <= SMALL:
        variant = Variant(architecture=architecture, arguments=arguments, about="")
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            small = build(architecture, arguments).eval()
            small(*example_inputs(variant, small, math.lcm(crop_multiple(small), 16), "cpu"))
    return network


def _line(error: ConfigError) -> str:
    """An error as one line, without what to do next."""
    return f"{error.what}: {error.where}" + (f" ({error.why})" if error.why else "")


def _count(parameters: "Iterable[nn.Parameter]") -> int:
    return sum(parameter.numel() for parameter in parameters)
