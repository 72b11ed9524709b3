"""Images encoded by the suffix of their file, and written atomically."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import ImageError, StorageError
from relume.files import write_bytes
from relume.images.bands import bands
from relume.images.metadata import NONE, Metadata

_SUFFIX_FORMAT = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
JPEG_QUALITY = 95


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Brings uint16 pixels to uint8, each value v to the integer nearest v / 257; uint8 stays as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    result = np.empty(pixels.shape, np.uint8)
    for band in bands(pixels):
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
            next_step="use one of the suffixes " + ", ".join(_SUFFIX_FORMAT),
        )
    return _SUFFIX_FORMAT[suffix]


def encode(pixels: np.ndarray, suffix: str, *, metadata: Metadata = NONE, where: object = None) -> bytes:
    """Encodes RGB or gray pixels in the format of a suffix; equal pixels give equal bytes.

    PNG and TIFF keep uint8 and uint16 without loss. JPEG (quality 95, 4:4:4) and WebP (quality 95)
    hold 8 bits: uint16 is rounded.

    Args:
        pixels: (H, W, 3) RGB, uint8 or uint16, or (H, W, 1) gray, uint8.
        suffix: Such as `.png`.
        metadata: To put into the file; of 16-bit images the colour profile only.
        where: Path for messages.

    Raises:
        ImageError: The suffix is not known, or the format cannot hold a image of this size.
    """
    kind = check_suffix(f"image{suffix}")
    if pixels.dtype == np.uint16 and kind == "PNG":
        return _encode_deep_png(pixels, metadata.icc_profile)
    buffer = io.BytesIO()
    if pixels.dtype == np.uint16 and kind == "TIFF":
        import tifffile

        tifffile.imwrite(buffer, pixels, photometric="rgb", compression="zlib", iccprofile=metadata.icc_profile)
        return buffer.getvalue()

    from PIL import Image

    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 3},
        "JPEG": {"quality": JPEG_QUALITY, "subsampling": 0},
        "WEBP": {"quality": JPEG_QUALITY},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    try:
        image = Image.fromarray(to_uint8(pixels).squeeze(2) if pixels.shape[2] == 1 else to_uint8(pixels))
        image.save(buffer, kind, **options[kind] | metadata.options(kind))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"The image cannot be encoded as {kind}",
            reason="unsupported_size",
            where=where,
            why=f"{pixels.shape[1]}x{pixels.shape[0]}: {error}",
            next_step="save it as .png or .tif",
        ) from None
    return buffer.getvalue()


def save_image(path: str | Path, pixels: np.ndarray, *, metadata: Metadata = NONE) -> None:
    """Writes RGB or gray pixels atomically in the format of the path's suffix; see `encode`.

    Raises:
        ImageError: As `encode`, and `unwritable` when the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    data = encode(pixels, path.suffix, metadata=metadata, where=path)
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


def _encode_deep_png(pixels: np.ndarray, icc_profile: bytes | None) -> bytes:
    import cv2

    data = cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    if icc_profile is None:
        return data
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc_profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]  # 8 bytes of magic and 25 of IHDR come first
