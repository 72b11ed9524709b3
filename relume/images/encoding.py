"""Images encoded by the suffix of their file, and written atomically."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relume.errors import ImageError, StorageError
from relume.files import write_bytes
from relume.images.bands import bands
from relume.images.decoding import over_white
from relume.images.metadata import NONE, Metadata
from relume.images.quality import LOSSLESS, QUALITY

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]


@dataclass(frozen=True)
class _Format:
    """What a format holds: values of at most this type, alpha, metadata; its usual quality, None if it is lossless."""

    deepest: type
    alpha: bool
    quality: int | None = None
    metadata: bool = True


_FORMATS = {
    "PNG": _Format(np.uint16, True),
    "JPEG": _Format(np.uint8, False, QUALITY),
    "WEBP": _Format(np.uint8, True, QUALITY),
    "TIFF": _Format(np.float32, True),
    "AVIF": _Format(np.uint8, True, 90),
    "JPEG2000": _Format(np.uint8, True, metadata=False),
    "BMP": _Format(np.uint8, False, metadata=False),
}
_SUFFIX_FORMAT = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".bmp": "BMP",
}
SUFFIXES = {kind: suffix for suffix, kind in reversed(_SUFFIX_FORMAT.items())}  # by format the usual one
_WORDS = {np.dtype(np.uint16): "16-bit", np.dtype(np.float32): "float"}


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Brings pixels to uint8: uint16 values v to the integer nearest v / 257, float32 in [0, 1] nearest 255 v."""
    if pixels.dtype == np.uint8:
        return pixels
    result = np.empty(pixels.shape, np.uint8)
    for band in bands(pixels):
        if pixels.dtype == np.float32:
            result[band] = np.rint(pixels[band].clip(0, 1) * 255)
        else:
            result[band] = (pixels[band].astype(np.uint32) + 128) // 257  # 257 is odd: there are no ties
    return result


def check_suffix(path: str | Path) -> str:
    """The format that a file of this name would be saved in.

    Raises:
        ImageError: The suffix names no format that can be written; reason `unsupported_format`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIX_FORMAT:
        raise ImageError(
            f"Images cannot be saved as {suffix!r}" if suffix else "The file name has no suffix",
            reason="unsupported_format",
            where=path,
            next_step="use one of the suffixes " + ", ".join(_SUFFIX_FORMAT) + "; the name of a folder ends with /",
        )
    return _SUFFIX_FORMAT[suffix]


def is_lossless(path: str | Path) -> bool:
    """Whether an image is always saved without loss in the format of a file name, so that it takes no quality."""
    return _FORMATS[check_suffix(path)].quality is None


def losses(pixels: np.ndarray, path: str | Path, metadata: Metadata = NONE) -> list[str]:
    """What an image loses in the format of a file name, a sentence for each; see `encode`."""
    kind = check_suffix(path)
    held = _FORMATS[kind]
    lost = []
    if pixels.dtype.itemsize > np.dtype(held.deepest).itemsize:
        bits = 8 * np.dtype(held.deepest).itemsize
        lost.append(f"{_WORDS[pixels.dtype]} values were rounded to {bits} bits, the most that {kind} holds here")
    if pixels.shape[2] in (2, 4) and not held.alpha:
        lost.append(f"transparency was composited over white, because {kind} holds none here")
    if held.metadata and metadata.icc_profile and not _fits(metadata, pixels, kind):
        lost.append(f"the colour profile of gray was left out, because the image is saved with three colours as {kind}")
    if not held.metadata and (metadata.exif or metadata.xmp or metadata.icc_profile):
        lost.append(f"EXIF, XMP and the colour profile were left out, because {kind} holds none here")
    return lost


def encode(
    pixels: np.ndarray,
    suffix: str,
    *,
    metadata: Metadata = NONE,
    quality: int | None = None,
    subsampling: Subsampling = "4:4:4",
    where: object = None,
) -> bytes:
    """Encodes pixels in the format of a suffix; equal pixels give equal bytes.

    TIFF keeps uint8, uint16 and float32 without loss, PNG uint8 and uint16, BMP uint8. JPEG, WebP, AVIF and lossless
    JPEG 2000 hold 8 bits. Deeper values are rounded to what the format holds, and alpha is composited over white where
    it holds none.

    Args:
        pixels: (H, W, C) gray, gray and alpha, RGB, or RGB and alpha: uint8, uint16, or float32 in [0, 1].
        suffix: Such as `.png`.
        metadata: To put into the file.
        quality: Of JPEG, WebP and AVIF, 1 to 100, with which WebP is lossless; when None 95, of AVIF 90.
        subsampling: Of the colours of JPEG and AVIF; that of WebP is always 4:2:0.
        where: Path for messages.

    Raises:
        ImageError: The suffix is not known, or the format cannot hold an image of this size.
    """
    kind = check_suffix(f"image{suffix}")
    pixels = _as_held(pixels, _FORMATS[kind])
    if not _fits(metadata, pixels, kind):
        metadata = replace(metadata, icc_profile=None)
    try:
        if kind == "TIFF":
            from relume.images.tiff import encode_tiff

            return encode_tiff(pixels, metadata)
        if pixels.dtype == np.uint16:
            return _encode_deep_png(pixels, metadata)
        return _by_pillow(pixels, kind, metadata, **_options(kind, quality, subsampling))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"The image cannot be encoded as {kind}",
            reason="unsupported_size",
            where=where,
            why=f"{pixels.shape[1]}x{pixels.shape[0]}: {error}",
            next_step="save it as .png or .tif",
        ) from None


def save_image(path: str | Path, pixels: np.ndarray, **options: Any) -> None:
    """Writes pixels atomically in the format of the path's suffix; see `encode`, also for the options.

    Raises:
        ImageError: As `encode`, and `unwritable` when the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    data = encode(pixels, path.suffix, where=path, **options)
    try:
        write_bytes(path, data)
    except (OSError, StorageError) as error:
        raise ImageError(
            "The image cannot be written",
            reason="unwritable",
            where=path,
            why=error.what if isinstance(error, StorageError) else error.strerror,
            next_step="choose a folder that you may write to",
        ) from None


def _as_held(pixels: np.ndarray, held: _Format) -> np.ndarray:
    if pixels.dtype.itemsize > np.dtype(held.deepest).itemsize:
        deep = held.deepest is np.uint16
        pixels = np.rint(pixels.clip(0, 1) * 65535).astype(np.uint16) if deep else to_uint8(pixels)
    if held.alpha or pixels.shape[2] in (1, 3):
        return pixels
    rgb = over_white(_with_three_colours(pixels))
    return rgb[..., :1] if pixels.shape[2] == 2 else rgb


def _fits(metadata: Metadata, pixels: np.ndarray, kind: str) -> bool:
    """Whether the colour profile is not one of gray for an image that is saved with three colours."""
    three = kind in ("WEBP", "AVIF") or (kind == "PNG" and pixels.shape[2] == 2 and pixels.dtype == np.uint16)
    return not (metadata.icc_profile and metadata.icc_profile[16:20] == b"GRAY" and (three or pixels.shape[2] >= 3))


def _with_three_colours(pixels: np.ndarray) -> np.ndarray:
    """RGB and alpha of gray and alpha; others as they are."""
    return pixels[..., [0, 0, 0, 1]] if pixels.shape[2] == 2 else pixels


def _options(kind: str, quality: int | None, subsampling: Subsampling) -> dict[str, Any]:
    """Pillow's arguments."""
    quality = _FORMATS[kind].quality if quality is None else quality
    if kind == "PNG":
        return {"compress_level": 3}
    if kind == "WEBP":
        return {"lossless": True} if quality == LOSSLESS else {"quality": quality}
    return {"quality": quality, "subsampling": subsampling} if kind in ("JPEG", "AVIF") else {}


def _by_pillow(pixels: np.ndarray, kind: str, metadata: Metadata, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    image.save(buffer, kind, **options, **metadata.options(kind))
    return buffer.getvalue()


def _encode_deep_png(pixels: np.ndarray, metadata: Metadata) -> bytes:
    """By OpenCV, because Pillow writes no 16-bit colours; the chunks of the metadata are those that Pillow writes."""
    import cv2

    pixels = _with_three_colours(pixels)
    bgr = pixels[..., [2, 1, 0, 3]] if pixels.shape[2] == 4 else pixels[..., ::-1]
    data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    start = 33  # 8 bytes of magic and 25 of IHDR come first
    one_pixel = _by_pillow(np.zeros((1, 1, 3), np.uint8), "PNG", metadata)
    chunks = one_pixel[start : one_pixel.index(b"IDAT") - 4]
    return data[:start] + chunks + data[start:]
