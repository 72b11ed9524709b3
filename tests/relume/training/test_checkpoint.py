"""The file of a training's state: its name, and what is left of one half written."""

import json

import torch
from safetensors.torch import save_file

from relume.errors import BrokenFileError
from relume.training.checkpoint import Checkpoint, checkpoint_key
from tests.relume.training.tiny import run


def test_what_a_kill_left_half_written_is_removed(shards, tmp_path):
    """Beside the checkpoint of this training, and of no other."""
    checkpoint = Checkpoint(tmp_path, "mine")
    run(shards, checkpoint)
    for name in (".mine.k2j1.safetensors", ".other.k2j1.safetensors"):
        (tmp_path / name).write_bytes(b"half")
    with checkpoint.lock():
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mine.safetensors", "mine.lock", ".other.k2j1.safetensors", "train-00000.npy"}


def test_the_checkpoint_key_depends_on_settings_and_data():
    """Another setting or other data is another training."""
    key = checkpoint_key({"a": 1}, "data")
    assert key == checkpoint_key({"a": 1}, "data")
    assert len({key, checkpoint_key({"a": 2}, "data"), checkpoint_key({"a": 1}, "other")}) == 3


def test_no_flipped_bit_is_trained_on(tmp_path):
    """Wherever it is in the file: it is refused, or it changes nothing of what is loaded."""
    checkpoint = Checkpoint(tmp_path, "training")
    tensors = {"weight": torch.arange(12.0).reshape(3, 4), "half": torch.ones(5, dtype=torch.bfloat16)}
    tensors |= {"step": torch.tensor(7), "none": torch.zeros(0), "seen": torch.tensor([True, False])}
    checkpoint.save(tensors, {"step": 12})
    content = checkpoint.path.read_bytes()
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        checkpoint.path.write_bytes(damaged)
        try:
            loaded, facts = checkpoint.load()
        except BrokenFileError:
            refused += 1
            continue
        assert facts == {"step": 12}
        assert {name: (each.dtype, each.tolist()) for name, each in loaded.items()} == {
            name: (each.dtype, each.tolist()) for name, each in tensors.items()
        }
    assert refused > len(content) * 0.9
    checkpoint.path.write_bytes(content)
    assert checkpoint.load()[1] == {"step": 12}


def test_a_checkpoint_of_an_earlier_relume_is_resumed(tmp_path):
    """It states no hash."""
    checkpoint = Checkpoint(tmp_path, "training")
    save_file({"weight": torch.ones(3)}, checkpoint.path, metadata={"facts": json.dumps({"step": 4})})
    assert checkpoint.load()[1] == {"step": 4}
