"""Restores one picture file with the model that serves now, in this process or through Triton."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from flows.release.ledger import Ledger, Release
from relume.errors import ModelMissingError
from relume.home import relume_home

PRODUCT = "denoise"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restoration came to.

    Attributes:
        target: The file that was written.
        model: The release that restored it, or the folder of a model that was not released yet.
        width: In pixels.
        height: In pixels.
        seconds: From the decoded picture to the restored one.
        strength: The level that an adjustable model restored it at, in [0, 255]; None for another model.
        notes: What the user should know, such as a 16-bit picture that became 8-bit.
    """

    target: Path
    model: str
    width: int
    height: int
    seconds: float
    strength: float | None = None
    notes: tuple[str, ...] = ()


def restore_file(
    source: str | Path,
    target: str | Path,
    *,
    root: str | Path = ".",
    server: str | None = None,
    strength: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Restored:
    """Restores a picture file.

    Args:
        source: Picture to restore.
        target: File to write; its suffix chooses the format. It appears whole or not at all.
        root: The checkout whose model is used before the first release.
        server: Triton's address; in this process with ONNX Runtime when None.
        strength: Level for an adjustable model, for denoising the sigma of the noise in [0, 255]; the model's default
            when None.
        on_progress: Called with the tiles done and the tiles in all.

    Raises:
        ImageError: The picture cannot be read, or the format of `target` is unknown.
        ModelMissingError: There is no model yet.
        ConfigError: The model takes no strength, or `strength` is none.
        ServerUnreachableError: The server does not answer.
    """
    import numpy as np

    from relume.images import check_suffix, read_image, save_image, to_uint8
    from relume.serving.levels import choose_level

    check_suffix(target)
    picture = read_image(source)
    notes = [] if picture.pixels.dtype == np.uint8 else ["16-bit values were rounded to 8 bits, which the model takes"]
    pixels = to_uint8(picture.pixels)
    if server is None:
        from relume.serving.onnx_restorer import OnnxRestorer

        model, folder = served_model(Path(root))
        in_process = OnnxRestorer(folder)
        levels = in_process.serving.levels
        level = choose_level(strength, levels, model=model)
        started = time.perf_counter()
        restored = in_process.restore(pixels, level=level, on_progress=on_progress)
    else:
        from relume.serving.triton_client import TritonRestorer

        with TritonRestorer(server, PRODUCT) as triton:
            served = triton.served()
            model, levels = served.release, served.levels
            level = choose_level(strength, levels, model=model)
            started = time.perf_counter()
            restored = triton.restore(pixels, level=strength, on_progress=on_progress)
    seconds = time.perf_counter() - started
    if levels is not None and level is not None and (note := levels.note(level)):
        notes.append(note)
    save_image(target, restored, icc_profile=picture.icc_profile)
    height, width = restored.shape[:2]
    return Restored(
        target=Path(target),
        model=model,
        width=width,
        height=height,
        seconds=seconds,
        strength=level,
        notes=tuple(notes),
    )


def served_model(root: Path) -> tuple[str, Path]:
    """The name and the folder of the model to use in this process: the champion, else the last export.

    Raises:
        ModelMissingError: There is neither.
    """
    current = Ledger().current(PRODUCT)
    if current is not None:
        return current.model, _champion_folder(root, current)
    exported = root / "models" / "exported"
    if (exported / "serving.json").is_file():
        return str(exported), exported
    raise ModelMissingError(
        "There is no model yet", where=relume_home(), next_step="make demo, or: relume pipeline run && relume release"
    )


def _champion_folder(root: Path, release: Release) -> Path:
    from relume.files import read_json

    package = root / "package" / "package.json"
    if package.is_file() and read_json(package)["sha256"] == release.package:
        return package.parent / "serving"
    kept = relume_home() / "packages" / release.package[:16] / "serving"
    if kept.is_dir():
        return kept
    # Only a registry knows it; asking it imports MLflow, which takes seconds.
    from flows.release.registry import Registry
    from flows.release.served_product import stored_package

    return stored_package(release, Registry()).folder / "serving"
