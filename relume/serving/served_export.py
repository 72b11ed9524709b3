"""A trained model exported as the served model of its plan."""

import tempfile
from pathlib import Path

from torch import nn

from relume.inference.parts import part_networks
from relume.serving.export import export_level_estimator, export_onnx
from relume.serving.served_model import Serving, write_served_model


def export_served_model(
    network: nn.Module, folder: str | Path, serving: Serving, *, level_estimator: nn.Module | None = None
) -> None:
    """Fills a folder with the served model of a network.

    Args:
        network: The final model, in eval mode.
        folder: Where the files go; it is created.
        serving: How it is served.
        level_estimator: What estimates its level, where the plan has an estimator.
    """
    plan = serving.inference
    networks = part_networks(network, plan)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        files = {graph: Path(scratch) / f"{number}.onnx" for number, graph in enumerate(plan.graphs)}
        for (part, side), file in files.items():
            export_onnx(networks[part], file, tile=side, dtype=plan.dtype)
        level_file = Path(scratch) / "level.onnx" if level_estimator else None
        if level_estimator and level_file:
            export_level_estimator(level_estimator, level_file, dtype=plan.dtype)
        first = files.pop(("", plan.tile))
        write_served_model(first, folder, serving, further_files=files, level_estimator=level_file)
