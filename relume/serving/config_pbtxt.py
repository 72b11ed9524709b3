"""The texts of Triton's config.pbtxt for a release and for a product that points to one.

They name no model, so a model has the name of its folder. What depends on the machine (threads, instances) is left to
the server, so that an exported model holds nothing of the place it was made at.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from relume.errors import ConfigError
from relume.inference.plan import Inference, Window, before_format_3
from relume.serving.levels import LevelRange
from relume.serving.route import Route

MAX_BATCH = 8
"""Tiles in one request at most, and in one execution of what Triton runs itself; bounds the server's memory, which
stays at what the largest request took."""

_TENSORS = """\
max_batch_size: {max_batch}
input [ {{ name: "image" data_type: TYPE_{dtype} dims: [ 3, {tile}, {tile} ] }}{given} ]
output [ {{ name: "restored" data_type: TYPE_{dtype} dims: [ {channels}, {side}, {side} ] }}{further} ]
"""

# A number for each tile, so that requests of different levels share an execution.
_NUMBER = ', {{ name: "{name}" data_type: TYPE_FP32 dims: [ 1 ] }}'

# Of a base model with tiles of its own, which clients ask for instead of `restored`, as for the level `estimated`.
_MEMBER = ', {{ name: "restored_{name}" data_type: TYPE_{dtype} dims: [ 3, {side}, {side} ] }}'

# For what Triton runs itself: requests that wait share an execution, and none waits for others. A full queue refuses at
# once, which a client can wait out; nobody waits for an answer to a request older than a minute.
# In the python backend requests are not gathered: it runs their tiles one by one anyway, and Triton's batcher lets a
# request that finds two others waiting sleep for up to half a second, many times what a network takes. The queue has no
# limit then; a client waits as long as its own timeout.
_BATCHING = """\
dynamic_batching {
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 60000000 max_queue_size: 64 }
}
"""

_PARAMETER = re.compile(r'parameters\s*\{\s*key:\s*"(\w+)"\s*value\s*\{\s*string_value:\s*"([^"]*)"')
_TILES = re.compile(r"data_type:\s*TYPE_(\w+)\s*dims:\s*\[\s*(\d+),\s*(-?\d+),\s*(-?\d+)\s*\]")
_WINDOW = re.compile(r"(\d+) (\d+) (\d+)")
_MEMBER_TILES = re.compile(r"(\w+):([\d ,]*)")
_MAX_BATCH = re.compile(r"max_batch_size:\s*(\d+)")

_PYTHON = 'backend: "python"\ninstance_group [ { kind: KIND_CPU count: 1 } ]\n'
_PRECISION = 'parameters { key: "precision" value { string_value: "%s" } }\n'
# Engines are kept between loads. In ONNX Runtime's own precision they are of float32.
_TENSORRT = """\
backend: "onnxruntime"
instance_group [ { kind: KIND_GPU count: 1 } ]
optimization { execution_accelerators { gpu_execution_accelerator : [ {
  name : "tensorrt"
  parameters { key: "precision_mode" value: "FP32" }
  parameters { key: "trt_engine_cache_enable" value: "1" }
} ] } }
"""
# The engine is named for one compute capability alone: on a GPU of another one Triton finds none, and does not load it.
_PLAN = """\
platform: "tensorrt_plan"
instance_group [ { kind: KIND_GPU count: 1 profile: [ "0" ] } ]
cc_model_filenames [ { key: "%s" value: "model.plan" } ]
"""
_BACKENDS = {
    "onnxruntime": _PYTHON,
    "openvino_f32": _PYTHON + _PRECISION % "f32",
    "openvino_bf16": _PYTHON + _PRECISION % "bf16",
    "triton_onnxruntime": 'backend: "onnxruntime"\ninstance_group [ { kind: KIND_AUTO count: 1 } ]\n',
    "triton_tensorrt": _TENSORRT,
}


def triton_type(inference: Inference) -> str:
    """Triton's name of the type of the tiles."""
    return {"uint8": "UINT8", "float32": "FP32"}[inference.dtype]


def release_config(
    inference: Inference,
    *,
    levels: LevelRange | None = None,
    backend: str = "onnxruntime",
    compute_capability: str | None = None,
) -> str:
    """The config.pbtxt of a release.

    It has no `model_warmup`, which releases had before: one that failed ended the whole server in 5 of 12 loads. The
    probe of `TritonControl.load_release` warms a model.

    Args:
        inference: How the model restores; clients carry it out, and read it in the model's parameters.
        levels: Those of an adjustable model, which clients read there as well; None for one without the input `level`.
        backend: `onnxruntime`, `openvino_f32` and `openvino_bf16` run 1/model.py in Triton's python backend (the
            embedded server has no other); `triton_onnxruntime` runs 1/model.onnx in Triton's onnxruntime backend, on
            its GPU where there is one, and `triton_tensorrt` does so with ONNX Runtime's TensorRT provider;
            `tensorrt_plan` runs 1/model.plan in Triton's tensorrt backend.
        compute_capability: Of the GPU that the engine of `tensorrt_plan` is for, such as `9.0`.
    """
    parameters = inference.model_dump(exclude={"further_windows", "fusion", "members"})
    if fusion := inference.fusion:
        low, high = fusion.thresholds
        parameters["fusion"] = f"{fusion.smooth} {fusion.detail} {fusion.mask} {low} {high}"
    if further := inference.further_windows:
        parameters["further_windows"] = _windows_text(*further)
    if members := inference.members:
        tilings = {
            name: f" {_windows_text(each, *each.further_windows)}" if each else "" for name, each in members.items()
        }
        parameters["members"] = "; ".join(f"{name}:{tiling}" for name, tiling in tilings.items())
    if inference.several_graphs:
        parameters["graphs"] = ", ".join(
            f"{output_of(part)} {side} {graph_folder(inference, part, side)}" for part, side in inference.graphs
        )
    if levels:
        parameters |= {("level_kind" if name == "kind" else f"{name}_level"): v for name, v in asdict(levels).items()}
    return (
        (_PLAN % compute_capability if backend == "tensorrt_plan" else _BACKENDS[backend])
        + _tensors(
            _side(inference),
            triton_type(inference),
            given=given_of(inference, levels),
            channels=3 * inference.parts[0].results,
            side=_side(inference) if inference.several_graphs else inference.scale * inference.tile,
            members=tuple(part.name for part in inference.parts if part.name),
            estimates=inference.estimator is not None,
        )
        + ("" if _BACKENDS.get(backend, "").startswith(_PYTHON) else _BATCHING)
        + _parameters(parameters)
    )


def output_of(part: str) -> str:
    """The output of a release that a part of its plan is."""
    return f"restored_{part}" if part else "restored"


def graph_folder(inference: Inference, part: str, side: int) -> str:
    """Where the graph of a part of a plan for tiles of a side is, from the folder of the model's version."""
    if part:
        return f"members/{part}/{side}"
    return "." if side == inference.tile else str(side)


def given_of(inference: Inference, levels: LevelRange | None) -> str | None:
    """The input that a graph has beside the tile, if any: the level, or the seed of the masks of a pass."""
    if inference.passes > 1:
        return "seed"
    return "level" if levels else None


def _windows_text(*windows: Window) -> str:
    return ", ".join(f"{each.tile} {each.halo} {each.overlap}" for each in windows)


def _read_windows(text: str) -> list[dict[str, int]]:
    return [dict(zip(Window.model_fields, map(int, each), strict=True)) for each in _WINDOW.findall(text)]


def _read_tiling(text: str) -> dict[str, Any] | None:
    first, *further = _read_windows(text) or [{}]
    return {**first, "further_windows": further} if first else None


def backend_of(text: str) -> str:
    """The backend that the text of a release's configuration is for; see `release_config`."""
    if 'backend: "python"' in text:
        precision = parameters_of(text).get("precision")
        return f"openvino_{precision}" if precision else "onnxruntime"
    if 'platform: "tensorrt_plan"' in text:
        return "tensorrt_plan"
    return "triton_tensorrt" if "gpu_execution_accelerator" in text else "triton_onnxruntime"


def parameters_of(text: str) -> dict[str, str]:
    """The parameters in the text of a configuration, by name."""
    return dict(_PARAMETER.findall(text))


def read_parameters(parameters: Mapping[str, str]) -> tuple[Inference, LevelRange | None]:
    """How a release restores, and its levels, as its configuration states them.

    Args:
        parameters: Of the configuration, by name. Releases of formats 1 and 2 name no overlap. Those of format 1 name
            no kind of level: they are taken for sigma.

    Returns:
        The plan, and the levels; None for a model that takes no level.
    """
    levels = None
    if "default_level" in parameters:
        lowest, highest, default = (float(parameters[f"{end}_level"]) for end in ("lowest", "highest", "default"))
        kind = parameters.get("level_kind", "sigma")
        levels = LevelRange(kind=kind, lowest=lowest, highest=highest, default=default)
    if "overlap" not in parameters:
        return before_format_3(int(parameters["tile"]), int(parameters["halo"])), levels
    stated = {name: parameters[name] for name in Inference.model_fields if name in parameters}
    plan: dict[str, Any] = {name: int(v) if v.isdigit() else v for name, v in stated.items()}
    if "further_windows" in plan:
        plan["further_windows"] = _read_windows(plan["further_windows"])
    if "members" in plan:
        plan["members"] = {name: _read_tiling(text) for name, text in _MEMBER_TILES.findall(plan["members"])}
    if "fusion" in plan:
        smooth, detail, mask, *thresholds = plan["fusion"].split()
        plan["fusion"] = {"smooth": smooth, "detail": detail, "mask": mask, "thresholds": tuple(map(int, thresholds))}
    return Inference.model_validate(plan), levels


def problem(text: str, inference: Inference, *, levels: LevelRange | None) -> str | None:
    """Why the text of a release's config.pbtxt does not fit what serving.json says, or None.

    Whether it is well formed is for Triton to say; this looks for what clients and the server's memory depend on.
    """
    found = parameters_of(text)
    if levels is not None:
        found.setdefault("level_kind", levels.kind)  # releases of format 1 name it in serving.json alone
    tiles, batches = set(_TILES.findall(text)), [int(number) for number in _MAX_BATCH.findall(text)]
    try:
        stated = read_parameters(found)
    except (KeyError, ValueError, ConfigError):
        return "config.pbtxt does not state tiles and levels that can be"
    side, parts = _side(inference), inference.parts
    restored = side if inference.several_graphs else inference.scale * side
    tensors = [(3, side), *((3 * part.results, restored) for part in parts)]
    expected = {(triton_type(inference), str(channels), str(side), str(side)) for channels, side in tensors}
    if stated != (inference, levels) or tiles != expected:
        return f"serving.json says {inference}, {levels or 'no levels'}; config.pbtxt says something else"
    if len(batches) != 1 or not 1 <= batches[0] <= MAX_BATCH:
        return f"config.pbtxt has to state one max_batch_size, of 1 to {MAX_BATCH}"
    return None


def product_config(
    route: Route,
    *,
    tile: int,
    dtype: str = "UINT8",
    channels: int = 3,
    restored: int | None = None,
    given: str | None = None,
) -> str:
    """The config.pbtxt of a product: an ensemble whose one step is the champion.

    Args:
        route: Which releases restore its images, which clients read in the parameters.
        tile: Side of its served tile in pixels; -1 where there are several.
        dtype: Triton's name of the tile's type.
        channels: Of the restored tile, those of all members.
        restored: Side of that; the same when None.
        given: Its input beside the tile, see `given_of`.
    """
    number = f'\n      input_map {{ key: "{given}" value: "{given}" }}' if given else ""
    return (
        'platform: "ensemble"\n'
        + _tensors(tile, dtype, given=given, channels=channels, side=tile if restored is None else restored)
        + f"""\
ensemble_scheduling {{
  step [
    {{
      model_name: "{route.champion}"
      model_version: -1
      input_map {{ key: "image" value: "image" }}{number}
      output_map {{ key: "restored" value: "restored" }}
    }}
  ]
}}
"""
        + _parameters(route.parameters())
    )


def _parameters(values: Mapping[str, object]) -> str:
    return "".join(
        f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n' for name, value in values.items()
    )


def _side(inference: Inference) -> int:
    """The side of tiles as Triton has it: -1 where there are several."""
    return -1 if inference.several_graphs else inference.tile


def _tensors(
    tile: int,
    dtype: str,
    *,
    given: str | None,
    channels: int,
    side: int,
    members: tuple[str, ...] = (),
    estimates: bool = False,
) -> str:
    further = "".join(_MEMBER.format(name=name, dtype=dtype, side=side) for name in members)
    further += _NUMBER.format(name="estimated") if estimates else ""
    number = _NUMBER.format(name=given) if given else ""
    return _TENSORS.format(
        max_batch=MAX_BATCH, tile=tile, side=side, dtype=dtype, given=number, channels=channels, further=further
    )
