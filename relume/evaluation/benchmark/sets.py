"""Benchmark sets by name, and folders of the user's own images.

No set is shipped. A folder that the user names holds them, one folder each, under the names below in any case:

    cbsd68/  kodak24/  set12/  classic5/  set5/       clean images
    polyu_dev/{noisy,clean}/  gopro_dev/{blur,sharp}/  rain100h_dev/{rain,clean}/       pairs of one file name
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from relume.errors import SourceError
from relume.images import read_bytes, read_header, read_image, to_uint8
from relume.ingestion.layouts import FOLDERS
from relume.nearest import did_you_mean

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
DATA_VARIABLE = "RELUME_DATA"


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """What is known of a set of images.

    Attributes:
        name: Such as `cbsd68`, or the folder's name of the user's own images.
        about: One line.
        protocol: The protocol that it is made for, a name of `relume.evaluation.benchmark.protocols`.
        images: The number of images that published means are over; None for the user's own.
        gray: Whether it is measured on one channel.
        luma: Whether its pairs are measured on the luma.
        pairs: Folders of the degraded and the clean images; None for clean images alone.
        folder: Its folder; None until it is opened.
    """

    name: str
    about: str
    protocol: str
    images: int | None = None
    gray: bool = False
    luma: bool = False
    pairs: tuple[str, str] | None = None
    folder: Path | None = None

    def paths(self) -> list[Path]:
        """The clean images in the order of their names."""
        assert self.folder is not None
        return _images_in(self.folder / self.pairs[1] if self.pairs else self.folder)

    def files(self, limit: int | None = None) -> list[tuple[Path, Path | None]]:
        """Each clean image and its degraded one, None without pairs, in the order of the clean ones' names.

        Args:
            limit: Only the first so many.

        Raises:
            SourceError: A degraded image is missing, or two images differ in their suffix alone.
        """
        assert self.folder is not None
        clean = _by_name(self.paths())
        if self.pairs is None:
            return [(path, None) for path in islice(clean.values(), limit)]
        degraded = _by_name(_images_in(self.folder / self.pairs[0]))
        for name, path in islice(clean.items(), limit):
            if name not in degraded:
                raise SourceError(
                    "The degraded image of a pair is missing",
                    where=self.folder / self.pairs[0] / path.name,
                    why=f"the clean image is {path}",
                    next_step="give both images of a pair the same name",
                )
        return [(path, degraded[name]) for name, path in islice(clean.items(), limit)]

    def sizes(self, limit: int | None = None) -> list[tuple[Path, int, int]]:
        """Each clean image with its height and width, read without decoding the pixels.

        Args:
            limit: Only the first so many.

        Raises:
            ImageError: A header cannot be read.
            SourceError: See `files`; or the images of a pair differ in size.
        """
        found = []
        for path, degraded in self.files(limit):
            size = _size_of(path)
            if degraded is not None:
                _check_pair(degraded, _size_of(degraded), size)
            found.append((path, *size))
        return found

    def examples(self, limit: int | None = None) -> Iterator["Example"]:
        """Reads the images one after the other.

        Args:
            limit: Only the first so many.

        Raises:
            ImageError: An image cannot be read.
            SourceError: See `files`; or the images of a pair differ in size.
        """
        for path, degraded_path in self.files(limit):
            clean, degraded = self._read(path), None
            if degraded_path is not None:
                degraded = self._read(degraded_path)
                _check_pair(degraded_path, degraded.shape[:2], clean.shape[:2])
            yield Example(image_id=path.stem, clean=clean, degraded=degraded)

    def _read(self, path: Path) -> np.ndarray:
        pixels = to_uint8(read_image(path).pixels)
        return pixels[..., :1] if self.gray else pixels


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _size_of(path: Path) -> tuple[int, int]:
    header = read_header(read_bytes(path), where=path)
    return header.height, header.width


def _check_pair(path: Path, size: tuple[int, ...], clean: tuple[int, ...]) -> None:
    if size != clean:
        raise SourceError(
            "The images of a pair differ in size",
            where=path,
            why=f"it is {size[1]}x{size[0]}, the clean one is {clean[1]}x{clean[0]}",
            next_step="give both images of a pair the same size",
        )


def _by_name(paths: list[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        if path.stem in named:
            raise SourceError(
                "Two images have the same name",
                where=f"{named[path.stem]} and {path.name}",
                why="images are distinguished, and paired, by their names without suffix",
                next_step="rename or remove one of them",
            )
        named[path.stem] = path
    return named


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image that systems are measured on.

    Attributes:
        image_id: File name without suffix.
        clean: uint8 (H, W, 3) RGB or (H, W, 1) gray.
        degraded: The degraded one of a pair, of the same shape; None where a protocol makes it.
    """

    image_id: str
    clean: np.ndarray
    degraded: np.ndarray | None


SETS = {
    entry.name: entry
    for entry in (
        ImageSet(name="cbsd68", about="68 images of BSDS500, colour denoising", protocol="awgn", images=68),
        ImageSet(name="kodak24", about="Kodak, 500x500 centre crops, colour denoising", protocol="awgn", images=24),
        ImageSet(name="set12", about="12 classic gray images, denoising", protocol="awgn", images=12, gray=True),
        ImageSet(name="classic5", about="5 gray images, JPEG artefacts", protocol="jpeg", images=5, gray=True),
        ImageSet(name="set5", about="5 images, super-resolution", protocol="sr", images=5),
        ImageSet(
            name="polyu_dev",
            about="camera noise, 30 of the 100 PolyU crops",
            protocol="paired",
            images=30,
            pairs=FOLDERS["noise"],
        ),
        ImageSet(
            name="gopro_dev",
            about="motion blur, 2 crops of GoPro",
            protocol="paired",
            images=2,
            pairs=FOLDERS["blur"],
        ),
        ImageSet(
            name="rain100h_dev",
            about="heavy rain, 3 of Rain100H",
            protocol="paired",
            images=3,
            luma=True,
            pairs=FOLDERS["rain"],
        ),
    )
}


def open_set(name: str, data: str | Path | None) -> ImageSet:
    """Finds a set.

    Args:
        name: A key of `SETS`, or the path of a folder of the user's own images: clean ones, or pairs in the
            subfolders `noisy` and `clean` (or `blur` and `sharp`, `rain` and `clean`).
        data: The folder that holds the sets of `SETS`.

    Raises:
        SourceError: There is no such set; says where it looked.
    """
    if name in SETS:
        return _opened(SETS[name], _folder_of(name, data))
    folder = Path(name)
    if not folder.is_dir():
        raise SourceError(
            "The set does not exist",
            where=name,
            why=did_you_mean(name, SETS) or "it is neither a known set nor a folder",
            next_step=f"name a folder of images, or one of: {', '.join(SETS)}",
        )
    pairs = next((pair for pair in FOLDERS.values() if all((folder / part).is_dir() for part in pair)), None)
    own = ImageSet(
        name=folder.resolve().name,
        about="own images",
        protocol="paired" if pairs else "awgn-clipped",
        pairs=pairs,
    )
    return _opened(own, folder)


def _folder_of(name: str, data: str | Path | None) -> Path:
    if data is None:
        raise SourceError(
            "The folder of the benchmark sets is not given",
            where=name,
            next_step=f"give the folder that contains {name}/ with --data FOLDER or the variable {DATA_VARIABLE}",
        )
    data = Path(data)
    found = [path for path in sorted(data.iterdir()) if path.name.lower() == name] if data.is_dir() else []
    if not found:
        raise SourceError(
            "The benchmark set is missing",
            where=data / name,
            why=f"{data} {'has no such folder' if data.is_dir() else 'is not a folder'}",
            next_step=f"put its images there, or give another folder with --data or {DATA_VARIABLE}",
        )
    return found[0]


def _opened(entry: ImageSet, folder: Path) -> ImageSet:
    opened = replace(entry, folder=folder)
    missing = [part for part in entry.pairs or () if not (folder / part).is_dir()]
    if missing or not opened.paths():
        raise SourceError(
            "The set contains no images",
            where=folder,
            why=f"there is no folder {missing[0]}" if missing else "no file in it has the suffix of an image",
            next_step="put images there" + (f", in {' and '.join(entry.pairs)}" if entry.pairs else ""),
        )
    return opened
