"""The folder of a served model: what `export` writes, `release` publishes and every backend runs.

serving.json                  format, tile, halo, dtype, channels, opset, levels (null for a model that takes none)
triton/model/config.pbtxt     a Triton model
triton/model/1/model.onnx     `image` to `restored`, both uint8 (N, 3, T, T) RGB; adjustable ones take a `level`,
                              float32 (N, 1), as well
triton/model/1/model.py       runs it in Triton's python backend

In format 1 the Triton model had the product's name, serving.json stated no format, and its `levels` no kind: the kind
was `level` beside them. Releases of that format are restored, served and rolled back to as those of format 2.
"""

import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.files import write_json, write_text
from relume.reading import as_kind, read_as, read_text, reading
from relume.serving.config_pbtxt import problem, release_config
from relume.serving.levels import LevelRange
from relume.serving.tiling import check_tile

FORMAT = 2
_AGAIN = "export the model again with `dvc repro export`"
MODEL_FOLDER = Path("triton") / "model"


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a client has to know of a served model.

    Attributes:
        tile: Side of the served tile in pixels.
        halo: Pixels around a tile that are thrown away where it has a neighbour.
        dtype: Triton's name of the tensors' type.
        channels: Channels of a tile.
        opset: ONNX opset of the model.
        levels: Those of an adjustable model; None for one without the input `level`.
    """

    tile: int
    halo: int
    dtype: str = "UINT8"
    channels: int = 3
    opset: int = 20
    levels: LevelRange | None = None


def write_served_model(onnx_file: str | Path, folder: str | Path, serving: Serving) -> None:
    """Fills `folder` with a served model; the same input gives the same bytes.

    Args:
        onnx_file: The model, `image` to `restored`, both uint8 (N, 3, tile, tile), with `level` where serving says so.
        folder: Where the files go; it is created.
        serving: Tile, halo and the like.

    Raises:
        ConfigError: The halo does not fit the tile.
    """
    check_tile(serving.tile, serving.halo)
    model = Path(folder) / MODEL_FOLDER
    (model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx_file, model / "1" / "model.onnx")
    shutil.copyfile(Path(__file__).with_name("triton_python_model.py"), model / "1" / "model.py")
    write_text(model / "config.pbtxt", release_config(tile=serving.tile, halo=serving.halo, levels=serving.levels))
    write_json(Path(folder) / "serving.json", {"format": FORMAT, **asdict(serving)})


def triton_model(folder: str | Path) -> Path:
    """The Triton model of a served model, the one folder below `triton`."""
    found = Path(folder).glob("triton/*/config.pbtxt")
    return next((config.parent for config in found), Path(folder) / MODEL_FOLDER)


def onnx_path(folder: str | Path) -> Path:
    """The ONNX file of a served model."""
    return triton_model(folder) / "1" / "model.onnx"


def read_serving(folder: str | Path) -> Serving:
    """Reads serving.json of a served model.

    Raises:
        ModelMissingError: There is no served model in the folder.
        BrokenFileError: serving.json cannot be read, or holds values of another type.
        ModelFormatError: serving.json has other keys, a tile or levels that cannot be, or others than config.pbtxt.
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
    if (stated := values.pop("format", 1)) not in (1, FORMAT):
        raise ModelFormatError(
            "The format of the served model is unknown",
            where=path,
            next_step=f"this relume reads formats 1 to {FORMAT}",
        )
    if stated == 1:
        kind, levels = values.pop("level", "sigma"), values.get("levels")
        values["levels"] = {"kind": kind, **levels} if isinstance(levels, dict) else levels
    known = {field.name for field in fields(Serving)}
    if set(values) != known:
        raise ModelFormatError(
            "serving.json does not describe a served model",
            where=path,
            why=f"it has {values}, but must have the keys {sorted(known)}",
            next_step=_AGAIN,
        )
    try:
        with reading(path, next_step=_AGAIN):
            serving = as_kind(Serving, values)
            check_tile(serving.tile, serving.halo)
    except ConfigError as error:
        raise ModelFormatError(
            "The tile or the levels in serving.json are not valid",
            where=path,
            why=error,
            next_step=_AGAIN,
        ) from None
    config = model / "config.pbtxt"
    text = read_text(config, next_step=_AGAIN)
    if why := problem(text, tile=serving.tile, halo=serving.halo, levels=serving.levels):
        raise ModelFormatError("The served model contradicts itself", where=config, why=why, next_step=_AGAIN)
    return serving
