"""Formats that are read to be restored, of which camera raw trains, too; some by packages that are not always there."""

import importlib
import io
import struct
from typing import Any

from relume.errors import ImageError

RAW = "RAW"
# By format: Pillow's reader, and the package that brings it where that is not Pillow.
_READERS = {
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile", None),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile", None),
    "HEIF": ("pillow_heif.as_plugin", "HeifImageFile", "pillow-heif"),
    "JPEG XL": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile", "pillow-jxl-plugin"),
    RAW: ("", "", "rawpy"),  # ours, imported below
}
_MAGIC = {
    b"\0\0\0\x0cjP  ": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"FUJIFILMCCD-RAW": RAW,
    b"IIRO": RAW,  # Olympus
    b"IIU\0": RAW,  # Panasonic
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": RAW}  # of ISO files; all others are HEIF
_CANON, _SUBFILE_TYPE, _DNG_VERSION = b"CR", 254, 50706


def further_format(data: bytes) -> str | None:
    """The format of a file by its first bytes, and of a TIFF by its tags; None for others than these."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "HEIF")
    if data.startswith((b"II*\0", b"MM\0*")):
        from PIL.Image import Exif

        tags = Exif()
        try:
            tags.load(data)
        except Exception:  # damaged: the reader of TIFF says how
            return None
        raw = data[8:10] == _CANON or _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE, 0) & 1
        return RAW if raw else None
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def open_further(kind: str, data: bytes, where: object) -> Any:
    """Opens a file of such a format: Pillow's image, or a `RawFile`.

    Raises:
        ImageError: The package that reads it is not installed; reason `missing_package`.
    """
    module, reader, package = _READERS[kind]
    try:
        if kind == RAW:
            from relume.images.raw import RawFile  # not by name: an edit of it is one of the code of the stages

            return RawFile(io.BytesIO(data))
        opened = getattr(importlib.import_module(module), reader)(io.BytesIO(data))
        if kind == "JPEG XL" and (xmp := _xmp_of_jpeg_xl(data)):  # which its reader leaves out
            opened.info["xmp"] = xmp
        return opened
    except ImportError as error:
        raise ImageError(
            "The image format is read by a package that is not installed",
            reason="missing_package",
            where=where,
            why=f"{kind} files are read by the package {package}: {error}",
            next_step=f'pip install {package}, or pip install "relume[formats]" for all formats',
        ) from None


def _xmp_of_jpeg_xl(data: bytes) -> bytes | None:
    """The XMP packet of the file's box `xml `. Source: ISO/IEC 18181-2."""
    place = 0
    while data.startswith(b"\0") and place + 16 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        if name == b"xml ":
            return data[place + 8 : place + size if size else None]
        size = struct.unpack_from(">Q", data, place + 8)[0] if size == 1 else size
        place += size if size >= 8 else len(data)  # without a size it reaches to the end
    return None
