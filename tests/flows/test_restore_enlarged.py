"""An image file restored by a model that enlarges."""

import cv2
import numpy as np
import torch
from PIL import Image

import relume
from flows.restore import How, restore_file
from relume.images import save_image
from relume.inference.plan import Inference
from relume.serving.served_export import export_served_model
from relume.serving.served_model import Serving


class Repeated(torch.nn.Module):
    """A network that enlarges: each pixel three times in each direction."""

    def forward(self, image):
        return image.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)


def test_a_model_that_enlarges(tmp_path):
    """The result is larger by its scale; alpha, the share of the input and the comparison are brought to its size."""
    serving = Serving(inference=Inference(tile=32, halo=2, overlap=4, scale=3))
    export_served_model(Repeated().eval(), tmp_path / "served", serving)
    rgba = np.random.default_rng(0).integers(0, 256, (40, 70, 4), np.uint8)
    rgba[..., 3] = 200
    save_image(tmp_path / "small.png", rgba)
    for blend in (1.0, 0.25):
        how = How(blend=blend, compare=True)
        restored = restore_file(tmp_path / "small.png", tmp_path / "large.png", model=tmp_path / "served", how=how)
        assert restored.restoration.image.shape == (120, 210, 3)
        repeated = rgba[..., :3].repeat(3, axis=0).repeat(3, axis=1)
        bicubic = cv2.resize(rgba[..., :3], (210, 120), interpolation=cv2.INTER_CUBIC)
        expected = blend * repeated.astype(float) + (1 - blend) * bicubic
        with Image.open(tmp_path / "large.png") as image:
            found = np.asarray(image)
        assert np.abs(found[..., :3] - expected).max() <= 1
        assert (found[..., 3] == 200).all()
        with Image.open(tmp_path / "large.compare.jpg") as image:
            assert image.size == (210, 240)  # one above the other
    array = relume.Restorer(tmp_path / "served").restore(rgba[..., 0])
    assert np.abs(array - rgba[..., 0].repeat(3, axis=0).repeat(3, axis=1).astype(int)).max() == 0
