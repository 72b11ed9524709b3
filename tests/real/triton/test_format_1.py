"""Served models as relume wrote them until format 2, on a real Triton server beside those of today."""

import numpy as np
import pytest

from relume.serving.levels import LevelRange
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.repository import publish_release
from relume.serving.route import Route
from relume.serving.triton_client import TritonRestorer
from tests.tiny_onnx import BLUR, SHARPEN, convolve, write_tiny_model, write_tiny_model_of_format_1

IMAGE = np.random.default_rng(6).integers(0, 256, (70, 90, 3), np.uint8)
LEVELS = LevelRange(kind="sigma", lowest=15, highest=75, default=37.25)


@pytest.mark.parametrize("adjustable", [False, True], ids=["blind", "adjustable"])
def test_served_and_switched_back_to(server, control, tmp_path, adjustable):
    """Format 1 is served with the bytes of its convolution; a switch to a model of today and back gives them again."""
    product = f"old_{adjustable}".lower()
    today = write_tiny_model(tmp_path / "today", kernel=SHARPEN, levels=LEVELS if adjustable else None)
    folders = {
        f"{product}-1": write_tiny_model_of_format_1(tmp_path / "format 1", adjustable=adjustable),
        f"{product}-2": today,
    }
    for release, folder in folders.items():
        publish_release(folder, server.repository, release)
        control.load_release(release)
    with TritonRestorer(server.grpc, product, key=server.key) as restorer:
        for release, kernel in [(f"{product}-1", BLUR), (f"{product}-2", SHARPEN), (f"{product}-1", BLUR)]:
            control.switch_product(server.repository, product, Route(champion=release))
            level = 37.25 if adjustable else None
            restoration = restorer.restore(IMAGE)
            assert (restoration.release, restoration.level) == (release, level)
            assert restoration.levels == (LEVELS if adjustable else None)
            np.testing.assert_array_equal(restoration.image, convolve(IMAGE, kernel, level or 0))
            in_process = OnnxRestorer(folders[release], threads=1).restore(IMAGE)
            np.testing.assert_array_equal(restoration.image, in_process.image)
