"""Checks a recipe without training: its settings are valid, its networks can be built and fed, its stages fit together.

Networks are built on torch's meta device, which takes no memory, so that the published sizes are checked anywhere.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from relume.errors import ConfigError
from relume.recipes import FOLDER, reasons, resolve, shared_keys

if TYPE_CHECKING:
    from torch import nn

    from relume.training.config import BaseModelSettings, StageSettings, TrainingSettings
    from relume.training.stages import EnsembleHeadSettings, FinetuneSettings

# What a network may raise when its arguments do not fit together or an image does not fit it.
UNFIT = (ConfigError, RuntimeError, ValueError, TypeError, AssertionError, IndexError)
# The fusions that take their members by the name of an argument, which is a key of `pretrain.bases`: its architecture.
MEMBERS = {
    "src_b": {"structure": "restormer", "detail": "nafnet"},
    "snucv": {"mambairv2": "mambairv2", "xformer": "xformer", "restormer": "restormer"},
}


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


def check(name: str, scale: str, folder: Path = FOLDER) -> Report:
    """Checks one recipe at one scale.

    Raises:
        ConfigError: Recipe or scale are unknown, or the file is not a recipe.
    """
    from relume.training.config import BaseModelSettings, TrainingSettings
    from relume.training.stages import EnsembleHeadSettings, FinetuneSettings, MiningSettings

    sections = resolve(name, scale, folder)
    report = Report(recipe=name, scale=scale)
    for section, keys in shared_keys(folder).items():
        if alien := sorted(sections[section].keys() - keys):
            report.problems.append(f"{section}: defaults.yaml does not give {', '.join(alien)}")

    models: dict[str, Any] = {
        "training": TrainingSettings,
        "ensemble_head": EnsembleHeadSettings,
        "mine_hard": MiningSettings,
        "finetune_hard": FinetuneSettings,
    }
    values = {section: sections[section] for section in models}
    for base, value in sections["pretrain"]["bases"].items():
        models[f"pretrain.bases.{base}"], values[f"pretrain.bases.{base}"] = BaseModelSettings, value
    settings: dict[str, Any] = {}
    for section, model in models.items():
        try:
            settings[section] = model.model_validate(values[section])
        except ValidationError as error:
            report.problems.append(f"{section}: {reasons(error)}")
    if not report.problems:
        bases = {base: settings[f"pretrain.bases.{base}"] for base in sections["pretrain"]["bases"]}
        _Check(report, sections, settings["training"]).run(bases, settings["ensemble_head"], settings["finetune_hard"])
    return report


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
        finetune: "FinetuneSettings",
    ) -> None:
        networks = {}
        for name, base in bases.items():
            network = self.built(f"pretrain@{name}", base.architecture, base.arguments)
            if network is not None:
                networks[name] = network
                self.stage(f"pretrain@{name}", base, network, list(network.parameters()))
        if len(networks) < len(bases):
            return
        fused = self.fused(bases, networks, head)
        if fused is None:
            return
        architecture, arguments, network = fused
        members = sum(_count(list(base.parameters())) for base in networks.values())
        if head.fusion is None:
            if head.phases:
                self.problem("ensemble_head: no fusion, and yet there are phases")
        else:
            self.stage("ensemble_head", head, network, list(network.parameters()), frozen=members)
        final, trained = network, list(network.parameters())
        if finetune.adapt == "biases":
            adapted = self.built(
                "finetune_hard", "bias_adapted", {"architecture": architecture, "arguments": arguments}
            )
            if adapted is None:
                return
            final, trained = adapted, [parameter for parameter in adapted.parameters() if parameter.requires_grad]
            if not trained:
                self.problem("finetune_hard: the network has no bias-free convolution to adapt")
        self.stage("finetune_hard", finetune, final, trained)
        self.served(final)

    def built(self, stage: str, architecture: str, arguments: dict[str, Any]) -> "nn.Module | None":
        """The network on the meta device, after it restored a crop of a few windows."""
        import torch

        from relume.models.registry import Variant, build
        from relume.models.table import example_inputs

        try:
            with torch.device("meta"):
                network = build(architecture, arguments)
            variant = Variant(architecture=architecture, arguments=arguments, about="")
            size = 2 * math.lcm(crop_multiple(network), 16)
            with torch.inference_mode():
                network.eval()(*example_inputs(variant, network, size, "meta"))
        except UNFIT as error:
            self.problem(f"{stage}: {architecture} cannot be built or run: {error}")
            return None
        return network

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
        architecture, given = head.fusion.architecture, head.fusion.arguments
        if wanted := MEMBERS.get(architecture):
            if {name: base.architecture for name, base in bases.items()} != wanted:
                needs = ", ".join(f"{name} ({kind})" for name, kind in wanted.items())
                self.problem(f"ensemble_head: {architecture} needs the bases {needs}")
                return None
            arguments = given | {name: base.arguments for name, base in bases.items()}
        else:
            # The stage takes the bases by the names of their folders, sorted.
            ordered = [bases[name] for name in sorted(bases)]
            members = [{"architecture": base.architecture, "arguments": base.arguments} for base in ordered]
            arguments = given | {"bases": members}
            if len(given.get("weights", members)) != len(members):
                self.problem(f"ensemble_head: {len(given['weights'])} weights for {len(members)} bases")
                return None
        network = self.built("ensemble_head", architecture, arguments)
        return None if network is None else (architecture, arguments, network)

    def stage(
        self, stage: str, settings: "StageSettings", network: "nn.Module", trained: list[Any], frozen: int = 0
    ) -> None:
        """Checks the phases against the network, and notes their size."""
        for text in (*self.phases(settings, network), *self.schedules(settings), *self.method(settings, network)):
            self.problem(f"{stage}: {text}")
        if settings.phases:
            size = StageSize(
                stage=stage,
                parameters=_count(list(network.parameters())),
                trained=_count(trained) - frozen,
                steps=settings.steps,
                samples=sum(phase.steps * phase.batch for phase in settings.phases),
            )
            self.report.sizes.append(size)

    def phases(self, settings: "StageSettings", network: "nn.Module") -> Iterator[str]:
        multiple, largest = crop_multiple(network), self.sections["curate"]["patch"]
        names = [name for name, _ in network.named_parameters()]
        for number, phase in enumerate(settings.phases, 1):
            if phase.patch % multiple:
                yield f"phase {number}: patch {phase.patch} is no multiple of the network's {multiple}"
            if phase.patch > largest:
                yield f"phase {number}: patch {phase.patch} is larger than curate.patch {largest}"
            if phase.batch % (self.training.processes * phase.accumulate):
                parts = f"{self.training.processes} processes times accumulate {phase.accumulate}"
                yield f"phase {number}: batch {phase.batch} does not divide by {parts}"
            for pattern in phase.train:
                if not any(fnmatch(name, pattern) for name in names):
                    yield f"phase {number}: train {pattern!r} is no parameter"

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

        from relume.models.registry import inputs_of

        takes_level = "level" in inputs_of(network)
        if settings.method.kind == "every_level" and not hasattr(network, "forward_many"):
            yield "every_level needs a network that runs several levels at once"
        if settings.method.kind == "alternate_reuse" and "reuse" not in inspect.signature(network.forward).parameters:
            yield "alternate_reuse needs a network whose blocks are reused"
        for number, phase in enumerate(settings.phases, 1):
            level = (phase.degradation or self.training.degradation).level
            if takes_level != (level is not None):
                yield f"phase {number}: degradation.level is {level}, and the network takes {_inputs(takes_level)}"

    def served(self, network: "nn.Module") -> None:
        """Checks the tiles."""
        multiple = crop_multiple(network)
        for section in ("evaluate", "export"):
            tile, halo = self.sections[section]["tile"], self.sections[section]["halo"]
            if tile % multiple:
                self.problem(f"{section}: tile {tile} is no multiple of the network's {multiple}")
            if tile <= 2 * halo:
                self.problem(f"{section}: nothing is left of a tile of {tile} within a halo of {halo}")


def _inputs(level: bool) -> str:
    return "a level" if level else "none"


def _count(parameters: list[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def crop_multiple(network: "nn.Module") -> int:
    """Pixels of which a crop's side should be a multiple, so that no training crop is padded inside the network."""
    from relume.models.registry import ARCHITECTURES

    families = {name for _, name in ARCHITECTURES.values()}
    found = [module for module in network.modules() if type(module).__name__ in families]
    return math.lcm(*(getattr(module, "size_multiple", getattr(module, "window", 1)) for module in found))
