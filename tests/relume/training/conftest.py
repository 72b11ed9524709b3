"""Tiny training patches."""

import numpy as np
import pytest

from relume.training.patches import PatchShards


@pytest.fixture
def shards(tmp_path):
    """Six random patches."""
    np.save(tmp_path / "train-00000.npy", np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8))
    return PatchShards(tmp_path)
