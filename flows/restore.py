"""Restores an image file with the model that serves now, in this process or through Triton."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.release.ledger import Ledger, Release
from relume import products
from relume.errors import ConfigError, ModelMissingError
from relume.home import place_of_release

if TYPE_CHECKING:
    import numpy as np

    from relume.images import DecodedImage, Header, Metadata, Subsampling
    from relume.inference.plan import Inference
    from relume.serving.backends import Asked
    from relume.serving.in_process import InProcessRestorer
    from relume.serving.levels import LevelRange
    from relume.serving.restoration import Restoration


STANDARD = Path("-")  # standard input as a source, standard output as a target


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestoredFile:
    """A file that was restored.

    Attributes:
        target: The file that was written.
        restoration: The image, and the release and the level that it was restored by.
        seconds: From the decoded image to the restored one.
        notes: What the user should know, such as a 16-bit image that became 8-bit.
        server: Whose Triton server restored it, such as `this home's server`; None in this process.
    """

    target: Path
    restoration: "Restoration"
    seconds: float
    notes: tuple[str, ...]
    server: str | None = None

    def __str__(self) -> str:
        """One line: file, size, time, release, whose server, and the level with its kind."""
        height, width = self.restoration.image.shape[:2]
        line = f"{self.target}  {width}x{height}  {self.seconds:.1f} s  by {self.restoration.release}"
        if self.server:
            line += f" of {self.server}"
        if self.restoration.levels is None:
            return line
        level = f"{self.restoration.levels.kind} {self.restoration.level:g}"
        return f"{line} at {level}{' (estimated)' if self.restoration.estimated else ''}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """How images are restored and saved.

    Attributes:
        level: For an adjustable model, of its kind, such as the sigma of the noise; `auto` for what is estimated of the
            image, within the levels that the model was trained for: by the model's level estimator, or else from the
            noise of smooth areas. When None what the level estimator estimates, or the model's default.
        blend: Share of the restored image in the result, 0 to 1; the rest is the input.
        keep: Which metadata the result has: `all`, all but the `place` where the photograph was taken, or `none`.
        compare: Whether an image of before and after is written beside the result.
        quality: Of a lossy result, 1 to 100. When None as usual for its format, but never coarser than an input of
            the same format.
        subsampling: Of the colours of a JPEG or AVIF.
    """

    level: float | Literal["auto"] | None = None
    blend: float = 1.0
    keep: Literal["all", "place", "none"] = "all"
    compare: bool = False
    quality: int | None = None
    subsampling: "Subsampling" = "4:4:4"


def restore_file(
    source: str | Path,
    target: str | Path,
    *,
    root: str | Path = ".",
    server: str | None = None,
    product: str | None = None,
    model: str | Path | None = None,
    orientations: int | None = None,
    tile: int | None = None,
    backend: "Asked | None" = None,
    how: How = How(),
    on_progress: Callable[[float, float], None] | None = None,
) -> RestoredFile:
    """Restores an image file.

    Args:
        source: Image to restore, `-` for standard input.
        target: File to write; its suffix chooses the format. It appears whole or not at all. With `-` the image goes to
            standard output in the format of the input, or as PNG where that is not written.
        root: The checkout, whose package may hold the champion.
        server: Triton's address; in this process when None.
        product: The product to restore with; see `choose`, and with a server `released_product`, for None.
        model: The folder of a served model or a package, instead of a product.
        orientations: In which the image is restored, see `relume.Restorer`; as the model says when None.
        tile: Side of its tiles in this process, see `relume.Restorer`; as the model says when None.
        backend: What computes in this process; `auto` for the fastest, see `relume.serving.backends`. When None what
            is usual for the model.
        how: The level, and what the result holds.
        on_progress: Called with the share that is done and the megapixels of the image.

    Raises:
        ImageError: The image cannot be read, the format of `target` is unknown, or there is no memory for it.
        ModelMissingError: There is no model yet.
        ConfigError: The model takes no level, it is no level of its kind, or nothing says which product is meant.
        ServerUnreachableError: The server does not answer.
    """
    from relume.images import check_suffix

    if Path(target) != STANDARD:
        check_suffix(target)
    elif sys.stdout.isatty():
        raise ConfigError(
            "An image is not for a terminal to show", next_step="redirect standard output, or name a file"
        )
    data = read_source(source)
    with open_restorer(
        Path(root),
        server=server,
        product=product,
        model=model,
        orientations=orientations,
        tile=tile,
        backend=backend,
    ) as opened:
        image = decode_source(data, source, target, opened)
        return opened.restored(image, Path(target), how, on_progress)()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A restorer that is ready.

    Attributes:
        restorer: Of this process or a server.
        server: Whose server it asks, None in this process.
        model: What it restores with, for who must know whether that is the same as before.
        plan_for: How it restores an image of this height and width.
        types: Of the pixels that it restores without rounding them.
        levels: Those of an adjustable model.
    """

    restorer: Any
    server: str | None
    model: str
    plan_for: "Callable[[int, int], Inference]"
    types: tuple[type, ...]
    levels: "LevelRange | None"

    def restored(
        self, image: "DecodedImage", target: Path, how: How, on_progress: Callable[[float, float], None] | None
    ) -> Callable[[], RestoredFile]:
        """Restores an image, and gives the function that writes it, which another thread may run meanwhile."""
        from relume.images import is_lossless, losses, to_uint8

        def progress(tiles: int, of: int) -> None:
            if on_progress:
                on_progress(tiles / of, image.header.megapixels)

        notes, pixels = [], image.pixels
        if pixels.dtype not in self.types:
            pixels = to_uint8(pixels)
            notes.append("the values were rounded to 8 bits, which is what the server takes of this model")
        notes += image.notes
        started = time.perf_counter()
        level = self._estimated(pixels) if how.level == "auto" else how.level
        restoration: Restoration = self.restorer.restore(pixels, level=level, on_progress=progress)
        seconds, levels = time.perf_counter() - started, restoration.levels
        if levels and restoration.level is not None and (note := levels.note(restoration.level)):
            notes.append(note)
        result, metadata = finished(image, restoration.image, how)
        name = target if target != STANDARD else f"image{standard_suffix(image.header)}"
        notes += losses(result, name, metadata)
        if how.quality is not None and is_lossless(name):
            notes.append("the quality has no effect, because the format of the result is lossless")

        def write() -> RestoredFile:
            saved_as = saving_options(name, image, how)
            _save(target, result, image.header, metadata=metadata, **saved_as)
            if how.compare:
                _save_comparison(target, image.pixels, result)
            return RestoredFile(
                target=target, restoration=restoration, seconds=seconds, notes=tuple(notes), server=self.server
            )

        return write

    def _estimated(self, pixels: "np.ndarray") -> float | None:
        """The level for an image by its noise; None where the model has a level estimator, which takes its place."""
        from relume.curation.quality import image_noise
        from relume.images import to_uint8

        if self.plan_for(*pixels.shape[:2]).estimator is not None:
            return None
        if self.levels is None or self.levels.kind != "sigma":
            raise ConfigError(
                "The level cannot be estimated",
                where=self.model if self.server else self.restorer.release,
                why=f"its level is a {self.levels.kind}" if self.levels else "it takes no level",
                next_step="leave --level out, or choose an adjustable denoiser, such as denoise_adjustable",
            )
        return self.levels.nearest(image_noise(to_uint8(pixels)))


def read_source(source: str | Path) -> bytes:
    """The bytes of an image file, or of standard input.

    Raises:
        ImageError: It cannot be read.
    """
    from relume.images import read_bytes

    return sys.stdin.buffer.read() if Path(source) == STANDARD else read_bytes(source)


def decode_source(
    data: bytes, source: str | Path, target: str | Path = STANDARD, opened: "Opened | None" = None
) -> "DecodedImage":
    """Decodes an image in full, if there is memory to restore it, as `opened` does, and to write it as `target`.

    Raises:
        ImageError: It cannot be decoded, or there is no memory for it.
    """
    from relume.images import decode, read_header
    from relume.images.header import out_of_memory
    from relume.memory import available_memory

    where = "standard input" if Path(source) == STANDARD else source
    header = read_header(data, where=where, full=True)
    needed = needed_memory(header, target, opened.plan_for(header.height, header.width) if opened else None)
    if needed > (free := available_memory()):
        raise out_of_memory(where, f"it takes up to {needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB are free")
    return decode(data, where=where, full=True)


def needed_memory(header: "Header", target: str | Path = STANDARD, plan: "Inference | None" = None) -> int:
    """Bytes that an image takes at most while it is decoded, restored and encoded, without the model's own.

    Args:
        header: Of the image.
        target: The file to write; `-` for one of the image's own format.
        plan: How it is restored; in one window by one network of its own size when None.
    """
    from relume.images import check_suffix

    larger, floats = (plan.scale**2, plan.float_images) if plan else (1, 0)
    a_pixel = 3 * max(3, header.channels) * -(-header.bit_depth // 8)
    kind = header.format if Path(target) == STANDARD else check_suffix(target)
    encoding = {"AVIF": 36, "JPEG2000": 48}.get(kind, 0)  # their encoders hold many copies; as measured
    of_result = a_pixel + encoding + 3 * 4 * floats
    return larger * (header.decoding_bytes + header.width * header.height * of_result)


def standard_suffix(header: "Header") -> str:
    """The suffix of the format that goes to standard output: the input's, or `.png` where that is not written."""
    from relume.images import SUFFIXES

    return SUFFIXES.get(header.format, ".png")


def saving_options(name: str | Path, image: "DecodedImage", how: How) -> dict[str, Any]:
    """Quality and subsampling to save the result of an image by, as arguments of `relume.images.encode`."""
    from relume.images import check_suffix

    kept = image.header.quality if check_suffix(name) == image.header.format else None
    return {"quality": kept if how.quality is None else how.quality, "subsampling": how.subsampling}


def _save(target: Path, pixels: "np.ndarray", header: "Header", **options: Any) -> None:
    from relume.images import encode, save_image

    if target != STANDARD:
        save_image(target, pixels, **options)
        return
    sys.stdout.buffer.write(encode(pixels, standard_suffix(header), where="standard output", **options))
    sys.stdout.buffer.flush()


def comparison_of(target: Path) -> Path:
    """The file of before and after beside a result."""
    return target.with_name(f"{target.stem}.compare.jpg")


def _save_comparison(target: Path, before: "np.ndarray", after: "np.ndarray") -> None:
    """Before and after beside each other, or one above the other when they are wide; alpha is left out."""
    import numpy as np

    from relume.images import save_image, to_uint8
    from relume.images.channels import enlarged

    after = to_uint8(after[..., :1] if after.shape[2] <= 2 else after[..., :3])
    before = enlarged(to_uint8(before), *after.shape[:2])
    pair = [before, np.broadcast_to(after, before.shape)]
    save_image(comparison_of(target), np.concatenate(pair, axis=0 if before.shape[1] > before.shape[0] else 1))


def finished(image: "DecodedImage", restored: "np.ndarray", how: How) -> "tuple[np.ndarray, Metadata]":
    """What is saved of a restored image: blended with the input, gray if that was, with the metadata to keep.

    Args:
        image: The input, decoded in full.
        restored: What the model made of it, (H, W, 3) RGB of the input's type, or uint8; larger if the model enlarges,
            to whose size the input is then brought by bicubic interpolation.
        how: The share of the blend, and which metadata to keep.

    Returns:
        (H, W, C) RGB or gray of the type of `restored`, with the input's alpha as it was; and the metadata. Float
        values below 0 and above 1, which models do not know, are as far outside as before.
    """
    import cv2
    import numpy as np

    from relume.images import Metadata, to_uint8
    from relume.images.channels import enlarged, joined

    def as_restored(values: np.ndarray) -> np.ndarray:
        return values if values.dtype == restored.dtype else to_uint8(values)

    result, pixels = restored, enlarged(as_restored(image.pixels), *restored.shape[:2])
    if result.dtype == np.float32:
        result = result + (pixels - pixels.clip(0, 1))
    if how.blend < 1:
        result = cv2.addWeighted(result, how.blend, pixels, 1 - how.blend, 0)
    alpha = None if image.alpha is None else as_restored(image.alpha)
    result = joined(result, gray=image.header.gray, alpha=alpha)
    metadata = Metadata() if how.keep == "none" else image.metadata
    return result, metadata.without_location() if how.keep == "place" else metadata


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The model that restores in this process.

    Attributes:
        name: In results and messages.
        folder: Its served model.
        shipped: Whether it came with relume.
    """

    name: str
    folder: Path
    shipped: bool = False


@contextlib.contextmanager
def open_restorer(
    root: Path,
    *,
    server: str | None = None,
    product: str | None = None,
    model: str | Path | None = None,
    orientations: int | None = None,
    tile: int | None = None,
    backend: "Asked | None" = None,
) -> Iterator[Opened]:
    """Loads the model that restores, or connects to the server that does; see `restore_file`."""
    from relume.inference.tiling import TYPES

    if server is not None and backend is not None:
        raise ConfigError(
            "--backend cannot be used with --server",
            where=server,
            why="the server restores with the backend that the model was released for",
            next_step="leave --backend out, or set release.backend in params.yaml and release again",
        )
    if server is not None and tile is not None:
        raise ConfigError(
            "--tile cannot be used with --server",
            where=server,
            why="the server takes tiles of the size that the model was released with",
            next_step="leave --tile out, or set inference.tile in recipe.yaml and release again",
        )
    asked = f" in {orientations} orientations" if orientations else ""
    if server is None:
        from relume.files import sha256_folder

        chosen = choose(root, product=product, model=model)
        restorer = _in_process(chosen, orientations, tile, backend, place_of_release(root)[1])
        asked += f" in tiles of {tile}" if tile else ""
        model = f"{restorer.release} {sha256_folder(chosen.folder)}{asked}"
        levels = restorer.serving.levels
        yield Opened(
            restorer=restorer, server=None, model=model, plan_for=restorer.plan_for, types=TYPES, levels=levels
        )
        return
    if model is not None:
        raise ConfigError(
            "--model cannot be used with --server",
            where=server,
            why="the server restores with the products that it serves",
            next_step="leave --model out, or use --product",
        )
    product = product or released_product(root)
    from flows.embedded_triton import EmbeddedTriton, folder_of
    from relume.serving.triton_client import TritonRestorer

    own = EmbeddedTriton(place_of_release(root)[1]).at(server)
    with TritonRestorer(server, product, key=own.key if own else None, orientations=orientations) as client:
        whose = "this home's server" if own else f"the server of {folder_of(client.server())}"
        served = client.served()
        yield Opened(
            restorer=client,
            server=whose,
            model=f"{served.release}{asked}",
            plan_for=lambda height, width: served.inference,
            types=served.types,
            levels=served.levels,
        )


def _in_process(
    chosen: Chosen, orientations: int | None, tile: int | None, backend: "Asked | None", home: Path
) -> "InProcessRestorer":
    """The model by the backend that was asked for, or by its usual one."""
    from relume.serving.backends import fastest_backends, open_backend, usual_backend

    asked = fastest_backends(chosen.folder, home)[0] if backend == "auto" else backend
    computed = asked or usual_backend(shipped=chosen.shipped)
    name = f"{chosen.name} (shipped, {computed})" if chosen.shipped else chosen.name
    if asked and not chosen.shipped:
        name = f"{name} ({asked})"
    return open_backend(computed, chosen.folder, release=name, orientations=orientations, tile=tile)


def choose(root: Path, *, product: str | None = None, model: str | Path | None = None) -> Chosen:
    """The model to use in this process.

    Args:
        root: The checkout, whose package may hold the champion; from any other folder, that of the last release.
        product: Its champion, else the shipped model of that name. By default the home's `default_product`, else the
            shipped `photo`.
        model: What takes precedence over both: the folder of a served model or a package, an ONNX file of one, or the
            name of a product that ships.

    Raises:
        ModelMissingError: There is no such model or product, or no release of the product was promoted.
        ConfigError: `product` and `model` are both given, or the home's configuration is not valid.
        ReleaseError: The files of a package are not those that its hash, or the release, was made of.
        BrokenFileError: A file that names the model is damaged.
    """
    if model is not None and product is not None:
        raise ConfigError("--model and --product cannot be used together", next_step="leave one of them out")
    if str(model) in products.names() and not os.path.lexists(str(model)):
        model, product = None, str(model)
    if model is not None:
        from relume.serving.served_model import served_folder

        folder = Path(model)
        served = served_folder(folder)
        if os.path.lexists(folder / "package.json"):
            from flows.release.package import open_package

            open_package(folder)
        return Chosen(name=str(folder), folder=served)
    here = root.resolve()
    root, home = place_of_release(root)
    configured = product is None
    product = product or products.default(home)
    where = f"{product}, default_product in {home / products.CONFIGURATION}" if configured else product
    ledger = Ledger(home)
    if current := ledger.current(product):
        name = current.model if root == here else f"{current.model} (released in {root})"
        return Chosen(name=name, folder=_release_folder(root, home, current))
    released = {entry.release.product for entry in ledger.entries()}
    if product in released and product not in products.names():
        raise _nothing_serves(ledger, product, where)
    folder = products.shipped(product, released, where=where)
    return Chosen(name=product, folder=folder / "serving", shipped=True)


def _nothing_serves(ledger: Ledger, product: str, where: str) -> ModelMissingError:
    """Why a product that was registered restores nothing: its release was refused, given up, or is not done."""
    last = ledger.candidate(product)
    became = f"was {last.event}" if last and last.event != "registered" else "is not promoted"
    return ModelMissingError(
        "No release of this product serves",
        where=where,
        why=f"{last.release.model} {became}" if last else "none was promoted",
        next_step="see why with `relume status`, then run `relume pipeline run && relume release`;"
        f" or choose one of: {', '.join(products.names())}",
    )


def released_product(root: Path) -> str:
    """The product of the checkout; outside of one, the only product of the last release's home.

    Raises:
        ConfigError: Nothing was released there, or several products.
    """
    if (root / "params.yaml").is_file():
        from flows.release.package import product_of

        return product_of(root)
    released = {entry.release.product for entry in Ledger(place_of_release(root)[1]).entries()}
    if len(released) != 1:
        raise ConfigError(
            "The product to restore with is not known",
            where=root.resolve(),
            why="there is no params.yaml in this folder, and not exactly one product was released here",
            next_step="name it with --product",
        )
    return released.pop()


def _release_folder(root: Path, home: Path, release: Release) -> Path:
    """The served model of a release: every file of its package has the hash that was released."""
    from flows.release.package import open_package, read_facts

    package = root / "package"
    if os.path.lexists(package / "package.json") and read_facts(package).sha256 == release.package:
        return open_package(package).folder / "serving"
    # Where only a registry knows it, asking imports MLflow, which takes seconds.
    from flows.release.served_product import stored_package

    return stored_package(release, home).folder / "serving"
