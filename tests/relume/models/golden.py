"""Golden vectors: outputs of the official networks, with rules that rebuild their weights and inputs."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).parents[2] / "golden"


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The description and the arrays of one golden file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return json.loads(str(file["meta"])), {key: file[key] for key in file.files if key != "meta"}


def fill(network: nn.Module, meta: dict[str, Any]) -> None:
    """Sets every parameter by the rule of the golden README: drawn from its key's checksum, scaled, shifted."""
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            rng = np.random.default_rng(zlib.crc32(key.encode()) + meta["weight_seed_offset"])
            value = rng.standard_normal(tuple(parameter.shape)).astype(np.float32)
            value = value * np.float32(meta["gain_overrides"].get(key, meta["gain"]))
            parameter.copy_(torch.from_numpy(value + np.float32(key in meta["keys_with_offset_one"])))


def image(height: int, width: int) -> torch.Tensor:
    """The golden input of one size, float32 (1, 3, height, width)."""
    return torch.from_numpy(np.random.default_rng(7).random((1, 3, height, width)).astype(np.float32))


def relative_error(network: nn.Module, arrays: dict[str, np.ndarray], prefix: str = "output") -> float:
    """The largest |y - golden| / std(golden) over all sizes of a file."""
    worst = 0.0
    for key, expected in arrays.items():
        if key.startswith(f"{prefix}_") and key.removeprefix(f"{prefix}_").replace("x", "").isdigit():
            height, width = map(int, key.removeprefix(f"{prefix}_").split("x"))
            with torch.no_grad():
                actual = network(image(height, width)).numpy()
            worst = max(worst, float(np.abs(actual - expected).max() / expected.std()))
    return worst
