"""The file of a training's state: its name, and what is left of one half written."""

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
