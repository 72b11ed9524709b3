"""The architectures by name.

A family is imported only when it is built, so that an edit of one family concerns only the stages that use it.
"""

import importlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relume.errors import ConfigError
from relume.nearest import did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Variant", "build", "inputs_of", "variants"]

ARCHITECTURES = {
    "nafnet": ("relume.models.nafnet", "NAFNet"),
    "baseline": ("relume.models.nafnet", "Baseline"),
    "restormer": ("relume.models.restormer", "Restormer"),
    "nafnet_local": ("relume.models.tlc", "NAFNetLocal"),
    "restormer_local": ("relume.models.tlc", "RestormerLocal"),
    "promptir": ("relume.models.promptir", "PromptIR"),
    "dynet": ("relume.models.dynet", "DyNet"),
    "mambairv2": ("relume.models.mambairv2", "MambaIRv2"),
    "dncnn": ("relume.models.dncnn", "DnCNN"),
    "ffdnet": ("relume.models.ffdnet", "FFDNet"),
    "drunet": ("relume.models.drunet", "DRUNet"),
    "resunet": ("relume.models.resunet", "ResUNet"),
    "resunet_adjustable": ("relume.models.resunet", "AdjustableResUNet"),
    "hyperres": ("relume.models.hyperres", "HyperRes"),
    "adafm": ("relume.models.adafm", "AdaFM"),
    "cfsnet": ("relume.models.cfsnet", "CFSNet"),
    "cresmd": ("relume.models.cresmd", "CResMD"),
    "dni": ("relume.models.dni", "DNI"),
    "level_estimator": ("relume.models.level_estimator", "LevelEstimator"),
    "bias_adapted": ("relume.models.bias_adaptation", "BiasAdapted"),
    "swinir": ("relume.models.swinir", "SwinIR"),
    "masked": ("relume.models.masked", "MaskedDenoiser"),
    "hat": ("relume.models.hat", "HAT"),
    "xformer": ("relume.models.xformer", "Xformer"),
    "src_b": ("relume.models.fusion.src_b", "SRCB"),
    "snucv": ("relume.models.fusion.snucv", "SNUCV"),
    "weighted_average": ("relume.models.fusion.averages", "WeightedAverage"),
    "ensemble": ("relume.models.ensemble", "Ensemble"),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named configuration of an architecture, kept in its family's `VARIANTS`.

    Attributes:
        architecture: A key of `ARCHITECTURES`.
        arguments: The network's constructor arguments.
        about: What it is for, and where it was published.
        parameters: Official parameter count; None for our own sizes.
    """

    architecture: str
    arguments: dict[str, Any]
    about: str
    parameters: int | None = None


def variants() -> dict[str, Variant]:
    """All named configurations, by name; imports every family."""
    modules = dict.fromkeys(module for module, _ in ARCHITECTURES.values())
    found: dict[str, Variant] = {}
    for module in modules:
        found |= getattr(importlib.import_module(module), "VARIANTS", {})
    return found


def build(architecture: str, arguments: dict[str, Any]) -> "nn.Module":
    """Constructs a network by the name of its architecture and its constructor's arguments.

    Args:
        architecture: A key of `ARCHITECTURES`.
        arguments: Keyword arguments of the network's class.

    Returns:
        A freshly initialised network, float32 (N, C, H, W) in [0, 1] to the same shape.

    Raises:
        ConfigError: The architecture or one of the arguments is unknown, or an argument is missing.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            "The architecture is unknown",
            where=architecture,
            why=did_you_mean(architecture, ARCHITECTURES),
            next_step=f"choose one of: {', '.join(sorted(ARCHITECTURES))}",
        )
    module, name = ARCHITECTURES[architecture]
    network = getattr(importlib.import_module(module), name)
    try:
        inspect.signature(network).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            "The arguments do not fit the architecture",
            where=architecture,
            why=error,
            next_step=f"use those of {name}{inspect.signature(network)}",
        ) from None
    return network(**arguments)


def inputs_of(network: "nn.Module") -> tuple[str, ...]:
    """Names of the inputs that a network needs; those of the wrapped network for wrappers that pass inputs on."""
    parameters = inspect.signature(network.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return inputs_of(network.get_submodule("network"))
    return tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)


def scale_of(network: "nn.Module") -> int:
    """How much larger a network makes an image."""
    return int(getattr(network, "upscale", 1))
