"""The quality of a lossy file, so that its image is not saved coarser than it was."""

import functools
import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

QUALITY = 95  # of JPEG and WebP, unless the input was finer
LOSSLESS = 100  # of WebP


def quality_to_keep(opened: Any, data: bytes, kind: str) -> int | None:
    """The quality by which an image is saved in its own format no coarser than it was.

    Args:
        opened: Pillow's image.
        data: The bytes of its file.
        kind: Its format.

    Returns:
        Of a JPEG the least from 95 whose quantisation is nowhere coarser than the file's, or 100; of a lossless WebP
        100; None for others.
    """
    if kind == "WEBP" and _is_lossless(data):
        return LOSSLESS
    if kind != "JPEG":
        return None
    return next((quality for quality in range(QUALITY, 100) if _as_fine(quality, opened.quantization)), 100)


def nearest_quality(luminance: Sequence[int]) -> int:
    """The quality, 1 to 100, whose quantisation of luminance is the nearest to that of a JPEG file, (64,)."""
    return min(range(1, 101), key=lambda quality: int(np.abs(_tables(quality)[0] - np.array(luminance)).sum()))


def _as_fine(quality: int, tables: dict[int, list[int]]) -> bool:
    ours = _tables(quality)
    return all((ours[number] <= np.array(table)).all() for number, table in tables.items() if number in ours)


@functools.cache
def _tables(quality: int) -> dict[int, np.ndarray]:
    """The quantisation of luminance, 0, and colours, 1, that the writer uses at a quality."""
    from PIL import Image, JpegImagePlugin

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
    file.seek(0)
    return {number: np.array(table) for number, table in JpegImagePlugin.JpegImageFile(file).quantization.items()}


def _is_lossless(webp: bytes) -> bool:
    """Whether the chunk of its pixels is that of the lossless kind. Source: RFC 9649."""
    place = 12
    while place + 8 <= len(webp):
        name, length = struct.unpack_from("<4sI", webp, place)
        if name in (b"VP8 ", b"VP8L", b"ANMF"):
            return name == b"VP8L"
        place += 8 + length + length % 2
    return False
