"""A first estimate of how long trainings take on this machine and how much memory they need.

It counts multiplications and outputs of the networks and measures how fast this machine multiplies. A training also
waits for memory, for its data and for other stages: the truth may be two or three times as much, or half of it.
"""

import time
from dataclasses import dataclass

import torch
from torch import nn

from relume.durations import duration
from relume.models.registry import inputs_of, scale_of
from relume.recipes.check import Report, Training

_CROP = 64  # pixels; networks here are convolutional, so that what they cost grows with the area
_EFFICIENCY = 0.8  # of the speed of a plain convolution; the demo's four trainings reach 0.7 to 1.2 of it
_OPTIMIZER = 5  # weights, gradients, two moments and the moving average, in float32
_FRAMEWORK = 400 * 2**20  # bytes that a process takes before it trains


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one training costs.

    Attributes:
        stage: Its name.
        seconds: Wall time.
        memory: Bytes.
    """

    stage: str
    seconds: float
    memory: int


def estimate(report: Report, *, threads: int) -> list[Estimate]:
    """What each training of a recipe costs on this machine.

    Args:
        report: Of the recipe.
        threads: `training.threads`; without effect on a GPU.
    """
    device = torch.device("cuda" if has_gpu() else "cpu")
    torch.set_num_threads(threads)
    rate = _EFFICIENCY * multiplications_per_second(device)
    return [_of(training, rate) for training in report.trainings]


def summary(estimates: list[Estimate]) -> str:
    """One line, such as `about 7 min, one after the other, and 0.6 GiB`."""
    memory = max(each.memory for each in estimates) / 2**30
    return f"about {duration(sum(each.seconds for each in estimates))}, one after the other, and {memory:.1f} GiB"


def has_gpu() -> bool:
    """Whether trainings run on a GPU here."""
    return torch.cuda.is_available()


def _of(training: Training, rate: float) -> Estimate:
    products, outputs = cost_of_pixel(training.network)
    size = training.size
    # Forward once; backward twice as much, in what is trained.
    passes = 1 + 2 * size.trained / size.parameters
    smaller = scale_of(training.network) ** 2  # the input of a network that enlarges
    pixels = sum(phase.steps * phase.batch * phase.patch**2 for phase in training.phases) / smaller
    largest = max(phase.batch * phase.patch**2 for phase in training.phases) / smaller
    memory = _FRAMEWORK + 4 * (size.parameters + (_OPTIMIZER - 1) * size.trained) + int(4 * outputs * largest)
    return Estimate(stage=size.stage, seconds=passes * products * pixels / rate, memory=memory)


def cost_of_pixel(network: nn.Module) -> tuple[float, float]:
    """Multiply-accumulates of convolutions and linear layers, and numbers that layers put out, for each pixel."""
    products = outputs = 0

    def count(layer: nn.Module, given: object, out: object) -> None:
        nonlocal products, outputs
        if isinstance(out, torch.Tensor):
            outputs += out.numel()
            if isinstance(layer, nn.Conv2d | nn.Linear):
                products += out.numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not list(layer.children())]
    image = torch.empty((1, 3, _CROP, _CROP), device="meta")
    inputs = [image] + [torch.empty((1,), device="meta") for _ in inputs_of(network)[1:]]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return products / _CROP**2, outputs / _CROP**2


def multiplications_per_second(device: torch.device) -> float:
    """Multiply-accumulates per second of a convolution of usual size, measured for a quarter of a second."""
    layer = nn.Conv2d(32, 32, 3, padding=1).to(device)
    image = torch.zeros((1, 32, 128, 128), device=device)
    # On a CPU the thread's own time, in which other programs have no part.
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    done = 0
    with torch.inference_mode():
        layer(image)
        start = clock()
        while (seconds := clock() - start) < 0.25:
            layer(image)
            if device.type == "cuda":
                torch.cuda.synchronize()
            done += 1
    return done * 32 * 32 * 9 * 128 * 128 / seconds
