"""What every restoration network owes: checks that the families' tests share.

`build` makes a fresh network without arguments. Inputs beside the image are given by name as functions of the
batch size, for example `level=lambda batch: torch.linspace(15, 50, batch)`.
"""

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch

import numpy as np
import torch
from torch import nn

from relume.serving.export import to_onnx

Build = Callable[[], nn.Module]
Input = Callable[[int], torch.Tensor]


def randomised(build: Build, seed: int = 0) -> nn.Module:
    """A network in eval mode whose constant parameters (zero scales, unit norms, zero biases) are random too.

    Without it a residual scale that starts at zero hides everything behind it.
    """
    torch.manual_seed(seed)
    network = build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() == 1 or (parameter == parameter.flatten()[0]).all():
                parameter += 0.2 * torch.randn_like(parameter)
    return network


def images(batch: int, channels: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    """Random images in [0, 1]."""
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference in units of the expected output's standard deviation."""
    return float((actual - expected).abs().max() / expected.std())


def check_any_size(
    build: Build,
    *,
    channels: int = 3,
    sizes: Iterable[tuple[int, int]] = ((1, 1), (3, 10), (17, 23), (40, 33)),
    **inputs: Input,
) -> None:
    """Output has the input's shape and is finite; an image's result does not depend on its batch or on the call."""
    network = randomised(build)
    for height, width in sizes:
        image = images(2, channels, height, width)
        extra = {name: make(2) for name, make in inputs.items()}
        with torch.inference_mode():
            output = network(image, **extra)
            again = network(image, **extra)
            alone = network(image[1:], **{name: value[1:] for name, value in extra.items()})
        assert output.shape == image.shape
        assert output.isfinite().all()
        assert torch.equal(output, again)
        assert float((alone - output[1:]).abs().max()) <= 1e-4 * max(1.0, float(output.abs().max())), (height, width)


def check_gradients(
    build: Build, dead: Sequence[str] = (), *, channels: int = 3, size: tuple[int, int] = (40, 56), **inputs: Input
) -> None:
    """Every parameter receives a gradient that is not zero, but for the `dead` ones (names or fnmatch patterns)."""
    network = randomised(build).train()
    output = network(images(2, channels, *size), **{name: make(2) for name, make in inputs.items()})
    (output * torch.randn_like(output)).sum().backward()
    silent = {
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    }
    expected = {name for name, _ in network.named_parameters() if any(fnmatch(name, pattern) for pattern in dead)}
    assert silent == expected


def check_channels_last_and_bfloat16(
    build: Build, *, channels: int = 3, size: tuple[int, int] = (40, 48), tolerance: float = 0.05, **inputs: Input
) -> None:
    """channels_last memory gives the same numbers, bfloat16 nearly: within `tolerance` (rms over the output's std)."""
    network = randomised(build)
    image = images(2, channels, *size)
    extra = {name: make(2) for name, make in inputs.items()}
    with torch.inference_mode():
        expected = network(image, **extra)
        last = network.to(memory_format=torch.channels_last)(
            image.contiguous(memory_format=torch.channels_last), **extra
        )
        half = {name: v.bfloat16() if v.is_floating_point() else v for name, v in extra.items()}
        low = network.bfloat16()(image.bfloat16(), **half)
    assert relative(last, expected) < 1e-4
    assert low.dtype == torch.bfloat16
    assert float((low.float() - expected).square().mean().sqrt() / expected.std()) < tolerance


def check_fullgraph(build: Build, *, channels: int = 3, size: tuple[int, int] = (40, 56), **inputs: Input) -> None:
    """TorchDynamo captures the forward pass in eval mode as one graph, which computes the same."""
    network = randomised(build)
    image = images(2, channels, *size)
    extra = {name: make(2) for name, make in inputs.items()}
    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captured = torch.compile(network, backend="eager", fullgraph=True)(image, **extra)
        assert relative(captured, network(image, **extra)) < 1e-5
    torch._dynamo.reset()


def check_onnx(
    build: Build,
    sizes: Iterable[tuple[int, int]],
    *,
    channels: int = 3,
    batches: Iterable[int] = (1, 3),
    tolerance: float = 1e-4,
    **inputs: Input,
) -> None:
    """The dynamo export at each tile size, opset 20, batch dynamic, computes the same in ONNX Runtime at every batch.

    Inputs beside the image are inputs of the graph under their names, with the batch as first axis.
    """
    import onnxruntime

    network = randomised(build)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    for size in sizes:
        buffer, names = io.BytesIO(), ["image", *inputs]
        examples = (images(2, channels, *size), *(make(2) for make in inputs.values()))
        # Left as it is, the graph is exported in a third of the time, and is the same mathematics.
        program = to_onnx(network, examples, names, simplify=False)
        program.save(buffer)
        assert [entry.version for entry in program.model_proto.opset_import if entry.domain == ""] == [20]
        session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
        assert [value.name for value in session.get_inputs()] == names
        for batch in batches:
            image = images(batch, channels, *size, seed=batch)
            extra = {name: make(batch) for name, make in inputs.items()}
            feed = {name: value.numpy() for name, value in {"image": image, **extra}.items()}
            (restored,) = session.run(None, feed)
            with torch.no_grad():
                expected = network(image, **extra).numpy()
            assert np.abs(restored - expected).max() / expected.std() < tolerance, (size, batch)
