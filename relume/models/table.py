"""What is known of every named model: sizes, costs, published metrics; for lists, sheets and docs/models.md."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relume.errors import ConfigError
from relume.models.registry import ARCHITECTURES, Variant, build, inputs_of, variants
from relume.nearest import did_you_mean

if TYPE_CHECKING:
    from torch import nn

# Of the papers and official repositories. PSNR in dB; three values are sigma 15 / 25 / 50 on colour images.
PUBLISHED = {
    "nafnet-sidd-width32": "SIDD 39.97 / .9599",
    "nafnet-sidd-width64": "SIDD 40.30 / .9614; 65 GMACs",
    "nafnet-gopro-width32": "16 GMACs",
    "nafnet-gopro-width64": "GoPro 33.08; 65 GMACs",
    "nafnet-gopro-width32-local": "GoPro 32.87 / .9606",
    "nafnet-gopro-width64-local": "GoPro 33.71 / .9668",
    "baseline-sidd-width32": "SIDD 39.89 / .9596",
    "baseline-sidd-width64": "SIDD 40.30 / .9617; 84 GMACs",
    "baseline-gopro-width32": "GoPro 32.48 / .9575, with local statistics",
    "baseline-gopro-width64": "GoPro 33.40 / .9649, with local statistics",
    "restormer-denoise": "CBSD68 34.40 / 31.79 / 28.60, Urban100 35.13 / 32.96 / 30.02; 141 GMACs",
    "restormer-denoise-gray": "BSD68 31.96 / 29.52 / 26.62, Urban100 33.79 / 31.46 / 28.29",
    "restormer-deblur": "GoPro 32.92",
    "restormer-deblur-local": "GoPro 33.57",
    "xformer-denoise": "CBSD68 34.43 / 31.82 / 28.63, Urban100 35.29 / 33.21 / 30.36; 42.2 GMACs at 128",
    "xformer-denoise-gray": "BSD68 31.98 / 29.55 / 26.65, Urban100 33.98 / 31.78 / 28.71",
    "swinir-denoise": "CBSD68 34.42 / 31.78 / 28.56, Urban100 35.13 / 32.90 / 29.82",
    "swinir-denoise-gray": "BSD68 31.97 / 29.50 / 26.58, Urban100 33.70 / 31.30 / 27.98",
    "mambairv2-denoise": "CBSD68 34.48, Urban100 35.42 (sigma 15)",
    "promptir": "BSD68 33.98 / 31.31 / 28.06, Rain100L 36.37, SOTS 30.58",
    "dynet-small": "BSD68 34.06 / 31.41 / 28.15, Rain100L 38.11, SOTS 31.51",
    "dynet-large": "BSD68 34.11 / 31.44 / 28.18, Rain100L 38.71, SOTS 31.98",
    "drunet-color": "CBSD68 34.30 / 31.69 / 28.51, Urban100 34.81 / 32.60 / 29.61",
    "dncnn-gray": "BSD68 29.23 (sigma 25)",
    "hyperres-4": "CBSD68 31.40 (sigma 25), mean over five levels 30.61; block count inferred",
    "restormer-denoise-bias-adapted": "NTIRE 2025 29.80 / .8642 (sigma 50, clipped)",
    "src-b": "NTIRE 2025 31.20 / .8884 (sigma 50)",
    "snucv": "NTIRE 2025 29.95 / .8676 (sigma 50)",
    "level-estimator": "mean relative error 1.77 %",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the list of models.

    Attributes:
        name: Of the variant.
        architecture: A key of `ARCHITECTURES`.
        parameters: Trainable and frozen, counted on the network.
        about: What it is for.
        published: Figures of the paper; "" where there are none.
    """

    name: str
    architecture: str
    parameters: int
    about: str
    published: str


@dataclass(frozen=True, kw_only=True)
class Sheet(Entry):
    """All that `relume models show` prints about a model.

    Attributes:
        arguments: Of the constructor, as given; the others have their defaults.
        signature: The constructor with its defaults.
        inputs: Of `forward`, "image" first; "level" for adjustable models.
        gmacs: Multiply-accumulates of convolutions and matrix products at 256 x 256, in units of 1e9.
        source: Where it was published, and the deviations.
    """

    arguments: dict[str, Any]
    signature: str
    inputs: tuple[str, ...]
    gmacs: float
    source: str


def on_meta(variant: Variant) -> "nn.Module":
    """The network without memory for its weights, for counting."""
    import torch

    with torch.device("meta"):
        return build(variant.architecture, variant.arguments).eval().requires_grad_(False)


def channels_of(arguments: Mapping[str, Any]) -> int:
    """Image channels in the constructor's arguments, also of a wrapped network."""
    return channels_of(arguments["arguments"]) if "arguments" in arguments else arguments.get("channels", 3)


def example_inputs(variant: Variant, network: "nn.Module", size: int, device: str) -> list[Any]:
    """A gray image of side `size`, and a level of 25 for networks that take one."""
    import torch

    image = torch.full((1, channels_of(variant.arguments), size, size), 0.5, device=device)
    return [image] + [torch.full((1,), 25.0, device=device) for _ in inputs_of(network)[1:]]


def multiply_accumulates(variant: Variant, size: int = 256) -> int:
    """Multiply-accumulates of all convolutions and matrix products for one image of `size` x `size` pixels.

    Attention products count, elementwise work and scans do not, so that the numbers are a few per cent above those of
    papers, whose counters leave attention out.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = on_meta(variant)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*example_inputs(variant, network, size, "meta"))
    return counter.get_total_flops() // 2


def _known(name: str) -> Variant:
    known = variants()
    if name not in known:
        raise ConfigError(
            "The model is unknown",
            where=name,
            why=did_you_mean(name, known),
            next_step="list the names with `relume models list`",
        )
    return known[name]


def _parameters(network: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def list_models() -> list[Entry]:
    """All named models in the order of their families."""
    return [
        Entry(
            name=name,
            architecture=variant.architecture,
            parameters=variant.parameters or _parameters(on_meta(variant)),
            about=variant.about,
            published=PUBLISHED.get(name, ""),
        )
        for name, variant in variants().items()
    ]


def show_model(name: str) -> Sheet:
    """All that is known of one model.

    Raises:
        ConfigError: There is no model of that name.
    """
    variant = _known(name)
    module_name, class_name = ARCHITECTURES[variant.architecture]
    module = importlib.import_module(module_name)
    network = on_meta(variant)
    return Sheet(
        name=name,
        architecture=variant.architecture,
        parameters=_parameters(network),
        about=variant.about,
        published=PUBLISHED.get(name, ""),
        arguments=variant.arguments,
        signature=f"{class_name}{inspect.signature(getattr(module, class_name))}",
        inputs=inputs_of(network),
        gmacs=multiply_accumulates(variant) / 1e9,
        source=inspect.getdoc(module) or "",
    )


def render_sheet(sheet: Sheet) -> str:
    """A sheet as text for a terminal."""
    rows = {
        "architecture": sheet.architecture,
        "for": sheet.about,
        "parameters": f"{sheet.parameters:,}",
        "GMACs at 256 x 256": f"{sheet.gmacs:.1f}",
        "inputs": ", ".join(sheet.inputs),
        "published": sheet.published or "no metrics",
        "arguments": ", ".join(f"{key}={value}" for key, value in sheet.arguments.items()) or "the defaults",
        "constructor": sheet.signature,
    }
    lines = [f"  {key:<20}{value}" for key, value in rows.items()]
    return "\n".join([sheet.name, *lines, "", *(f"  {line}".rstrip() for line in sheet.source.splitlines())])


# The columns of a timing file, with their headings in the table.
RUNTIMES = {"eager": "eager", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def render_table(timings: Mapping[str, Any]) -> str:
    """The table of docs/models.md.

    Args:
        timings: What `benchmarks/model_table.py` writes: under `models`, for each variant the `date`, what it was
            measured `on`, the milliseconds per megapixel by runtime, or the reason why there are none, and under
            `difference` how far each runtime's output is from PyTorch's.

    Returns:
        Markdown.
    """
    lines = [
        "| model | parameters | GMACs at 256² | tile | " + " | ".join(RUNTIMES.values()) + " | published |",
        "|---|---:|---:|---:|" + "---:|" * len(RUNTIMES) + "---|",
    ]
    notes: list[str] = []

    def cell(value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            if value not in notes:
                notes.append(value)
            return f"[{notes.index(value) + 1}]"
        return f"{value:,.0f}"

    known = variants()
    for entry in list_models():
        measured = timings["models"].get(entry.name, {})
        gmacs = multiply_accumulates(known[entry.name]) / 1e9
        times = " | ".join(cell(measured.get(runtime)) for runtime in RUNTIMES)
        tile = measured.get("tile", "")
        lines.append(f"| {entry.name} | {entry.parameters:,} | {gmacs:,.1f} | {tile} | {times} | {entry.published} |")
    apart = {
        heading: max(m["difference"][runtime] for m in timings["models"].values() if runtime in m.get("difference", {}))
        for runtime, heading in RUNTIMES.items()
        if any(runtime in measured.get("difference", {}) for measured in timings["models"].values())
    }
    places: dict[str, list[str]] = {}
    for name, measured in timings["models"].items():
        places.setdefault(f"{measured['date']} on {measured['on']}", []).append(name)
    most, *others = sorted(places, key=lambda place: -len(places[place]))
    return "\n".join(
        [
            "Milliseconds per megapixel on a CPU, float32: one tile of the given side, scaled to its area.",
            f"Measured {most}.",
            *(f"Not there, but {place}: {', '.join(places[place])}." for place in others),
            "GMACs count convolutions and all matrix products of the code here, those of attention included.",
            "Empty cells were not measured.",
            *(
                f"{heading}'s outputs are at most {worst:.1e} of their standard deviation from PyTorch's."
                for heading, worst in apart.items()
            ),
            "",
            *lines,
            "",
            *(f"{number}. {note}" for number, note in enumerate(notes, 1)),
            "",
        ]
    )
