"""Restores images in this process with PyTorch, from the weights beside a served model."""

from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import ModelMissingError
from relume.inference.plan import Part
from relume.serving.in_process import InProcessRestorer, Run

__all__ = ["TorchRestorer"]


class TorchRestorer(InProcessRestorer):
    """A served model in this process, computed by PyTorch in float32, without a graph.

    Args:
        folder: A served model inside of a package or a shipped model, which have its weights as well.
        release: Its name in results and messages; the folder when None.
        batch: Tiles in one run.
        orientations: In which a tile is restored, 1, 2, 4 or 8; as the model says when None.
        tile: Side of a tile, see `InProcessRestorer`; of every network.

    Raises:
        ModelMissingError: There is no served model in the folder, or no weights beside it.
    """

    _any_side = True

    def _load(self, model: Path | bytes, dtype: np.dtype[Any], part: Part, side: int) -> Run:
        import torch

        from relume.inference.parts import part_networks
        from relume.models.artifact import load_model
        from relume.serving.export import ServedNetwork

        beside = self.folder.parent
        artifact = next((each for each in (beside, beside / "model") if (each / "model.json").is_file()), None)
        if artifact is None:
            raise ModelMissingError(
                "There are no weights for PyTorch",
                where=self.folder,
                why=f"neither {beside} nor {beside / 'model'} is a model artifact",
                next_step="choose another --backend, or name a package with --model",
            )
        network = part_networks(load_model(artifact), self.inference)[part.name]
        served = ServedNetwork(network, dtype=dtype.name).eval().to(memory_format=torch.channels_last)

        def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
            with torch.inference_mode():
                return served(*(torch.from_numpy(values) for values in inputs.values())).contiguous().numpy()

        return run
