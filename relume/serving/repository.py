"""The folder that Triton loads models from: a folder for each release, and one for each product.

A release is written once, aside, and appears by a rename; it is never changed. A product (`denoise`) is a one-step
ensemble that points to a release, and is changed by replacing its one file.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from relume.errors import ModelMissingError, ReleaseError
from relume.files import atomic_folder, sha256_file, write_text
from relume.inference.plan import Inference
from relume.reading import read_text, reading
from relume.serving.config_pbtxt import backend_of, parameters_of, product_config, read_parameters, release_config
from relume.serving.route import Route, route_of
from relume.serving.served_model import Serving, copy_programs, read_serving, triton_model
from relume.serving.signing import SIGNATURE
from relume.serving.tensorrt_engine import ENGINE, require_engine

ANCHOR = "ledger.json"  # in a release's folder: how long the ledger was, and the hash of its last line
_CONFIG = "config.pbtxt"
_BYTE_CODE = "1/__pycache__"
_OPENVINO = Path(__file__).with_name("triton_openvino_model.py")
_AGAIN = "remove its folder, then run `relume up`"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def publish_release(
    served: str | Path,
    repository: str | Path,
    release: str,
    *,
    backend: str = "onnxruntime",
    engine: Path | None = None,
) -> Path:
    """Writes a served model into the repository under a name of its own, for one of Triton's backends.

    Args:
        served: A served model, such as `package/serving`.
        repository: The model repository; it is created.
        release: The release's name, such as `denoise-3f2a91c0`; the same name always means the same bytes.
        backend: What computes it there, see `relume.serving.config_pbtxt.release_config`. For `onnxruntime` the bytes
            are those of the served model, its model.py included; for others the ONNX file alone is.
        engine: Folder of the engine, which only `tensorrt_plan` needs.

    Returns:
        The release's folder.

    Raises:
        ModelMissingError: There is no served model in `served`.
        ReleaseError: The name cannot be one of a release, another model was released under it, or the backend cannot
            run its windows.
        EngineError: There is no engine that ran on this machine.
        BackendUnavailableError: This machine has no TensorRT or no GPU, so that no engine ran on it.
    """
    serving, target = read_serving(served), Path(repository) / release
    if not _NAME.fullmatch(release):
        raise ReleaseError(
            "The name is not valid for a release", where=release, next_step="use only a-z, 0-9, dot, _ and -"
        )
    if target.exists():
        with tempfile.TemporaryDirectory() as scratch:
            _write(served, serving, Path(scratch), backend, engine)
            written = _hashes(Path(scratch))
        found = _hashes(target).items()
        if written != {
            name: each
            for name, each in found
            if name not in (SIGNATURE, ANCHOR) and not f"{name}/".startswith(f"{_BYTE_CODE}/")
        }:
            raise ReleaseError(
                "Another model was released under this name",
                where=target,
                why="a release is never changed, neither its model nor its backend, because clients may be using it",
                next_step="release under a new name",
            )
        _replace_byte_code(target)
        return target
    with atomic_folder(target) as temporary:
        _write(served, serving, temporary, backend, engine)
        _replace_byte_code(temporary)
    return target


def _replace_byte_code(folder: Path) -> None:
    """Puts an empty file where the server's Python would leave byte code, and removes what it left there.

    For byte code, Triton would take the model for a changed one and start it a second time with the product; and it is
    run in place of the model.py that was compared and signed.
    """
    place = folder / _BYTE_CODE
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    if not os.path.lexists(place):
        place.touch()


def _write(served: str | Path, serving: Serving, folder: Path, backend: str, engine: Path | None) -> None:
    capability = None
    if backend == "tensorrt_plan":
        capability = require_engine(served, engine).key.compute_capability
    shutil.copytree(triton_model(served), folder, dirs_exist_ok=True)
    if backend == "onnxruntime":
        return
    config = release_config(serving.inference, levels=serving.levels, backend=backend, compute_capability=capability)
    write_text(folder / _CONFIG, config)
    if backend == "tensorrt_plan" and engine:
        shutil.copyfile(engine / ENGINE, folder / "1" / ENGINE)
    if backend.startswith("openvino"):
        copy_programs(folder, serving.inference, _OPENVINO)
    elif not serving.inference.several_graphs:
        (folder / "1" / "model.py").unlink()
    else:
        raise ReleaseError(
            "The backend runs one graph alone",
            where=backend,
            why=f"the model restores in {serving.inference}",
            next_step="set release.backend to onnxruntime or openvino_f32 in params.yaml, then run `relume release`",
        )


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def releases(repository: str | Path) -> list[str]:
    """Names of the releases in the repository, sorted."""
    return sorted(path.parent.parent.name for path in Path(repository).glob("[!.]*/1/model.onnx"))


def write_product(repository: str | Path, product: str, route: Route) -> None:
    """Makes a product point to releases, by one rename; the server follows when it loads the product.

    Raises:
        ModelMissingError: The repository has no such release.
        ReleaseError: The product's name is that of a release.
    """
    config = Path(repository) / route.champion / _CONFIG
    for release in filter(None, (route.champion, route.candidate)):
        if release not in releases(repository):
            where = Path(repository) / release
            raise ModelMissingError("The release does not exist", where=where, next_step="relume release")
    if product in releases(repository):
        raise ReleaseError(
            "A product cannot have the same name as a release",
            where=product,
            next_step="change package.product in recipe.yaml",
        )
    text = read_text(config, next_step=_AGAIN)
    with reading(config, next_step="remove its folder, and release the package again"):
        if (found := re.search(r'"image" data_type: TYPE_(UINT8|FP32) dims: \[ 3, (-?\d+),', text)) is None:
            raise ValueError("it was not written by relume")
    folder = Path(repository) / product
    (folder / "1").mkdir(parents=True, exist_ok=True)  # a model without a version is not loaded
    given = next((name for name in ("level", "seed") if f'{{ name: "{name}" ' in text), None)
    restored = re.search(r'"restored" data_type: TYPE_\w+ dims: \[ (\d+), (-?\d+),', text)
    channels, side = map(int, restored.groups()) if restored else (3, int(found[2]))
    product_text = product_config(
        route, tile=int(found[2]), dtype=found[1], channels=channels, restored=side, given=given
    )
    write_text(folder / _CONFIG, product_text)


def products(repository: str | Path) -> dict[str, Route]:
    """The products in the repository and the releases each points to.

    Raises:
        BrokenFileError: A configuration is damaged.
    """
    found = {}
    for path in (folder / _CONFIG for folder in sorted(Path(repository).glob("[!.]*"))):
        if not os.path.lexists(path):
            continue
        text = read_text(path, next_step=_AGAIN)
        match = re.search(r'model_name: "([^"]+)"', text)
        with reading(path, next_step=_AGAIN):
            if not re.search("^(platform|backend):", text, re.MULTILINE):
                raise ValueError("it states neither platform nor backend")
            if 'platform: "ensemble"' in text and not match:
                raise ValueError("it names no release")
        if match:
            found[path.parent.name] = route_of(match[1], parameters_of(text))
    return found


def inference_of(repository: str | Path, release: str) -> Inference | None:
    """How a release restores; None for one that is not in the repository.

    Raises:
        BrokenFileError: Its configuration is damaged.
    """
    path = Path(repository) / release / _CONFIG
    if not path.is_file():
        return None
    text = read_text(path, next_step=_AGAIN)
    with reading(path, next_step=_AGAIN):
        return read_parameters(parameters_of(text))[0]


def backend_of_release(repository: str | Path, release: str) -> str:
    """What computes a release; `onnxruntime` for one that is not in the repository.

    Raises:
        BrokenFileError: Its configuration cannot be read.
    """
    path = Path(repository) / release / _CONFIG
    return backend_of(read_text(path, next_step=_AGAIN)) if path.is_file() else "onnxruntime"


def remove_product(repository: str | Path, product: str) -> None:
    """Removes a product from the repository; its release stays."""
    _remove(Path(repository) / product)


def remove_release(repository: str | Path, release: str) -> None:
    """Removes a release from the repository.

    Raises:
        ReleaseError: A product points to it.
    """
    routes = products(repository).items()
    users = [product for product, route in routes if release in (route.champion, route.candidate)]
    if users:
        raise ReleaseError("The release is in use", where=release, why=f"{', '.join(users)} points to it")
    _remove(Path(repository) / release)


def _remove(folder: Path) -> None:
    """Takes a folder away by a rename, so that it is whole or gone."""
    if folder.exists():
        aside = tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent)
        os.replace(folder, Path(aside) / "folder")
        shutil.rmtree(aside)
