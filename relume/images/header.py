"""What a file says about its image before a pixel is decoded, and the reasons why it cannot be read."""

import io
import struct
from dataclasses import dataclass
from typing import Any

from relume.errors import ImageError
from relume.images.deep_tiff import DeepTiff
from relume.images.further import RAW, further_format, open_further
from relume.images.quality import quality_to_keep

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
}
# Formats that people do keep photographs in and that are not read here, so that the message can name them.
_UNSUPPORTED_MAGIC = {
    b"8BPS": "Photoshop",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"FUJIFILMCCD-RAW": "camera raw",
}
_SUPPORTED = "use PNG, JPEG, WebP, TIFF, BMP or GIF"


# Ours is the limit of a caller, see `decode`. Pillow's own is 179 megapixels; here it raises above 2**30 pixels, as
# OpenCV does, before it makes room for the frame of a GIF.
_PILLOW_PIXELS = 2**29

# TIFF tags, by the numbers of the TIFF 6.0 specification and, for the last, of DNG 1.0.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _PLANAR, _EXTRA_SAMPLES, _DNG_VERSION = 254, 258, 262, 284, 338, 50706
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its image before any pixel is decoded.

    Attributes:
        format: PNG, JPEG, WEBP, TIFF, BMP or GIF, or one of `relume.images.further`, by the file's first bytes and not
            by its name.
        width: Pixels across, after the orientation is applied.
        height: Pixels down, after the orientation is applied.
        mode: Pillow's name of the stored pixels, such as RGB, L, P or CMYK, with `;16` for those that are decoded to 16
            bits, `;32` for float.
        channels: Stored channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha or CMYK.
        bit_depth: Stored bits a channel.
        orientation: EXIF orientation, 1 to 8.
        quality: By which it is saved again in its format no coarser than it was, see `quality_to_keep`; None where the
            usual one does, or there is none.
    """

    format: str
    width: int
    height: int
    mode: str
    channels: int
    bit_depth: int
    orientation: int
    quality: int | None = None

    @property
    def decoding_bytes(self) -> int:
        """Bytes of memory that decoding the image and encoding it as PNG takes at most, as measured.

        Pixels of 16 bits stand there twice, a strip of a TIFF once more; WebP and what is only restored decode to
        planes or four channels of their own. The buffers of decoder and encoder take less than a megabyte, whatever the
        size.
        """
        plain = self.bit_depth <= 8 and self.format in ("PNG", "JPEG", "TIFF", "GIF", "BMP")
        a_pixel = 10 if plain else 21 if self.bit_depth <= 16 else 42
        return self.width * self.height * a_pixel + 2**20

    @property
    def deep(self) -> bool:
        """Whether its integers are decoded to 16 bits."""
        return self.mode.endswith(";16")

    @property
    def gray(self) -> bool:
        """Whether the file holds gray values, with or without alpha."""
        return self.channels <= 2

    @property
    def megapixels(self) -> float:
        """Size of the image in millions of pixels."""
        return self.width * self.height / 1e6


def read_header(data: bytes, *, where: object = None, full: bool = False, develop: bool = False) -> Header:
    """Reads the facts about an image from its file's bytes without decoding the pixels.

    Args:
        data: The bytes of the file.
        where: Path or address for messages.
        full: Whether it will be decoded in full, see `decode`.
        develop: Whether camera raw will be developed, see `decode`.

    Raises:
        ImageError: The bytes are no image that can be read here.
    """
    return open_image(data, where, full=full, develop=develop)[1]


def _format_of(data: bytes, where: object) -> str:
    if not data:
        raise ImageError("The file is empty", reason="empty_file", where=where, next_step="copy the file again")
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, kind in _UNSUPPORTED_MAGIC.items():
        if data.startswith(magic):
            raise _unsupported(f"{kind} files are not read", where)
    if data[4:8] == b"ftyp":
        raise _unsupported("HEIF, AVIF and raw files are not read", where)
    raise ImageError(
        "The file is not an image",
        reason="wrong_magic",
        where=where,
        why=f"it starts with {data[:12]!r}",
        next_step=_SUPPORTED,
    )


def _unsupported(why: str, where: object) -> ImageError:
    return ImageError(
        "The image format is not supported",
        reason="unsupported_format",
        where=where,
        why=why,
        next_step=f"convert the image; {_SUPPORTED}",
    )


def too_large(why: str, where: object) -> ImageError:
    return ImageError(
        "The image is larger than the limit, which guards against decompression bombs",
        reason="decompression_bomb",
        where=where,
        why=why,
        next_step="raise the limit if the file can be trusted",
    )


def out_of_memory(where: object, why: str | None = None) -> ImageError:
    """That an image has no room, before or after it was tried."""
    return ImageError(
        "There is no memory for the image",
        reason="out_of_memory",
        where=where,
        why=why,
        next_step="free memory, or make the image smaller",
    )


def damaged(data: bytes, kind: str, error: Exception, where: object) -> ImageError:
    """What a decoder raised, in the user's terms: `truncated` when the end of the file is missing, else `corrupt`.

    An image that Pillow takes for a decompression bomb, or that memory has no room for, has a reason of its own.
    """
    from PIL.Image import DecompressionBombError

    if isinstance(error, DecompressionBombError):
        return too_large(str(error), where)
    if isinstance(error, MemoryError):
        return out_of_memory(where)
    end_is_missing = {
        "JPEG": b"\xff\xd9" not in data,
        "WEBP": int.from_bytes(data[4:8], "little") + 8 > len(data),
    }
    truncated = end_is_missing.get(kind, False) or "truncated" in str(error).lower() or isinstance(error, EOFError)
    return ImageError(
        "The image is cut off" if truncated else "The image is damaged",
        reason="truncated" if truncated else "corrupt",
        where=where,
        why=str(error) or f"the decoder of {kind} does not say how",
        next_step="copy the file again from where it came from",
    )


def open_image(data: bytes, where: object, *, full: bool = False, develop: bool = False) -> tuple[Any, Header]:
    """Opens the file with the one Pillow reader that its magic names, which decodes nothing yet.

    Args:
        data: The bytes of the file.
        where: Path or address for messages.
        full: Whether what is only restored is opened as well: the formats of `relume.images.further`, and a TIFF that
            Pillow does not decode, as `DeepTiff`.
        develop: Whether camera raw is opened as well.
    """
    further = further_format(data) if full or develop else None
    kind = further if further and (full or further == RAW) else _format_of(data, where)
    # The readers are called directly: Image.open would guess, and has a size limit of its own.
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        Image,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    readers = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
    }
    Image.MAX_IMAGE_PIXELS = _PILLOW_PIXELS
    opened: Any
    try:
        if full and kind == "TIFF" and (deep := DeepTiff(data)).is_deep:
            opened = deep
        else:
            opened = readers[kind](io.BytesIO(data)) if kind in readers else open_further(kind, data, where)
        decodes_itself = hasattr(opened, "pixels")
        header, problem = (_own_header(opened), opened.problem) if decodes_itself else _header(opened, data, kind)
    except ImageError:
        raise
    except Exception as error:  # whatever a decoder raises belongs to this file
        raise damaged(data, kind, error, where) from error
    if problem:
        raise _unsupported(problem, where)
    return opened, header


def _own_header(opened: Any) -> Header:
    """Of a `DeepTiff` or a `RawFile`."""
    width, height = opened.size if opened.orientation <= 4 else opened.size[::-1]
    return Header(
        format=opened.format,
        width=width,
        height=height,
        mode={1: "L", 2: "LA", 3: "RGB"}.get(opened.channels, "RGBA") + f";{opened.bit_depth}",
        channels=opened.channels,
        bit_depth=opened.bit_depth,
        orientation=opened.orientation,
    )


def _header(opened: Any, data: bytes, kind: str) -> tuple[Header, str | None]:
    """The header, and why the pixels cannot be read if they cannot."""
    mode, (width, height), problem = opened.mode, opened.size, None
    orientation = _exif(opened, data, kind).get(_ORIENTATION, 1)
    bit_depth = {"1": 1, "I;16": 16, "I;16B": 16, "I": 32, "F": 32}.get(mode, 8)
    if kind == "PNG":
        bit_depth = data[24]  # the IHDR chunk: Pillow gives 16-bit RGB as 8 bits
    if kind == "JPEG2000":
        bit_depth = (data[data.index(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1  # Ssiz of the first component
        if 8 < bit_depth < 16:
            problem = "JPEG 2000 is read with up to 8 bits, and with 16"
    if kind == "HEIF":
        bit_depth = opened.info.get("bit_depth", 8)
    if kind == "AVIF":
        flags = data[data.index(b"av1C") + 6]  # of the configuration: high_bitdepth and twelve_bit
        bit_depth = {0x40: 10, 0x60: 12}.get(flags & 0x60, 8)
    if kind == "JPEG XL":  # its decoder turns the image, whatever the EXIF block says
        orientation = 1
    if kind == "TIFF":
        tags = opened.tag_v2
        bits = tags.get(_BITS, (1,))
        bit_depth = max(bits)
        raw = data[8:10] == b"CR" or _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE, 0) & 1
        plain = tags.get(_PLANAR, 1) == 1 and tags.get(_PHOTOMETRIC) in (1, 2) and tags.get(_EXTRA_SAMPLES) != (1,)
        if raw:
            problem = "camera raw files are not read"
        elif bit_depth == 16 and not (plain and len(set(bits)) == 1):
            problem = "16-bit TIFF is read as gray, RGB or RGB with unassociated alpha, stored pixel by pixel"
    if bit_depth > 16 or mode in ("I", "F", "LAB", "HSV"):
        problem = f"pixels of mode {mode} with {bit_depth} bits are not read"
    if kind == "TIFF" and orientation > 4:  # Pillow already gives the turned size of a TIFF, of others the stored
        width, height = height, width
    if orientation not in range(1, 9):
        orientation = 1
    if orientation > 4:
        width, height = height, width
    deep = bit_depth == 16 or (kind in ("AVIF", "HEIF") and bit_depth > 8)
    channels = 3 + opened.has_transparency_data if mode in ("P", "PA") else len(opened.getbands())
    return Header(
        format=kind,
        width=width,
        height=height,
        mode=mode.split(";")[0].replace("I", "L") + ";16" if deep else mode,
        channels=channels,
        bit_depth=bit_depth,
        orientation=orientation,
        quality=quality_to_keep(opened, data, kind),
    ), problem


def _exif(opened: Any, data: bytes, kind: str) -> Any:
    """The EXIF tags, found without decoding pixels.

    Pillow decodes a PNG to find them, as they may come after the pixels; so its chunks are walked here.
    """
    if kind != "PNG":
        return opened.getexif()
    from PIL import Image

    place, name = 8, b""
    while name != b"IEND":
        if place + 8 > len(data):
            raise EOFError("the end chunk is missing")
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"eXIf":
            opened.info["exif"] = b"Exif\0\0" + data[place + 8 : place + 8 + length]
        place += 12 + length
    return Image.Image.getexif(opened)
