"""Trains a tiny network in the process group that it is started in, and writes each rank's weights to a file."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from relume.training.batches import TrainingCrops
from relume.training.checkpoint import Checkpoint
from relume.training.loop import train
from relume.training.patches import PatchShards
from relume.training.validation import Validation
from tests.relume.training.tiny import SHARED, TRAINING, TinyNetwork, figure


def validate(network: torch.nn.Module) -> Validation:
    """A pass of the network, and figures of which only those of the first rank rise."""
    global calls
    calls += 1
    network(torch.ones(1, 3, 8, 8))
    return figure(calls if os.environ["RANK"] == "0" else -calls)


if __name__ == "__main__":
    calls = 0
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    network = TinyNetwork()
    train(
        network,
        TrainingCrops(PatchShards(folder), seed=TRAINING.seed),
        stage=SHARED,
        training=TRAINING.model_copy(update={"strategy": sys.argv[2]}),
        checkpoint=Checkpoint(folder, "ranks"),
        validate=validate,
        report=lambda *_: None,
    )
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    save_file(state, folder / f"rank{torch.distributed.get_rank()}.safetensors")
