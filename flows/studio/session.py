"""The images of a studio: read, restored one after the other, and saved in the ways that the page asks for.

Images and results lie in a folder; one image that is read and one that is restored are in memory.
"""

import contextlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flows.release.ledger import Ledger
from flows.restore import How, Opened, choose, decode_source, finished, open_restorer, saving_options
from flows.restore_files import writable
from relume import products
from relume.curation.quality import image_noise, shrink
from relume.errors import ConfigError, RelumeError
from relume.home import place_of_release
from relume.images import SUFFIXES, DecodedImage, losses, read_bytes, save_image, to_uint8
from relume.serving.backends import Asked
from relume.serving.served_model import read_serving

THUMBNAIL = 144  # pixels of the longer side
Preview = Literal["before", "after", "thumbnail"]


@dataclass(kw_only=True)
class StudioImage:
    """An image of the studio.

    Attributes:
        key: By which the page names it; it cannot be guessed.
        name: Of the file.
        width: In pixels.
        height: In pixels.
        noise: Estimated standard deviation of its noise, on the 8-bit scale.
        state: What is being done with it.
        done: Tiles that are restored.
        tiles: Tiles in all.
        product: What it is, or was last, restored with.
        orientations: In which it is, or was, restored; as the model says when None.
        backend: What computes, or computed, it; as usual for the model when None.
        level: The level that it was restored at; None where the model takes none.
        release: The model that restored it.
        seconds: Of the restoration.
        notes: What the user should know.
        losses: What the result loses in each format that the page offers, by suffix; by an empty one in its own.
        error: Why it could not be restored.
        version: Counts its results, so that the page shows the newest.
    """

    key: str
    name: str
    width: int
    height: int
    noise: float
    state: Literal["read", "waiting", "restoring", "restored", "failed"] = "read"
    done: int = 0
    tiles: int = 0
    product: str | None = None
    orientations: int | None = None
    backend: Asked | None = None
    level: float | None = None
    release: str | None = None
    seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    losses: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None
    version: int = 0


class Session:
    """The images of a studio, from its start to its end; a context manager.

    Args:
        folder: For the images and their results; the caller removes it.
        root: The checkout, whose package may hold the champion.
    """

    def __init__(self, folder: Path, root: Path):
        self._folder, self._root = folder, root
        self._images: dict[str, StudioImage] = {}
        self._opened: dict[tuple[Any, ...], Opened] = {}
        self._closing = contextlib.ExitStack()
        self._reader, self._worker = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for image in self._images.values():  # a running restoration ends at its next tile
            image.state = "failed"
        self._reader.shutdown(cancel_futures=True)
        self._worker.shutdown(cancel_futures=True)
        self._closing.close()

    def products(self) -> dict[str, Any]:
        """What restores: the name of the default, and of each product its model, purpose and levels, and whether it
        estimates the level itself."""
        home = place_of_release(self._root)[1]
        released = {entry.release.product for entry in Ledger(home).entries()}
        found = []
        for name in sorted({*products.names(), *released}):
            with contextlib.suppress(RelumeError):  # a product that does not serve now is not offered
                chosen = choose(self._root, product=name)
                purpose = products.purpose(name) if chosen.shipped else f"Released here: {chosen.name}."
                serving = read_serving(chosen.folder)
                estimates = serving.inference.estimator is not None
                found.append({"name": name, "purpose": purpose, "levels": serving.levels, "estimates": estimates})
        return {"default": products.default(home), "products": found}

    def images(self) -> list[StudioImage]:
        """All images, in the order in which they were added."""
        return list(self._images.values())

    def image(self, key: str) -> StudioImage:
        """The image of a key.

        Raises:
            ConfigError: There is none.
        """
        if key not in self._images:
            raise ConfigError("There is no such image", where=key, next_step="add it to the page again")
        return self._images[key]

    def new_file(self) -> Path:
        """Where the bytes of an image go before it is added."""
        return self._folder / secrets.token_urlsafe(16)

    def add(self, file: Path, name: str) -> StudioImage:
        """Reads an image.

        Args:
            file: From `new_file`; removed if it is not an image.
            name: That it has for the user.

        Raises:
            ImageError: It cannot be read.
        """
        try:
            image = self._reader.submit(self._read, file, name).result()
        except RelumeError:
            file.unlink(missing_ok=True)
            raise
        self._images[image.key] = image
        return image

    def _read(self, file: Path, name: str) -> StudioImage:
        decoded = decode_source(read_bytes(file), name)
        pixels = to_uint8(decoded.pixels)
        save_image(self._file(file.name, "before.png"), _shown(decoded, decoded.pixels))
        save_image(self._file(file.name, "thumbnail.png"), shrink(pixels, THUMBNAIL))
        return StudioImage(
            key=file.name,
            name=name,
            width=decoded.header.width,
            height=decoded.header.height,
            noise=round(image_noise(pixels), 1),
            notes=list(decoded.notes),
        )

    def restore(
        self,
        key: str,
        *,
        product: str,
        level: float | None,
        orientations: int | None = None,
        backend: Asked | None = None,
    ) -> StudioImage:
        """Has an image restored when those before it are done.

        Args:
            key: Of the image.
            product: To restore with.
            level: For an adjustable model; when None what its level estimator estimates, or its default.
            orientations: See `relume.Restorer`.
            backend: See `flows.restore.restore_file`.

        Raises:
            ConfigError: There is no such image, or it is being restored.
        """
        image = self.image(key)
        if image.state in ("waiting", "restoring"):
            raise ConfigError("The image is being restored already", where=image.name, next_step="wait for its end")
        image.state, image.error, image.done, image.tiles = "waiting", None, 0, 0
        image.product, image.orientations, image.backend = product, orientations, backend
        self._worker.submit(self._restore, image, level)
        return image

    def _restore(self, image: StudioImage, level: float | None) -> None:
        def progress(done: int, tiles: int) -> None:
            if image.state != "restoring":
                raise ConfigError("The image was removed", next_step="add it again")
            image.done, image.tiles = done, tiles

        try:
            if image.state != "waiting":
                return
            image.state, started = "restoring", time.perf_counter()
            opened = self._open(image)
            decoded = self._decoded(image, opened)
            restoration = opened.restorer.restore(decoded.pixels, level=level, on_progress=progress)
            with open(self._file(image.key, "npy"), "wb") as file:
                np.save(file, restoration.image, allow_pickle=False)
            result, metadata = finished(decoded, restoration.image, How())
            save_image(self._file(image.key, "after.png"), to_uint8(result))
            image.losses = {
                suffix: losses(result, _saved_name(image, suffix), metadata) for suffix in ("", *SUFFIXES.values())
            }
            note = restoration.levels.note(restoration.level) if restoration.levels else None
            image.notes = [*decoded.notes, *filter(None, [note])]
            image.level, image.release = restoration.level, restoration.release
            image.seconds, image.version = round(time.perf_counter() - started, 2), image.version + 1
            image.state = "restored"
        except Exception as error:  # the page shows it beside the image, and the next one is restored
            image.state, image.error = "failed", str(error)
        finally:
            if image.key not in self._images:
                self._delete(image.key)

    def _open(self, image: StudioImage) -> Opened:
        key = image.product, image.orientations, image.backend
        if key not in self._opened:
            opening = open_restorer(
                self._root, product=image.product, orientations=image.orientations, backend=image.backend
            )
            self._opened[key] = self._closing.enter_context(opening)
        return self._opened[key]

    def _decoded(self, image: StudioImage, opened: Opened | None = None) -> DecodedImage:
        return decode_source(read_bytes(self._folder / image.key), image.name, opened=opened)

    def preview(self, key: str, which: Preview) -> Path:
        """A PNG of an image.

        Raises:
            ConfigError: There is no such image, or it is not restored yet.
        """
        image, file = self.image(key), self._file(key, f"{which}.png")
        if not file.is_file():
            raise ConfigError("The image is not restored yet", where=image.name, next_step="restore it first")
        return file

    def saved(self, key: str, how: How, suffix: str | None) -> tuple[Path, str]:
        """Saves a restored image for download.

        Args:
            key: Of the image.
            how: The share of the blend, and which metadata to keep.
            suffix: Of the format; None for that of the input.

        Returns:
            The file, which the caller removes, and the name to save it by.

        Raises:
            ConfigError: There is no such image, or it is not restored yet.
            ImageError: The format is not written, or cannot hold the image.
        """
        self.preview(key, "after")
        return self._reader.submit(self._save, self.image(key), how, suffix).result()

    def _save(self, image: StudioImage, how: How, suffix: str | None) -> tuple[Path, str]:
        name = _saved_name(image, suffix)
        restored = np.load(self._file(image.key, "npy"), allow_pickle=False)
        decoded = self._decoded(image)
        pixels, metadata = finished(decoded, restored, how)
        file = self.new_file().with_suffix(name.suffix)
        save_image(file, pixels, metadata=metadata, **saving_options(name, decoded, how))
        return file, f"{name.stem}-restored{name.suffix}"

    def remove(self, key: str) -> None:
        """Removes an image and its results; a running restoration ends at its next tile.

        Raises:
            ConfigError: There is no such image.
        """
        running = self.image(key).state == "restoring"
        self._images.pop(key).state = "failed"
        if not running:
            self._delete(key)

    def _delete(self, key: str) -> None:
        for file in self._folder.glob(f"{key}*"):
            file.unlink(missing_ok=True)

    def _file(self, key: str, kind: str) -> Path:
        return self._folder / f"{key}.{kind}"


def _saved_name(image: StudioImage, suffix: str | None) -> Path:
    return Path(image.name).with_suffix(suffix) if suffix else writable(Path(image.name))


def _shown(image: DecodedImage, restored: np.ndarray) -> np.ndarray:
    """What the page shows, 8 bits a channel, as that is what screens show."""
    return to_uint8(finished(image, restored, How())[0])
