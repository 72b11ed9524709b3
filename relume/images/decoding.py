"""Image files decoded to RGB arrays.

An image file becomes (H, W, 3) RGB, uint8 for up to 8 bits a channel and uint16 for 16 bits:

- EXIF (or TIFF) orientation is applied, so row 0 is the top of the image as seen.
- Gray becomes three equal channels; palettes are resolved; of an animation the first frame counts.
- Alpha is composited over white, since colours under transparent pixels are arbitrary; in full it is kept apart.
- In full, the formats of `relume.images.further` are read, too; camera raw alone with `develop`.
- Float TIFF, and 16-bit TIFF that is stored plane by plane, are refused; in full they are read, float as float32.
- CMYK is converted by the plain formula; in full by its profile, if it has one, to sRGB. Other ICC profiles are never
  applied: the values of RGB and gray stay as they are in the file, and the profile is passed on, as EXIF, XMP and
  resolution are, to be saved again.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import ImageError
from relume.files import open_regular
from relume.images.bands import bands
from relume.images.channels import split
from relume.images.header import Header, damaged, open_image, too_large
from relume.images.metadata import Metadata, metadata_of
from relume.images.orientation import as_seen, as_stored
from relume.images.profiles import cmyk_to_srgb, unusual


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, of float files float32.
        header: The facts about the file it came from.
        metadata: What else the file holds, to be saved with the result.
        alpha: (H, W) of the pixels' type, of a file with transparency that was decoded in full; else None.
        notes: What the user should know of a file that was decoded in full.
    """

    pixels: np.ndarray
    header: Header
    metadata: Metadata
    alpha: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def decode(
    data: bytes,
    *,
    where: object = None,
    max_megapixels: float = 200.0,
    min_side: int = 1,
    full: bool = False,
    develop: bool = False,
) -> DecodedImage:
    """Decodes the bytes of an image file.

    Args:
        data: The bytes of the file.
        where: Path or address for messages.
        max_megapixels: Larger images are refused from their header, before memory is taken.
        min_side: Smallest width and height that is accepted, in pixels.
        full: Whether all that the file holds is to be saved again: alpha apart from the colours, float values as such.
        develop: Whether camera raw is developed to 16 bits, as it is in full; else it is refused.

    Raises:
        ImageError: `reason` is `empty_file`, `wrong_magic`, `unsupported_format`, `missing_package`,
            `decompression_bomb`, `too_small`, `truncated` or `corrupt`.
    """
    opened, header = open_image(data, where, full=full, develop=develop)
    if header.megapixels > max_megapixels:
        size = f"{header.width}x{header.height} is {header.megapixels:.0f} megapixels, the limit {max_megapixels:g}"
        raise too_large(f"{size}; it would take {header.decoding_bytes / 1e9:.1f} GB of memory", where)
    if min(header.width, header.height) < min_side:
        raise ImageError(
            "The image is too small",
            reason="too_small",
            where=where,
            why=f"it has {header.width}x{header.height} pixels, and each side must have at least {min_side}",
            next_step="use a larger image",
        )
    cmyk = full and header.mode == "CMYK"
    to_srgb = cmyk_to_srgb(opened.info.get("icc_profile")) if cmyk else None
    try:
        if hasattr(opened, "pixels"):  # a DeepTiff or a RawFile
            pixels, alpha = split(opened.pixels())
        else:
            shape, depth = (header.height, header.width), np.uint16 if header.deep else np.uint8
            pixels = np.empty((*shape, 3), depth)
            alpha = np.empty(shape, depth) if full and _has_alpha(opened, header) else None
            # Pillow and OpenCV turn a TIFF while they decode it, and only a TIFF.
            turned = 1 if header.format == "TIFF" else header.orientation
            fill = _fill_deep if header.deep else _fill
            source = to_srgb(opened) if to_srgb else opened
            fill(as_stored(pixels, turned), None if alpha is None else as_stored(alpha, turned), source, data, header)
    except Exception as error:  # whatever a decoder raises belongs to this file
        raise damaged(data, header.format, error, where) from error
    metadata = metadata_of(opened, header.format, colours=_colours(header))
    notes = list(filter(None, [metadata.problem])) if full else []
    if cmyk:
        way = "its profile" if to_srgb else "the plain formula, as it has no profile"
        notes.append(f"CMYK was converted to sRGB by {way}")
    if full and metadata.icc_profile and (profile := unusual(metadata.icc_profile)):
        notes.append(f"{profile}, unlike what models were trained on; the values were not converted")
    return DecodedImage(pixels=pixels, header=header, metadata=metadata, alpha=alpha, notes=tuple(notes))


def decode_gray(data: bytes, *, where: object = None, max_megapixels: float = 200.0, min_side: int = 1) -> np.ndarray:
    """Decodes the gray values of an image file, (H, W) uint8; of a JPEG in colour its luma, in a third of the time.

    Raises:
        ImageError: As `decode`.
    """
    import cv2

    opened, header = open_image(data, where)
    if header.format == "JPEG" and header.mode == "RGB" and min(header.width, header.height) >= min_side:
        if header.megapixels > max_megapixels:
            raise too_large(f"{header.width}x{header.height}", where)
        try:
            opened.draft("L", opened.size)
            return np.ascontiguousarray(as_seen(np.asarray(opened.convert("L")), header.orientation))
        except Exception as error:  # whatever a decoder raises belongs to this file
            raise damaged(data, header.format, error, where) from error
    pixels = decode(data, where=where, max_megapixels=max_megapixels, min_side=min_side).pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def read_image(path: str | Path, *, max_megapixels: float = 200.0, full: bool = False) -> DecodedImage:
    """Decodes an image file; see `decode`.

    Raises:
        ImageError: As `decode`, and `not_found` or `unreadable` for the file itself.
    """
    return decode(read_bytes(path), where=path, max_megapixels=max_megapixels, full=full)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: `not_found` or `unreadable`; anything but a regular file is not opened.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        raise ImageError(
            "The image does not exist", reason="not_found", where=path, next_step="check the path"
        ) from None
    except OSError as error:
        raise ImageError(
            "The image cannot be read",
            reason="unreadable",
            where=path,
            why=error.strerror,
            next_step="check that it is a file that you may read",
        ) from None


def _colours(header: Header) -> bytes:
    """What a colour profile calls the colours of a file."""
    return b"CMYK" if header.mode == "CMYK" else b"GRAY" if header.gray and not header.mode.startswith("P") else b"RGB "


def _has_alpha(opened: Any, header: Header) -> bool:
    return header.channels in (2, 4) if header.deep else opened.has_transparency_data


def _fill(target: np.ndarray, alpha: np.ndarray | None, opened: Any, data: bytes, header: Header) -> None:
    opened.load()
    mode = "RGBA" if opened.has_transparency_data else "RGB"
    for band in bands(target):
        part = opened.crop((0, band.start, opened.width, band.stop))
        part = np.asarray(part if opened.mode == mode else part.convert(mode))
        _put(target[band], None if alpha is None else alpha[band], part)


def _fill_deep(target: np.ndarray, alpha: np.ndarray | None, opened: Any, data: bytes, header: Header) -> None:
    """Decodes more than 8 bits without Pillow, which drops the lower ones."""
    pixels = _heif_pixels(data, header) if header.format == "HEIF" else _opencv_pixels(data)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != target.shape[:2]:
        raise ValueError("the 16-bit pixels cannot be decoded")
    for band in bands(target):
        part = _to_16_bits(pixels[band], header.bit_depth)
        if part.ndim == 2:
            target[band] = part[..., None]
        elif part.shape[2] == 4 and (header.format, header.channels) != ("TIFF", 3):
            _put(target[band], None if alpha is None else alpha[band], part[..., [2, 1, 0, 3]])
        else:  # a fourth channel that a TIFF does not declare as alpha, such as infrared, is left out
            target[band] = part[..., 2::-1]


def _opencv_pixels(data: bytes) -> np.ndarray | None:
    """Values as stored, gray or with blue first."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error says what it would print
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(error.err) from error


def _heif_pixels(data: bytes, header: Header) -> np.ndarray:
    """Values as stored, with blue first as OpenCV has it."""
    import pillow_heif

    opened = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    return np.asarray(opened)[..., [2, 1, 0, 3][: header.channels]]


def _to_16_bits(values: np.ndarray, bit_depth: int) -> np.ndarray:
    """Scales values of 10 or 12 bits, so that white is 65535."""
    if bit_depth == 16:
        return values
    white = 2**bit_depth - 1
    return ((values.astype(np.uint32) * 65535 + white // 2) // white).astype(np.uint16)


def _put(target: np.ndarray, alpha: np.ndarray | None, part: np.ndarray) -> None:
    """Puts RGB in its place, and RGBA apart where alpha has a place of its own, else over white."""
    if alpha is not None:
        target[:], alpha[:] = part[..., :3], part[..., 3]
    else:
        target[:] = over_white(part) if part.shape[2] == 4 else part


def over_white(pixels_RGBA: np.ndarray) -> np.ndarray:
    """Composites over white, rounded to the nearest integer; (H, W, 4) to (H, W, 3)."""
    white = np.iinfo(pixels_RGBA.dtype).max
    colour, alpha = pixels_RGBA[..., :3].astype(np.uint32), pixels_RGBA[..., 3:].astype(np.uint32)
    return ((colour * alpha + white * (white - alpha) + white // 2) // white).astype(pixels_RGBA.dtype)
