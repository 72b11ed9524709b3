"""Pictures in files: decoded to RGB arrays with the facts about the file, and encoded by suffix.

An image file becomes (H, W, 3) RGB, uint8 for up to 8 bits a channel and uint16 for 16 bits:

- EXIF (or TIFF) orientation is applied, so row 0 is the top of the picture as seen.
- Gray becomes three equal channels; palettes are resolved; of an animation the first frame counts.
- Alpha is composited over white, since colours under transparent pixels are arbitrary.
- CMYK is converted by the plain formula. ICC profiles are never applied: RGB values stay as they
  stand in the file, and the profile of an RGB file is handed on so that it can be saved again.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relume.errors import ImageError
from relume.files import write_bytes

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
_SUFFIX_FORMAT = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
JPEG_QUALITY = 95
_SUPPORTED = "use PNG, JPEG, WebP, TIFF, BMP or GIF"

# What Pillow raises on damaged bytes: seen, or declared by the modules it reads with.
_DECODERS_RAISE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError),
    *(struct.error, zlib.error),
)

# TIFF tags, by the numbers of the TIFF 6.0 specification and, for the last, of DNG 1.0.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _PLANAR, _EXTRA_SAMPLES, _DNG_VERSION = 254, 258, 262, 284, 338, 50706
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its picture before any pixel is decoded.

    Attributes:
        format: PNG, JPEG, WEBP, TIFF, BMP or GIF, by the file's first bytes and not by its name.
        width: Pixels across, after the orientation is applied.
        height: Pixels down, after the orientation is applied.
        mode: Pillow's name of the stored pixels, such as RGB, L, P or CMYK, with `;16` for 16 bits.
        channels: Stored channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha or CMYK.
        bit_depth: Stored bits a channel.
        orientation: EXIF orientation, 1 to 8.
    """

    format: str
    width: int
    height: int
    mode: str
    channels: int
    bit_depth: int
    orientation: int

    @property
    def megapixels(self) -> float:
        """Size of the picture in millions of pixels."""
        return self.width * self.height / 1e6


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16.
        header: The facts about the file it came from.
        icc_profile: The colour profile of an RGB file, to be saved with the result.
    """

    pixels: np.ndarray
    header: Header
    icc_profile: bytes | None


def read_header(data: bytes, *, where: object = None) -> Header:
    """Reads the facts about a picture from its file's bytes without decoding the pixels.

    Args:
        data: The bytes of the file.
        where: Path or address for messages.

    Raises:
        ImageError: The bytes are no picture that can be read here.
    """
    return _open(data, where)[1]


def decode(data: bytes, *, where: object = None, max_megapixels: float = 200.0, min_side: int = 1) -> Picture:
    """Decodes the bytes of an image file.

    Args:
        data: The bytes of the file.
        where: Path or address for messages.
        max_megapixels: Larger pictures are refused from their header, before memory is taken.
        min_side: Smallest width and height that is accepted, in pixels.

    Raises:
        ImageError: `reason` is `empty_file`, `wrong_magic`, `unsupported_format`,
            `decompression_bomb`, `too_small`, `truncated` or `corrupt`.
    """
    opened, header = _open(data, where)
    if header.megapixels > max_megapixels:
        raise ImageError(
            "The picture is larger than the limit, which guards against decompression bombs",
            reason="decompression_bomb",
            where=where,
            why=f"{header.width}x{header.height} is {header.megapixels:.0f} megapixels, the limit {max_megapixels:g}",
            next_step="raise the limit if the file can be trusted",
        )
    if min(header.width, header.height) < min_side:
        raise ImageError(
            "The picture is too small",
            reason="too_small",
            where=where,
            why=f"{header.width}x{header.height}, each side must have {min_side} pixels",
            next_step="use a larger picture",
        )
    profile = opened.info.get("icc_profile") if header.mode.startswith(("RGB", "P")) else None
    try:
        pixels = _deep_pixels(data, header) if header.bit_depth == 16 else _pixels(opened, header)
    except _DECODERS_RAISE as error:
        raise _damaged(data, header.format, error, where) from error
    return Picture(pixels=np.ascontiguousarray(pixels), header=header, icc_profile=profile)


def read_image(path: str | Path, *, max_megapixels: float = 200.0) -> Picture:
    """Decodes an image file.

    Raises:
        ImageError: As `decode`, and `not_found` or `unreadable` for the file itself.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError("No such picture", reason="not_found", where=path, next_step="check the path") from None
    except OSError as error:
        raise ImageError(
            "The picture cannot be read",
            reason="unreadable",
            where=path,
            why=error.strerror,
            next_step="check that it is a file that you may read",
        ) from None
    return decode(data, where=path, max_megapixels=max_megapixels)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Brings uint16 pixels to uint8, each value v to the integer nearest v / 257; uint8 stays as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 257 is odd: there are no ties


def check_suffix(path: str | Path) -> str:
    """The format that a file of this name would be saved in.

    Raises:
        ImageError: The suffix names no format that can be written; reason `unsupported_format`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIX_FORMAT:
        raise ImageError(
            f"Pictures cannot be saved as {suffix!r}" if suffix else "The file name has no suffix",
            reason="unsupported_format",
            where=path,
            next_step="name the file " + ", ".join(_SUFFIX_FORMAT),
        )
    return _SUFFIX_FORMAT[suffix]


def encode(pixels: np.ndarray, suffix: str, *, icc_profile: bytes | None = None, where: object = None) -> bytes:
    """Encodes RGB pixels in the format of a suffix; equal pixels give equal bytes.

    PNG and TIFF keep uint8 and uint16 without loss. JPEG (quality 95, 4:4:4) and WebP (quality 95)
    hold 8 bits: uint16 is rounded.

    Args:
        pixels: (H, W, 3) RGB, uint8 or uint16.
        suffix: Such as `.png`.
        icc_profile: Colour profile to put into the file.
        where: Path for messages.

    Raises:
        ImageError: The suffix is not known, or the format cannot hold a picture of this size.
    """
    kind = check_suffix(f"picture{suffix}")
    if pixels.dtype == np.uint16 and kind == "PNG":
        return _encode_deep_png(pixels, icc_profile)
    buffer = io.BytesIO()
    if pixels.dtype == np.uint16 and kind == "TIFF":
        import tifffile

        tifffile.imwrite(buffer, pixels, photometric="rgb", compression="zlib", iccprofile=icc_profile)
        return buffer.getvalue()

    from PIL import Image

    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 3},
        "JPEG": {"quality": JPEG_QUALITY, "subsampling": 0},
        "WEBP": {"quality": JPEG_QUALITY},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    try:
        Image.fromarray(to_uint8(pixels)).save(buffer, kind, icc_profile=icc_profile, **options[kind])
    except (OSError, ValueError) as error:
        raise ImageError(
            f"The picture cannot be encoded as {kind}",
            reason="unsupported_size",
            where=where,
            why=f"{pixels.shape[1]}x{pixels.shape[0]}: {error}",
            next_step="save it as .png or .tif",
        ) from None
    return buffer.getvalue()


def save_image(path: str | Path, pixels: np.ndarray, *, icc_profile: bytes | None = None) -> None:
    """Writes RGB pixels atomically in the format of the path's suffix; see `encode`.

    Raises:
        ImageError: As `encode`, and `unwritable` when the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    data = encode(pixels, path.suffix, icc_profile=icc_profile, where=path)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise ImageError(
            "The picture cannot be written",
            reason="unwritable",
            where=path,
            why=error.strerror,
            next_step="choose a folder that you may write to",
        ) from None


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
        "The file is no picture",
        reason="wrong_magic",
        where=where,
        why=f"it starts with {data[:12]!r}",
        next_step=_SUPPORTED,
    )


def _unsupported(why: str, where: object) -> ImageError:
    return ImageError(
        "The kind of picture is not supported",
        reason="unsupported_format",
        where=where,
        why=why,
        next_step=f"convert the picture; {_SUPPORTED}",
    )


def _damaged(data: bytes, kind: str, error: Exception, where: object) -> ImageError:
    """Names damage: `truncated` when the end of the file is missing, `corrupt` for anything else."""
    end_is_missing = {
        "JPEG": b"\xff\xd9" not in data,
        "WEBP": int.from_bytes(data[4:8], "little") + 8 > len(data),
    }
    truncated = end_is_missing.get(kind, False) or "truncated" in str(error).lower() or isinstance(error, EOFError)
    return ImageError(
        "The picture is cut off" if truncated else "The picture is damaged",
        reason="truncated" if truncated else "corrupt",
        where=where,
        why=str(error) or type(error).__name__,
        next_step="copy the file again from where it came from",
    )


def _open(data: bytes, where: object) -> tuple[Any, Header]:
    """Opens the file with the one Pillow reader that its magic names, which decodes nothing yet."""
    kind = _format_of(data, where)
    # The readers are called directly: Image.open would guess, and has a size limit of its own.
    from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    readers = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
    }
    try:
        opened = readers[kind](io.BytesIO(data))
        header, problem = _header(opened, data, kind)
    except _DECODERS_RAISE as error:
        raise _damaged(data, kind, error, where) from error
    if problem:
        raise _unsupported(problem, where)
    return opened, header


def _header(opened: Any, data: bytes, kind: str) -> tuple[Header, str | None]:
    """The header, and why the pixels cannot be read if they cannot."""
    mode, (width, height), problem = opened.mode, opened.size, None
    orientation = _exif(opened, data, kind).get(_ORIENTATION, 1)
    bit_depth = {"1": 1, "I;16": 16, "I;16B": 16, "I": 32, "F": 32}.get(mode, 8)
    if kind == "PNG":
        bit_depth = data[24]  # the IHDR chunk: Pillow gives 16-bit RGB as 8 bits
    if kind == "TIFF":
        tags = opened.tag_v2
        bits = tags.get(_BITS, (1,))
        bit_depth = max(bits)
        raw = data[8:10] == b"CR" or _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE, 0) & 1
        deep = bit_depth == 16
        plain = tags.get(_PLANAR, 1) == 1 and tags.get(_PHOTOMETRIC) in (1, 2) and tags.get(_EXTRA_SAMPLES) != (1,)
        if raw:
            problem = "camera raw files are not read"
        elif deep and not (plain and len(set(bits)) == 1):
            problem = "16-bit TIFF is read as gray, RGB or RGB with unassociated alpha, stored pixel by pixel"
    if bit_depth > 16 or mode in ("I", "F", "LAB", "HSV"):
        problem = f"pixels of mode {mode} with {bit_depth} bits are not read"
    if kind == "TIFF" and orientation > 4:  # Pillow already gives the turned size of a TIFF, of others the stored
        width, height = height, width
    if orientation not in range(1, 9):
        orientation = 1
    if orientation > 4:
        width, height = height, width
    channels = 3 + opened.has_transparency_data if mode in ("P", "PA") else len(opened.getbands())
    return Header(
        format=kind,
        width=width,
        height=height,
        mode=mode.split(";")[0].replace("I", "L") + ";16" if bit_depth == 16 else mode,
        channels=channels,
        bit_depth=bit_depth,
        orientation=orientation,
    ), problem


def _exif(opened: Any, data: bytes, kind: str) -> Any:
    """The EXIF tags, found without decoding pixels.

    Pillow decodes a PNG to find them, as they may stand behind the pixels; so its chunks are walked here.
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


def _pixels(opened: Any, header: Header) -> np.ndarray:
    opened.load()
    if opened.has_transparency_data:
        pixels = _over_white(np.asarray(opened.convert("RGBA")))
    else:
        pixels = np.asarray(opened.convert("RGB"))
    return _turn(pixels, header)


def _deep_pixels(data: bytes, header: Header) -> np.ndarray:
    """Decodes 16-bit PNG and TIFF with OpenCV, because Pillow drops their lower eight bits."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error says what it would print
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError(error.err) from error
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("the 16-bit pixels cannot be decoded")
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    elif pixels.shape[2] == 4:
        pixels = _over_white(pixels[..., [2, 1, 0, 3]])
    else:
        pixels = pixels[..., ::-1]
    return _turn(pixels, header)


def _over_white(pixels_RGBA: np.ndarray) -> np.ndarray:
    """Composites over white, rounded to the nearest integer; (H, W, 4) to (H, W, 3)."""
    white = np.iinfo(pixels_RGBA.dtype).max
    colour, alpha = pixels_RGBA[..., :3].astype(np.uint32), pixels_RGBA[..., 3:].astype(np.uint32)
    return ((colour * alpha + white * (white - alpha) + white // 2) // white).astype(pixels_RGBA.dtype)


def _turn(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Applies the EXIF orientation. Source: EXIF 2.3, tag 274."""
    if header.format == "TIFF":  # Pillow and OpenCV turn a TIFF while they decode it, and only a TIFF
        return pixels
    if header.orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    down = -1 if header.orientation in (3, 4, 7, 8) else 1
    right = -1 if header.orientation in (2, 3, 6, 7) else 1
    return pixels[::down, ::right]


def _encode_deep_png(pixels: np.ndarray, icc_profile: bytes | None) -> bytes:
    import cv2

    data = cv2.imencode(".png", pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    if icc_profile is None:
        return data
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(icc_profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]  # 8 bytes of magic and 25 of IHDR come first
