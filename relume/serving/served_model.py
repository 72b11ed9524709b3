"""The folder of a served model: what `export` writes, `release` publishes and every backend runs.

serving.json                  format, inference, dtype, channels, opset, levels (null for a model that takes none)
triton/model/config.pbtxt     a Triton model
triton/model/1/model.onnx     `image` to `restored`, both uint8 (N, 3, T, T) RGB, or float32 in [0, 1] where a mean is
                              taken of them; adjustable ones take a `level`, float32 (N, 1), as well
triton/model/1/model.py       runs it in Triton's python backend

A plan of several windows whose tiles differ has a graph for each further side, triton/model/1/SIDE/model.onnx. Of a
base model with tiles of its own they are triton/model/1/members/NAME/SIDE/model.onnx. With several passes they take a
`seed`, float32 (N, 1). A plan with a level estimator has its graph as triton/model/1/estimator/model.onnx: `image`,
(N, 3, 128, 128) of the same type, to `estimated`, float32 (N, 1). In each of these cases model.py chooses among the
graphs, by the output that is asked for (`restored`, `restored_NAME` or `estimated`) and by the side of the tiles, and
one_graph.py beside it runs each.

In formats 1 and 2, serving.json stated tile and halo alone; tiles overlapped by half of the halo. In format 1 the
Triton model had the product's name, serving.json stated no format, and its `levels` no kind: the kind was `level`
beside them. Releases of these formats are restored, served and rolled back to as those of format 3.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.files import write_json, write_text
from relume.inference.plan import Inference, before_format_3
from relume.reading import as_kind, read_as, read_text, reading
from relume.serving.config_pbtxt import graph_folder, problem, release_config, triton_type
from relume.serving.levels import LevelRange

FORMAT = 3
_AGAIN = "export the model again with `dvc repro export`"
MODEL_FOLDER = Path("triton") / "model"
_ONNX_RUNTIME = Path(__file__).with_name("triton_python_model.py")
_SEVERAL_GRAPHS = Path(__file__).with_name("triton_graphs_model.py")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a client has to know of a served model.

    Attributes:
        inference: How the model restores.
        channels: Channels of a tile.
        opset: ONNX opset of the model.
        levels: Those of an adjustable model; None for one without the input `level`.
    """

    inference: Inference
    channels: int = 3
    opset: int = 20
    levels: LevelRange | None = None


def write_served_model(
    onnx_file: str | Path,
    folder: str | Path,
    serving: Serving,
    *,
    further_files: Mapping[tuple[str, int], str | Path] = {},
    level_estimator: str | Path | None = None,
) -> None:
    """Fills `folder` with a served model; the same input gives the same bytes.

    Args:
        onnx_file: The model, `image` to `restored`, both (N, 3, tile, tile) of the plan's type, with `level` where
            serving says so.
        folder: Where the files go; it is created.
        serving: What a client has to know of it.
        further_files: What restores in the plan's further tiles, by part and side.
        level_estimator: What estimates the level, where the plan has an estimator.
    """
    model = Path(folder) / MODEL_FOLDER
    onnx_files = {("", serving.inference.tile): onnx_file, **further_files}
    assert onnx_files.keys() == set(serving.inference.graphs)
    files = {_onnx_path(model, serving.inference, *graph): file for graph, file in onnx_files.items()}
    if level_estimator is not None:
        files[_level_estimator(model)] = level_estimator
    for path, file in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, path)
    copy_programs(model, serving.inference)
    write_text(model / "config.pbtxt", release_config(serving.inference, levels=serving.levels))
    values = {"format": FORMAT, "dtype": triton_type(serving.inference), **asdict(serving)}
    values["inference"] = serving.inference.model_dump(mode="json")
    write_json(Path(folder) / "serving.json", values)


def served_folder(folder: str | Path) -> Path:
    """The served model of a folder: itself, or the one inside of a package; also by the path of its ONNX file.

    Raises:
        ModelMissingError: It is none of them.
    """
    of_file = Path(folder).absolute().parents[3:4] if Path(folder).is_file() else ()
    for place in (Path(folder), Path(folder) / "serving", *of_file):
        if (place / "serving.json").is_file():
            return place
    raise ModelMissingError(
        "The folder is neither a served model nor a package",
        where=folder,
        why="it has no serving.json",
        next_step="name the folder of a served model or a package, such as models/exported",
    )


def triton_model(folder: str | Path) -> Path:
    """The Triton model of a served model, the one folder below `triton`."""
    found = Path(folder).glob("triton/*/config.pbtxt")
    return next((config.parent for config in found), Path(folder) / MODEL_FOLDER)


def onnx_path(folder: str | Path) -> Path:
    """The ONNX file of a served model, the one of its first window's tiles."""
    return triton_model(folder) / "1" / "model.onnx"


def onnx_paths(folder: str | Path, inference: Inference) -> dict[tuple[str, int], Path]:
    """The ONNX files of a served model, see `Inference.graphs`.

    Args:
        folder: The served model.
        inference: Its plan.
    """
    return {graph: _onnx_path(triton_model(folder), inference, *graph) for graph in inference.graphs}


def level_estimator_path(folder: str | Path) -> Path:
    """The ONNX file that estimates the level, in a served model whose plan has an estimator."""
    return _level_estimator(triton_model(folder))


def _level_estimator(model: Path) -> Path:
    return model / "1" / "estimator" / "model.onnx"


def _onnx_path(model: Path, inference: Inference, part: str, side: int) -> Path:
    return model / "1" / graph_folder(inference, part, side) / "model.onnx"


def copy_programs(model: Path, inference: Inference, one_graph: Path = _ONNX_RUNTIME) -> None:
    """Writes what runs a model in Triton's python backend.

    Args:
        model: Folder of the Triton model.
        inference: How it restores.
        one_graph: What runs one graph.
    """
    if inference.several_graphs:
        shutil.copyfile(_SEVERAL_GRAPHS, model / "1" / "model.py")
        shutil.copyfile(one_graph, model / "1" / "one_graph.py")
    else:
        shutil.copyfile(one_graph, model / "1" / "model.py")


def read_serving(folder: str | Path) -> Serving:
    """Reads serving.json of a served model.

    Raises:
        ModelMissingError: There is no served model in the folder.
        BrokenFileError: serving.json cannot be read, or holds values of another type.
        ModelFormatError: serving.json has other keys, tiles or levels that cannot be, or others than config.pbtxt.
    """
    path, model = Path(folder) / "serving.json", triton_model(folder)
    for file in (path, model / "config.pbtxt", model / "1" / "model.onnx", model / "1" / "model.py"):
        if not file.is_file():
            raise ModelMissingError(
                "The folder is not a served model",
                where=folder,
                why=f"{file} is missing",
                next_step=_AGAIN,
            )
    values = read_as(dict[str, Any], path, next_step=_AGAIN)
    if (stated := values.pop("format", 1)) not in range(1, FORMAT + 1):
        raise ModelFormatError(
            "The format of the served model is unknown",
            where=path,
            next_step=f"this relume reads formats 1 to {FORMAT}",
        )
    if stated == 1:
        kind, levels = values.pop("level", "sigma"), values.get("levels")
        values["levels"] = {"kind": kind, **levels} if isinstance(levels, dict) else levels
    if stated < FORMAT and {"tile", "halo"} <= values.keys():
        with reading(path, next_step=_AGAIN):
            values["inference"] = before_format_3(values.pop("tile"), values.pop("halo")).model_dump()
    known = {field.name for field in fields(Serving)} | {"dtype"}
    if set(values) != known:
        raise ModelFormatError(
            "serving.json does not describe a served model",
            where=path,
            why=f"it has {values}, but must have the keys {sorted(known)}",
            next_step=_AGAIN,
        )
    try:
        with reading(path, next_step=_AGAIN):
            dtype = values.pop("dtype")
            serving = as_kind(Serving, values)
            if dtype != triton_type(serving.inference):
                raise ValueError(
                    f"its dtype is {dtype}, but the tiles of its plan are {triton_type(serving.inference)}"
                )
    except ConfigError as error:
        raise ModelFormatError(
            "The levels in serving.json are not valid",
            where=path,
            why=error,
            next_step=_AGAIN,
        ) from None
    if serving.inference.estimator and serving.levels is None:
        raise ModelFormatError(
            "The served model contradicts itself",
            where=path,
            why="it has an estimator of levels, but takes no level",
            next_step=_AGAIN,
        )
    needed = [*onnx_paths(folder, serving.inference).values()]
    needed += [level_estimator_path(folder)] if serving.inference.estimator else []
    if missing := [file for file in needed if not file.is_file()]:
        raise ModelMissingError(
            "The folder is not a served model", where=folder, why=f"{missing[0]} is missing", next_step=_AGAIN
        )
    config = model / "config.pbtxt"
    text = read_text(config, next_step=_AGAIN)
    if why := problem(text, serving.inference, levels=serving.levels):
        raise ModelFormatError("The served model contradicts itself", where=config, why=why, next_step=_AGAIN)
    return serving
