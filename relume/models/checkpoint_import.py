"""Import of published checkpoints: an official `.pth` becomes a model artifact, or a report of what does not fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError  # the name only: nothing is unpickled
from typing import TYPE_CHECKING, Any

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.files import sha256_file
from relume.models.artifact import ModelCard, require_finite, save_model
from relume.models.registry import ARCHITECTURES, Variant, build, variants
from relume.nearest import did_you_mean

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

# Where training codes keep the weights, averaged ones first: HAT; BasicSR's family; Lightning and HyperRes.
TOP_LEVEL_KEYS = ("params_ema", "params", "state_dict")
PREFIXES = ("module.", "net.")  # of DistributedDataParallel, and of PromptIR's Lightning module
# Entries that are no weights: tables that a network computes from its sizes, and a counter that nothing reads.
# Checkpoints may lack them or have them for another size.
DERIVED_BUFFERS = ("*attn_mask", "*relative_position_index*", "*num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the entries of a checkpoint compare to those of a network.

    Attributes:
        matched: How many entries have the name and shape of the network's.
        missing: Entries of the network that the checkpoint lacks.
        extra: Entries of the checkpoint that the network does not have.
        misshaped: Entries of both with other shapes: name, the checkpoint's and the network's shape.
    """

    matched: int
    missing: list[str]
    extra: list[str]
    misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    @property
    def complete(self) -> bool:
        """Whether every entry fits."""
        return not (self.missing or self.extra or self.misshaped)

    def report(self, most: int = 12) -> str:
        """The entries that do not fit, at most `most` of each kind."""
        shapes = [f"{name} is {list(found)}, expected {list(wanted)}" for name, found, wanted in self.misshaped]
        lines = [f"{self.matched} entries fit"]
        for kind, entries in (("missing", self.missing), ("extra", self.extra), ("mis-shaped", shapes)):
            if entries:
                lines.append(f"{len(entries)} {kind}:")
                lines += [f"  {entry}" for entry in entries[:most]]
                if len(entries) > most:
                    lines.append(f"  ... and {len(entries) - most} more")
        return "\n        ".join(lines)


def read_checkpoint(path: str | Path) -> tuple[dict[str, "torch.Tensor"], str]:
    """Reads the weights of a checkpoint; nothing in the file is executed.

    Args:
        path: A file of `torch.save`, or safetensors.

    Returns:
        The state dict as stored, and the top-level key it was under ("" for a bare one).

    Raises:
        ModelMissingError: There is no such file.
        ModelFormatError: It is not a checkpoint, holds objects besides tensors and plain values, or no state dict.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ModelMissingError("No checkpoint", where=path, next_step="download it from the authors' page first")
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # over a file that is cut off or garbled, torch raises nearly anything
        raise ModelFormatError(
            "The checkpoint cannot be read",
            where=path,
            why=_reason(path, error),
            next_step="check that the download is complete; store only its state dict with torch.save",
        ) from None
    for key in (*TOP_LEVEL_KEYS, ""):
        state = content.get(key) if key and isinstance(content, dict) else content
        if isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values()):
            return state, key
    found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
    raise ModelFormatError(
        "The checkpoint has no state dict",
        where=path,
        why=f"it contains: {found[:400]}",
        next_step=f"the weights must be at the top or under one of: {', '.join(TOP_LEVEL_KEYS)}",
    )


def _reason(path: Path, error: Exception) -> str:
    """Why a checkpoint cannot be read: PyTorch's own message advises to execute what is in the file."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    if not isinstance(error, UnpicklingError):
        return str(error).split("\n", 1)[0] or type(error).__name__
    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the file is cut off, garbled or of another kind
        return "it is not a whole file of torch.save, or one of PyTorch before 1.6 that holds more than tensors"
    return f"it cannot be loaded without executing {', '.join(names)[:400]}"


def strip_prefixes(state: "State", expected: "State") -> dict[str, "torch.Tensor"]:
    """Renames the entries that the network does not know by leaving out prefixes of wrappers, as often as needed."""

    def name(key: str) -> str:
        while key not in expected and key.startswith(PREFIXES):
            key = key.split(".", 1)[1]
        return key

    return {name(key): value for key, value in state.items()}


def compare(state: "State", expected: "State") -> Fit:
    """Compares names and shapes; derived buffers are left out where they do not fit.

    Args:
        state: Of the checkpoint, prefixes stripped.
        expected: Of the network.
    """

    def derived(key: str) -> bool:
        return any(fnmatch(key, pattern) for pattern in DERIVED_BUFFERS)

    both = [key for key in expected if key in state]
    fitting = [key for key in both if state[key].shape == expected[key].shape]
    return Fit(
        matched=len(fitting),
        missing=[key for key in expected if key not in state and not derived(key)],
        extra=[key for key in state if key not in expected and not derived(key)],
        misshaped=[
            (key, tuple(state[key].shape), tuple(expected[key].shape))
            for key in both
            if state[key].shape != expected[key].shape and not derived(key)
        ],
    )


def _candidates(architecture: str) -> dict[str, Variant]:
    """The variant of that name, or all variants of the architecture and its defaults, where it has any."""
    known = variants()
    if architecture in known:
        return {architecture: known[architecture]}
    if architecture not in ARCHITECTURES:
        raise ConfigError(
            "The architecture or variant is unknown",
            where=architecture,
            why=did_you_mean(architecture, {*ARCHITECTURES, *known}),
            next_step=f"choose one of: {', '.join(sorted({*ARCHITECTURES, *known}))}",
        )
    return {name: variant for name, variant in known.items() if variant.architecture == architecture}


def _fit(state: "State", variant: Variant) -> Fit:
    import torch

    with torch.device("meta"):
        expected = build(variant.architecture, variant.arguments).state_dict()
    return compare(strip_prefixes(state, expected), expected)


def import_checkpoint(
    checkpoint: str | Path, *, architecture: str, output: str | Path, trained_for: dict[str, Any] | None = None
) -> ModelCard:
    """Turns a published checkpoint into a model artifact.

    Args:
        checkpoint: The official file.
        architecture: A variant, such as "restormer-denoise"; or an architecture, whose variants are then tried.
        output: The artifact's folder.
        trained_for: The degradation it was trained on, as in `ModelCard`.

    Returns:
        The card of the artifact.

    Raises:
        ConfigError: There is no such architecture or variant.
        ModelMissingError: There is no checkpoint.
        ModelFormatError: It cannot be read, holds weights that are no finite numbers, or does not fit; lists missing,
            extra and mis-shaped entries.
    """
    candidates = _candidates(architecture)
    state, key = read_checkpoint(checkpoint)
    fits = {name: _fit(state, variant) for name, variant in candidates.items()}
    best = max(fits, key=lambda name: (fits[name].complete, fits[name].matched))
    if not fits[best].complete:
        raise ModelFormatError(
            "The checkpoint does not fit the network",
            where=checkpoint,
            why=f"compared with {best}: {fits[best].report()}",
            next_step=_suggestion(state, besides=candidates),
        )
    variant = candidates[best]
    network = build(variant.architecture, variant.arguments)
    expected = network.state_dict()
    stripped = strip_prefixes(state, expected)
    # Derived buffers stay as the network computes them.
    fitting = {
        name: value for name, value in stripped.items() if name in expected and value.shape == expected[name].shape
    }
    require_finite(fitting, where=checkpoint)
    network.load_state_dict(expected | fitting)
    card = ModelCard(
        architecture=variant.architecture,
        arguments=variant.arguments,
        trained_for=trained_for or {},
        provenance={
            "checkpoint": Path(checkpoint).name,
            "sha256": sha256_file(checkpoint),
            "state_dict": key,
            "variant": best,
        },
    )
    save_model(output, network, card)
    return card


def _suggestion(state: "State", besides: Mapping[str, Variant]) -> str:
    """Names the variants of any architecture that the checkpoint fits."""
    fitting = [name for name, variant in variants().items() if name not in besides and _fit(state, variant).complete]
    if fitting:
        return f"it fits {', '.join(fitting)}: use that as the architecture"
    return "check the file and the variant; `relume models list` names them all"
