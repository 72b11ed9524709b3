"""One comparison: a network of ours and a transcription that takes the same arguments and the same weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Case:
    """What `run.py` compares; every `transcribed_*.py` lists its own in `CASES`.

    Attributes:
        name: As it stands in the table.
        architecture: A key of `relume.models.registry.ARCHITECTURES`.
        arguments: The constructor's arguments, of ours and of the transcription alike.
        transcription: Builds the plain network, with the state-dict keys of ours.
        size: Height and width of the image.
        inputs: Further inputs by name.
        rival: The transcription's forward, where it is called otherwise than ours.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    transcription: Callable[..., nn.Module]
    size: tuple[int, int]
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    rival: Callable[..., torch.Tensor] | None = None
