"""The first estimate of what trainings take, against closed forms."""

import torch
from torch import nn

from relume.recipes.check import check
from relume.recipes.estimate import Estimate, cost_of_pixel, estimate, multiplications_per_second, summary


class TwoLayers(nn.Module):
    """3 -> 8 channels at full size, 8 -> 3 at half size."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1, stride=2)

    def forward(self, image):
        return self.second(self.first(image))


def test_what_a_pixel_costs():
    """Products and outputs of two convolutions, counted by hand."""
    with torch.device("meta"):
        network = TwoLayers()
    assert cost_of_pixel(network) == (3 * 8 * 9 + 8 * 3 / 4, 8 + 3 / 4)


def test_the_demo_and_the_published_schedule():
    """Every training of the recipe is estimated; at full scale they take far longer and more memory."""
    demo, full = (estimate(check("ensemble", scale), threads=1) for scale in ("demo", "full"))
    names = ["pretrain@nafnet", "pretrain@restormer", "ensemble_head", "finetune_hard"]
    assert [each.stage for each in demo] == names
    assert sum(each.seconds for each in full) > 1000 * sum(each.seconds for each in demo)
    assert max(each.memory for each in full) > 2 * max(each.memory for each in demo)


def test_the_speed_is_a_possible_one():
    """A core multiplies between ten million and ten million million times a second."""
    assert 1e7 < multiplications_per_second(torch.device("cpu")) < 1e13


def test_the_summary():
    """Times add up, memory is that of the largest."""
    estimates = [Estimate(stage="a", seconds=3600, memory=2**30), Estimate(stage="b", seconds=5400, memory=2**31)]
    assert summary(estimates) == "about 2.5 h, one after the other, and 2.0 GiB"
