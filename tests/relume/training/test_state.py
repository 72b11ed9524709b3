"""The state of a training that is restored from a checkpoint is the one that was saved, whole or not at all."""

import pytest
import torch

from relume.errors import ModelFormatError
from relume.models.registry import build
from relume.training.checkpoint import Checkpoint
from relume.training.config import OptimizerSettings
from relume.training.state import TrainingState


def state(batch_norm):
    """A state after one step of a small network."""
    network = build("dncnn", {"width": 4, "layers": 3, "batch_norm": batch_norm})
    found = TrainingState(network, OptimizerSettings(lr=1e-2))
    network(torch.rand(2, 3, 8, 8)).square().mean().backward()
    found.optimizer.step()
    found.advance(1.0, 0.9)
    found.note_validation({"loss": 1.0, "lr": 0.1, "psnr": 3.0}, by="psnr", keep_best=True)
    return found


def test_every_kind_of_state_is_restored(tmp_path):
    """Weights, average, buffers, moments, history, losses and the best validation of one network in another."""
    saved, restored = state(True), state(True)
    saved.advance(0.5, 0.9)
    saved.save(Checkpoint(tmp_path, "c"))
    assert restored.restore(Checkpoint(tmp_path, "c"))
    assert restored.buffers.keys() >= {"model.3.running_mean", "model.3.running_var", "model.3.num_batches_tracked"}
    assert restored.best.keys() == restored.parameters.keys() | restored.buffers.keys()
    for kind in ("parameters", "buffers", "average", "best"):
        theirs, ours = getattr(saved, kind), getattr(restored, kind)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    for name, parameter in saved.parameters.items():
        theirs, ours = saved.optimizer.state[parameter], restored.optimizer.state[restored.parameters[name]]
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    for fact in ("step", "history", "losses", "best_metric", "since_best"):
        assert getattr(saved, fact) == getattr(restored, fact)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_checkpoint_without_buffers_is_refused_where_there_are_some(tmp_path, batch_norm):
    """As relume wrote them before: the message names the file; a network without buffers takes it."""
    checkpoint = Checkpoint(tmp_path, "c")
    state(batch_norm).save(checkpoint)
    tensors, facts = checkpoint.load()
    checkpoint.save({name: value for name, value in tensors.items() if not name.startswith("buffer.")}, facts)
    if not batch_norm:
        assert state(batch_norm).restore(checkpoint)
        return
    with pytest.raises(ModelFormatError, match=r"c\.safetensors[\s\S]*buffer\.model[\s\S]*remove the file"):
        state(batch_norm).restore(checkpoint)
