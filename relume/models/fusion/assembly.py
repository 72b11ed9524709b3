"""Puts trained base models into a fusion: which network takes which base, and what of it is frozen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from relume.errors import ConfigError
from relume.models.artifact import ModelCard, load_card, load_model
from relume.models.registry import build

SIDE_BY_SIDE = ("ensemble", "weighted_average")
# Arguments that take a base of that architecture, in the order of the fusion's own list of members.
BY_ARCHITECTURE = {
    "snucv": {"mambairv2": "mambairv2", "xformer": "xformer", "restormer": "restormer"},
    "src_b": {"structure": "restormer", "detail": "nafnet"},
}


def fuse(architecture: str, arguments: dict[str, Any], folders: Sequence[Path]) -> tuple[nn.Module, dict[str, Any]]:
    """Builds a fusion over the artifacts of base models, and loads their weights into it.

    Args:
        architecture: Of the fusion: `ensemble` and `weighted_average` take any bases; `snucv` takes a MambaIRv2, an
            Xformer and a Restormer; `src_b` a Restormer and a NAFNet.
        arguments: Of the fusion, without those of its bases.
        folders: The bases' artifacts.

    Returns:
        The network, and its complete arguments. Bases are frozen, except those of `src_b`, which is one network.

    Raises:
        ConfigError: The architecture is no fusion, or the bases do not fit it.
    """
    cards = [load_card(folder) for folder in folders]
    if architecture in SIDE_BY_SIDE:
        order = list(range(len(cards)))
        bases = [{"architecture": card.architecture, "arguments": card.arguments} for card in cards]
        arguments = arguments | {"bases": bases}
    elif architecture in BY_ARCHITECTURE:
        order = _places(architecture, cards)
        names = BY_ARCHITECTURE[architecture]
        arguments = arguments | {name: cards[place].arguments for name, place in zip(names, order, strict=True)}
    else:
        raise ConfigError(
            "Not a fusion of base models",
            where=f"ensemble_head.fusion.architecture: {architecture}",
            next_step=f"choose one of: {', '.join((*SIDE_BY_SIDE, *BY_ARCHITECTURE))}",
        )
    network = build(architecture, arguments)
    members = _members(network)
    for member, place in zip(members, order, strict=True):
        member.load_state_dict(load_model(folders[place]).state_dict())
        member.requires_grad_(architecture == "src_b")
    return network, arguments


def _places(architecture: str, cards: list[ModelCard]) -> list[int]:
    wanted = list(BY_ARCHITECTURE[architecture].values())
    found = [card.architecture for card in cards]
    if sorted(wanted) != sorted(found):
        raise ConfigError(
            f"{architecture} does not fit the base models",
            where=f"pretrain.bases: {', '.join(found)}",
            why=f"it takes one each of {', '.join(wanted)}",
            next_step="mend pretrain.bases or ensemble_head.fusion in params.yaml",
        )
    return [found.index(name) for name in wanted]


def _members(network: nn.Module) -> list[nn.Module]:
    for name in ("bases", "members"):
        if isinstance(members := getattr(network, name, None), nn.ModuleList):
            return list(members)
    return [network.get_submodule("structure"), network.get_submodule("detail")]
