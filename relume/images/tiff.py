"""TIFF files written with their metadata, by tifffile: of any depth, compressed without loss."""

import io
import struct
from typing import Any

import numpy as np

from relume.images.metadata import DESCRIPTIVE, EXIF, GPS, XMP, Metadata, tags_of

_BYTE, _ASCII, _LONG = 1, 2, 4
# Tags that tifffile does not write, under free numbers of the same place in the order.
_STAND_IN = {EXIF: EXIF - 1, GPS: GPS - 1}


def encode_tiff(pixels: np.ndarray, metadata: Metadata) -> bytes:
    """Encodes an image; equal pixels give equal bytes.

    Args:
        pixels: (H, W, C) gray, gray and alpha, RGB, or RGB and alpha: uint8, uint16 or float32.
        metadata: To put into the file.
    """
    import tifffile

    channels = pixels.shape[2]
    tags = tags_of(metadata.exif) if metadata.exif else {}
    own = [(tag, _ASCII, 0, tags[tag], True) for tag in DESCRIPTIVE if isinstance(tags.get(tag), str)]
    if metadata.xmp:
        own.append((XMP, _BYTE, len(metadata.xmp), metadata.xmp, True))
    own += [(number, _LONG, 1, 0, True) for tag, number in _STAND_IN.items() if tag in tags]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if channels == 1 else pixels,
        byteorder="<",
        photometric="minisblack" if channels <= 2 else "rgb",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=metadata.icc_profile,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        software=False,
        metadata=None,
        extratags=own,
    )
    return _with_blocks(buffer.getvalue(), tags)


def _with_blocks(data: bytes, tags: Any) -> bytes:
    """Appends the EXIF and GPS blocks, and has the file point to them in place of the stand-ins."""
    import tifffile
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    result = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        for tag, number in _STAND_IN.items():
            if tag not in tags:
                continue
            block = ImageFileDirectory_v2(b"II*\0\0\0\0\0", group=tag)
            block.update(tags.get_ifd(tag))
            result += b"\0" * (len(result) % 2)
            entry = page.tags[number].offset
            struct.pack_into("<H", result, entry, tag)
            struct.pack_into("<I", result, entry + 8, len(result))
            result += block.tobytes(len(result))
    return bytes(result)
