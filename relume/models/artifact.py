"""The model artifact: a folder with `model.safetensors` and `model.json`, from which a network is rebuilt.

Nothing else is needed to load one, and nothing in it can run code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relume.errors import ModelFormatError, ModelMissingError
from relume.files import atomic_folder, read_json, write_json

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelCard", "load_card", "load_model", "save_model"]

FORMAT = 1


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
            (folder / name).write_text(text)


def load_card(path: str | Path) -> ModelCard:
    """Reads the `model.json` of an artifact.

    Raises:
        ModelMissingError: There is no artifact at `path`.
        ModelFormatError: It is of another format.
    """
    path = Path(path) / "model.json"
    if not path.is_file():
        raise ModelMissingError(
            "The folder is not a model artifact",
            where=path.parent,
            next_step="train one with `relume pipeline run`, or check the path",
        )
    content = read_json(path)
    if content.pop("format", None) != FORMAT:
        raise ModelFormatError(
            "The format of the model artifact is unknown", where=path, next_step=f"this relume reads format {FORMAT}"
        )
    return ModelCard(**content)


def load_model(path: str | Path) -> "nn.Module":
    """Rebuilds the network of an artifact in eval mode on the CPU, in channels_last memory.

    Raises:
        ModelMissingError: There is no artifact at `path`.
        ModelFormatError: The weights do not fit the architecture; lists missing, extra and mis-shaped keys.
    """
    import torch
    from safetensors.torch import load_file

    from relume.models.registry import build

    card = load_card(path)
    network = build(card.architecture, card.arguments)
    state = load_file(Path(path) / "model.safetensors")
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
    network.load_state_dict(state)
    return network.eval().to(memory_format=torch.channels_last)
