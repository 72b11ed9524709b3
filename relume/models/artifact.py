"""The model artifact: a folder with `model.safetensors` and `model.json`, from which a network is rebuilt.

Nothing else is needed to load one, and nothing in it can run code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.files import atomic_folder, write_json
from relume.reading import as_kind, read_as, reading

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["ModelCard", "load_card", "load_model", "require_finite", "save_model"]

FORMAT = 1
_AGAIN = "make the model again with `relume pipeline run`, or copy it again"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What `model.json` holds beside the weights.

    Attributes:
        architecture: A name of `relume.models.registry`.
        arguments: The network's constructor arguments.
        trained_for: The degradation it was trained on: its description, settings, and for adjustable networks the
            lowest and highest of its `levels`.
        provenance: Where the weights come from: stage, data hash, training configuration.
    """

    architecture: str
    arguments: dict[str, Any]
    trained_for: dict[str, Any]
    provenance: dict[str, Any]


def save_model(path: str | Path, network: "nn.Module", card: ModelCard, files: dict[str, str] | None = None) -> None:
    """Writes a model artifact, replacing one that is there, whole or not at all.

    Args:
        path: The artifact's folder.
        network: Its parameters and buffers are stored in float32 under their state-dict keys.
        card: Goes to `model.json`.
        files: Further text files of the artifact by name, such as the training history.
    """
    from safetensors.torch import save_file

    with atomic_folder(path) as folder:
        state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        write_json(folder / "model.json", {"format": FORMAT, **vars(card)})
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")


def load_card(path: str | Path) -> ModelCard:
    """Reads the `model.json` of an artifact.

    Raises:
        ModelMissingError: There is no artifact at `path`.
        BrokenFileError: model.json cannot be read, or lacks something.
        ModelFormatError: It is of another format.
    """
    path = Path(path) / "model.json"
    if not path.is_file():
        raise ModelMissingError(
            "The folder is not a model artifact",
            where=path.parent,
            next_step="train one with `relume pipeline run`, or check the path",
        )
    content = read_as(dict[str, Any], path, next_step=_AGAIN)
    if content.pop("format", None) != FORMAT:
        raise ModelFormatError(
            "The format of the model artifact is unknown", where=path, next_step=f"this relume reads format {FORMAT}"
        )
    with reading(path, next_step=_AGAIN):
        return as_kind(ModelCard, content)


def load_model(path: str | Path) -> "nn.Module":
    """Rebuilds the network of an artifact in eval mode on the CPU, in channels_last memory.

    Raises:
        ModelMissingError: There is no artifact at `path`.
        BrokenFileError: One of its files cannot be read.
        ModelFormatError: The weights do not fit the architecture, which lists missing, extra and mis-shaped keys; or
            some are no finite numbers.
    """
    import torch
    from safetensors.torch import load_file

    from relume.models.registry import build

    card = load_card(path)
    with reading(Path(path) / "model.json", next_step=_AGAIN):  # wrong arguments raise whatever the network raises
        try:
            network = build(card.architecture, card.arguments)
        except ConfigError as error:
            raise ModelFormatError(
                "model.json describes no network", where=Path(path) / "model.json", why=error, next_step=_AGAIN
            ) from None
    weights = Path(path) / "model.safetensors"
    with reading(weights, next_step=_AGAIN):
        state = load_file(weights)
    expected = network.state_dict()
    problems = [f"missing {key}" for key in expected.keys() - state.keys()]
    problems += [f"extra {key}" for key in state.keys() - expected.keys()]
    problems += [
        f"{key} has shape {tuple(state[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & state.keys()
        if state[key].shape != expected[key].shape
    ]
    if problems:
        raise ModelFormatError(
            "The weights do not fit the architecture",
            where=path,
            why="; ".join(sorted(problems)[:20]),
            next_step=f"check that the weights are those of {card.architecture} with {card.arguments}",
        )
    require_finite(state, where=weights)
    network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)


def require_finite(state: "Mapping[str, torch.Tensor]", *, where: object) -> None:
    """Refuses weights that are not numbers, as a diverged training or a damaged file leaves them.

    Raises:
        ModelFormatError: Names the entries that hold NaN or infinities.
    """
    wrong = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ModelFormatError(
            "Weights are no finite numbers",
            where=where,
            why=f"NaN or infinities in {shown}",
            next_step="train the model again, or copy its weights again",
        )
