"""Puts trained base models into a fusion: which network takes which base, and what of it is frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from relume.errors import ConfigError
from relume.models.artifact import load_card, load_model
from relume.models.registry import build

SIDE_BY_SIDE = ("ensemble", "weighted_average")
# Of the others: for each part of the network the argument that describes it, and the architecture that it takes.
BY_ARCHITECTURE = {
    "snucv": {
        "members.0": ("mambairv2", "mambairv2"),
        "members.1": ("xformer", "xformer"),
        "members.2": ("restormer", "restormer"),
    },
    "src_b": {"structure": ("structure", "restormer"), "detail": ("detail", "nafnet")},
}


class Described(Protocol):
    """A network by its architecture and arguments: a model card, a base model's settings, a fusion's settings."""

    @property
    def architecture(self) -> str: ...

    @property
    def arguments(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class FusionPlan:
    """What the ensemble stage builds.

    Attributes:
        architecture: Of the network.
        arguments: Its complete arguments.
        parts: Of the network, each by its name in it, with the name of the base model whose weights it takes.
        frozen: Whether these parts are frozen.
    """

    architecture: str
    arguments: dict[str, Any]
    parts: dict[str, str]
    frozen: bool

    def freeze(self, network: nn.Module) -> None:
        """Leaves only those parameters trainable that the ensemble stage trains."""
        for part in self.parts:
            network.get_submodule(part).requires_grad_(not self.frozen)


D = TypeVar("D", bound=Described)


def restoring(bases: Mapping[str, D]) -> dict[str, D]:
    """The base models that are fused: all but level estimators, which restore nothing.

    Args:
        bases: By name.
    """
    return {name: base for name, base in bases.items() if base.architecture != "level_estimator"}


def plan_fusion(fusion: Described | None, bases: Mapping[str, Described]) -> FusionPlan:
    """Plans the network over base models.

    Args:
        fusion: `ensemble` and `weighted_average` take any bases; `snucv` takes a MambaIRv2, an Xformer and a
            Restormer; `src_b`, which is one network and not frozen, a Restormer and a NAFNet. Without one the only
            base is the network. Its arguments are without those of its bases.
        bases: By name; a fusion takes them in the order of their names.

    Raises:
        ConfigError: The architecture is no fusion, or the bases do not fit it.
    """
    names = sorted(bases)
    if fusion is None:
        if len(names) > 1:
            raise ConfigError(
                "Several base models need a fusion",
                where=f"pretrain.bases: {', '.join(names)}",
                next_step="set ensemble_head.fusion in recipe.yaml, such as {architecture: weighted_average}",
            )
        only = bases[names[0]]
        return FusionPlan(architecture=only.architecture, arguments=only.arguments, parts={"": names[0]}, frozen=False)
    if fusion.architecture in SIDE_BY_SIDE:
        weights = fusion.arguments.get("weights")
        if weights is not None and len(weights) != len(names):
            raise ConfigError(
                "The weights do not fit the base models",
                where=f"ensemble_head.fusion.arguments.weights: {weights}",
                why=f"{len(weights)} weights for {len(names)} bases",
                next_step="give one weight for each base of pretrain.bases in recipe.yaml",
            )
        parts = {f"bases.{place}": name for place, name in enumerate(names)}
        described = [{"architecture": bases[name].architecture, "arguments": bases[name].arguments} for name in names]
        arguments: dict[str, Any] = {"bases": described}
    elif fusion.architecture in BY_ARCHITECTURE:
        wanted = BY_ARCHITECTURE[fusion.architecture]
        found = {bases[name].architecture: name for name in names}
        if sorted(bases[name].architecture for name in names) != sorted(taken for _, taken in wanted.values()):
            raise ConfigError(
                f"{fusion.architecture} does not fit the base models",
                where=f"pretrain.bases: {', '.join(bases[name].architecture for name in names)}",
                why=f"{fusion.architecture} needs one base each of {', '.join(taken for _, taken in wanted.values())}",
                next_step="correct pretrain.bases or ensemble_head.fusion in recipe.yaml",
            )
        parts = {part: found[taken] for part, (_, taken) in wanted.items()}
        arguments = {argument: bases[found[taken]].arguments for argument, taken in wanted.values()}
    else:
        raise ConfigError(
            "The architecture is not a fusion of base models",
            where=f"ensemble_head.fusion.architecture: {fusion.architecture}",
            next_step=f"choose one of: {', '.join((*SIDE_BY_SIDE, *BY_ARCHITECTURE))}",
        )
    return FusionPlan(
        architecture=fusion.architecture,
        arguments=fusion.arguments | arguments,
        parts=parts,
        frozen=fusion.architecture != "src_b",
    )


def fuse(fusion: Described | None, folders: Sequence[Path]) -> tuple[nn.Module, FusionPlan]:
    """Builds the network over base models with their weights, frozen where the plan says so.

    Args:
        fusion: As in `plan_fusion`.
        folders: The bases' artifacts, each named like its base.

    Raises:
        ConfigError: As in `plan_fusion`.
    """
    by_name = {folder.name: folder for folder in folders}
    plan = plan_fusion(fusion, {name: load_card(folder) for name, folder in by_name.items()})
    network = build(plan.architecture, plan.arguments)
    for part, name in plan.parts.items():
        network.get_submodule(part).load_state_dict(load_model(by_name[name]).state_dict())
    plan.freeze(network)
    return network, plan
