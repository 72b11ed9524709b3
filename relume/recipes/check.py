"""Checks a recipe without training: its settings are valid, its networks can be built and fed, its stages fit together.

Networks are built on torch's meta device, which takes no memory, so that the published sizes are checked anywhere.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from relume.errors import ConfigError
from relume.recipes.params_file import MERGED
from relume.recipes.recipe import FOLDER, Recipe, resolve, shared_keys
from relume.settings import fields, mentioned, problems, validated

if TYPE_CHECKING:
    from torch import nn

    from relume.degradations import Degradation
    from relume.training.config import BaseModelSettings, StageSettings, TrainingSettings
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


@dataclass(kw_only=True)
class Report:
    """What was found.

    Attributes:
        recipe: Its name.
        scale: Of the recipe.
        sizes: Of the stages that train.
        problems: What is wrong; empty when nothing is.
    """

    recipe: str
    scale: str
    sizes: list[StageSize] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line: recipe, scale, size of the largest network, steps and samples of all stages."""
        parameters = max((size.parameters for size in self.sizes), default=0)
        steps, samples = sum(size.steps for size in self.sizes), sum(size.samples for size in self.sizes)
        figures = f"{parameters:>11,} parameters {steps:>9,} steps {samples:>10,} samples"
        return f"{self.recipe:<18} {self.scale:<5} {figures}  {'wrong' if self.problems else 'ok'}"


def check(name: str, scale: str, folder: Path = FOLDER) -> Report:
    """Checks one recipe at one scale.

    Raises:
        ConfigError: Recipe or scale are unknown, or the file is not a recipe.
    """
    from relume.params import Params

    sections = resolve(name, scale, folder)
    report = Report(recipe=name, scale=scale)
    for section, keys in shared_keys(folder).items():
        if alien := sorted(sections[section].keys() - keys):
            report.problems.append(f"{section}: defaults.yaml does not give {', '.join(alien)}")

    settings: dict[str, Any] = {}
    for section, value in sections.items():
        (model,) = mentioned(fields(Params)[section])
        try:
            settings[section] = validated(model, value)
        except ValidationError as error:
            found = problems(error, model, at=(section,))
            # Of a merged section a recipe gives a part.
            report.problems += [line for line in found if section not in MERGED or not line.endswith(" is missing")]
    if not report.problems:
        stages = (settings[section] for section in ("ensemble_head", "mine_hard", "finetune_hard"))
        _Check(report, sections, settings["training"]).run(settings["pretrain"].bases, *stages)
    return report


def require_sound(name: str, scale: str, folder: Path = FOLDER) -> None:
    """Refuses a recipe that has problems.

    Raises:
        ConfigError: Names every problem.
    """
    if found := check(name, scale, folder).problems:
        why = "".join(f"\n        {problem}" for problem in found)
        raise ConfigError(
            "The recipe has problems", where=f"{name} at {scale}", why=why, next_step=f"correct {folder / name}.yaml"
        )


def render(recipe: Recipe, reports: list[Report]) -> str:
    """All that is known of a recipe, as text for a terminal.

    Args:
        recipe: The recipe.
        reports: Of its scales.
    """
    lines = [f"{recipe.name}: {recipe.title}", f"  source  {recipe.source}", f"  task    {recipe.task}", ""]
    for ambiguity in recipe.ambiguities:
        lines += [f"  open: {ambiguity.topic}", f"      here: {ambiguity.default}"]
        lines += [f"      or:   {alternative}" for alternative in ambiguity.alternatives]
    lines += [f"  otherwise than published: {deviation}" for deviation in recipe.deviations]
    heads = ("scale", "stage", "parameters", "trained", "steps", "samples")
    lines += ["", "  {:<6}{:<20}{:>12}{:>12}{:>11}{:>12}".format(*heads)]
    for report in reports:
        for size in report.sizes:
            counts = "".join(f"{n:>{w},}" for n, w in _widths(size))
            lines.append(f"  {report.scale:<6}{size.stage:<20}{counts}")
        lines += [f"  {report.scale:<6}wrong: {problem}" for problem in report.problems]
    return "\n".join(lines) + "\n"


def _widths(size: StageSize) -> list[tuple[int, int]]:
    return [(size.parameters, 12), (size.trained, 12), (size.steps, 11), (size.samples, 12)]


@dataclass(frozen=True)
class _Check:
    report: Report
    sections: dict[str, Any]
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
        networks = {}
        for name, base in bases.items():
            network = self.built(f"pretrain@{name}", base.architecture, base.arguments)
            if network is not None:
                networks[name] = network
                self.stage(f"pretrain@{name}", base, network, dict(network.named_parameters()))
        if len(networks) < len(bases):
            return
        fused = self.fused(bases, networks, head)
        if fused is None:
            return
        architecture, arguments, network = fused
        trained = dict(network.named_parameters())
        if head.fusion is not None and architecture != "src_b":  # whose members are one network; others are frozen
            trained = {name: value for name, value in trained.items() if not name.startswith(("bases.", "members."))}
        self.stage("ensemble_head", head, network, trained)
        for text in _levels_differ(mining.degradation, network):
            self.problem(f"mine_hard: {text}")
        final, trained = network, dict(network.named_parameters())
        if finetune.adapt == "biases":
            from relume.models.bias_adaptation import RESTORMER_WITHOUT

            without = RESTORMER_WITHOUT if architecture == "restormer" else []
            wrapped = {"architecture": architecture, "arguments": arguments, "without": without}
            adapted = self.built("finetune_hard", "bias_adapted", wrapped)
            if adapted is None:
                return
            final, trained = adapted, {name: value for name, value in adapted.named_parameters() if value.requires_grad}
            if not trained:
                self.problem("finetune_hard: the network has no bias-free convolution to adapt")
        self.stage("finetune_hard", finetune, final, trained)
        self.served(final)

    def built(self, stage: str, architecture: str, arguments: dict[str, Any]) -> "nn.Module | None":
        """The network, or None and a problem."""
        try:
            return _network(architecture, json.dumps(arguments))
        except UNFIT as error:
            self.problem(f"{stage}: {architecture} cannot be built or run: {error}")
            return None

    def fused(
        self, bases: dict[str, "BaseModelSettings"], networks: dict[str, "nn.Module"], head: "EnsembleHeadSettings"
    ) -> tuple[str, dict[str, Any], "nn.Module"] | None:
        """Architecture, arguments and network that the ensemble stage hands on."""
        if head.fusion is None:
            if len(bases) == 1:
                ((name, base),) = bases.items()
                return base.architecture, base.arguments, networks[name]
            self.problem(f"ensemble_head: no fusion for the {len(bases)} bases {', '.join(bases)}")
            return None
        from relume.models.fusion.assembly import BY_ARCHITECTURE, SIDE_BY_SIDE

        architecture, given = head.fusion.architecture, head.fusion.arguments
        found = sorted(bases.items())  # the stage takes them by the names of their folders
        if architecture in BY_ARCHITECTURE:
            by_architecture = {base.architecture: base.arguments for _, base in found}
            wanted = BY_ARCHITECTURE[architecture]
            if sorted(wanted.values()) != sorted(base.architecture for base in bases.values()):
                self.problem(f"ensemble_head: {architecture} needs one base each of {', '.join(wanted.values())}")
                return None
            arguments = given | {name: by_architecture[member] for name, member in wanted.items()}
        elif architecture in SIDE_BY_SIDE:
            members = [{"architecture": base.architecture, "arguments": base.arguments} for _, base in found]
            arguments = given | {"bases": members}
            if len(given.get("weights", members)) != len(members):
                self.problem(f"ensemble_head: {len(given['weights'])} weights for {len(members)} bases")
                return None
        else:
            self.problem(f"ensemble_head: {architecture} is no fusion")
            return None
        network = self.built("ensemble_head", architecture, arguments)
        return None if network is None else (architecture, arguments, network)

    def stage(
        self, stage: str, settings: "StageSettings", network: "nn.Module", trained: dict[str, "nn.Parameter"]
    ) -> None:
        """Checks the phases against the network and its trainable parameters, and notes their size."""
        for text in (
            *self.phases(settings, network, trained),
            *self.schedules(settings),
            *self.method(settings, network),
        ):
            self.problem(f"{stage}: {text}")
        if settings.phases:
            size = StageSize(
                stage=stage,
                parameters=_count(network.parameters()),
                trained=_count(trained.values()),
                steps=settings.steps,
                samples=sum(phase.steps * phase.batch for phase in settings.phases),
            )
            self.report.sizes.append(size)

    def phases(self, settings: "StageSettings", network: "nn.Module", trained: Iterable[str]) -> Iterator[str]:
        multiple, largest = crop_multiple(network), self.sections["curate"]["patch"]
        for number, phase in enumerate(settings.phases, 1):
            if phase.patch % multiple:
                yield f"phase {number}: patch {phase.patch} is no multiple of the network's {multiple}"
            if phase.patch > largest:
                yield f"phase {number}: patch {phase.patch} is larger than curate.patch {largest}"
            if phase.batch % (self.training.processes * phase.accumulate):
                parts = f"{self.training.processes} processes times accumulate {phase.accumulate}"
                yield f"phase {number}: batch {phase.batch} does not divide by {parts}"
            for pattern in phase.train:
                if not any(fnmatch(name, pattern) for name in trained):
                    yield f"phase {number}: train {pattern!r} is no trainable parameter"

    def schedules(self, settings: "StageSettings") -> Iterator[str]:
        shared = sum(phase.steps for phase in settings.phases if phase.schedule is None)
        found = [(phase.schedule, phase.steps) for phase in settings.phases if phase.schedule]
        for schedule, steps in [*found, *([(settings.optimizer, shared)] if shared else [])]:
            if schedule.warmup >= steps:
                yield f"a warm-up of {schedule.warmup} in a schedule of {steps} steps"
            if schedule.milestones and schedule.milestones[-1] >= steps:
                yield f"a milestone at {schedule.milestones[-1]} in a schedule of {steps} steps"
            if schedule.warmup + sum(schedule.periods[:-1]) >= steps:
                yield f"periods of {sum(schedule.periods)} in a schedule of {steps} steps"

    def method(self, settings: "StageSettings", network: "nn.Module") -> Iterator[str]:
        import inspect

        from relume.training.augmentation import mixes_levels

        if settings.method.kind == "every_level" and not hasattr(network, "forward_many"):
            yield "every_level needs a network that runs several levels at once"
        if settings.method.kind == "alternate_reuse" and "reuse" not in inspect.signature(network.forward).parameters:
            yield "alternate_reuse needs a network whose blocks are reused"
        for number, phase in enumerate(settings.phases, 1):
            degradation = phase.degradation or self.training.degradation
            for text in _levels_differ(degradation, network):
                yield f"phase {number}: {text}"
            if mixes_levels(degradation, phase.augmentation or self.training.augmentation):
                yield f"phase {number}: augmentation.mixup mixes two degradations, and degradation.level names one"

    def served(self, network: "nn.Module") -> None:
        """Checks the tiles."""
        multiple = crop_multiple(network)
        for section in ("evaluate", "export"):
            tile, halo = self.sections[section]["tile"], self.sections[section]["halo"]
            if tile % multiple:
                self.problem(f"{section}: tile {tile} is no multiple of the network's {multiple}")
            if tile <= 2 * halo:
                self.problem(f"{section}: nothing is left of a tile of {tile} within a halo of {halo}")


@functools.cache
def _network(architecture: str, arguments_json: str) -> "nn.Module":
    """A network on the meta device. A small one restores a crop on the CPU before; the published ones are known to."""
    import torch

    from relume.models.registry import Variant, build
    from relume.models.table import example_inputs

    arguments = json.loads(arguments_json)
    with torch.device("meta"):
        network = build(architecture, arguments)
    if _count(network.parameters()) <= SMALL:
        variant = Variant(architecture=architecture, arguments=arguments, about="")
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            small = build(architecture, arguments).eval()
            small(*example_inputs(variant, small, math.lcm(crop_multiple(small), 16), "cpu"))
    return network


def _levels_differ(degradation: "Degradation", network: "nn.Module") -> Iterator[str]:
    from relume.models.registry import inputs_of

    takes_level = "level" in inputs_of(network)
    if takes_level != (degradation.level is not None):
        takes = "a level" if takes_level else "none"
        yield f"degradation.level is {degradation.level}, and the network takes {takes}"


def _count(parameters: "Iterable[nn.Parameter]") -> int:
    return sum(parameter.numel() for parameter in parameters)


def crop_multiple(network: "nn.Module") -> int:
    """Pixels of which a crop's side should be a multiple, so that no training crop is padded inside the network."""
    from relume.models.registry import ARCHITECTURES

    families = {name for _, name in ARCHITECTURES.values()}
    found = [module for module in network.modules() if type(module).__name__ in families]
    return math.lcm(*(getattr(module, "size_multiple", getattr(module, "window", 1)) for module in found))
