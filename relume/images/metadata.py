"""What an image file says beside its pixels: kept when its image is saved again, upright."""

import re
import struct
from dataclasses import dataclass, replace
from typing import Any

# Tags of EXIF 2.3 and TIFF 6.0.
_ORIENTATION, XMP, EXIF, GPS = 0x0112, 0x02BC, 0x8769, 0x8825
_JPEG_SEGMENT = 65_500
# What EXIF shares with the tags of a TIFF; its other tags say how the pixels are stored, which changes.
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, EXIF, GPS)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is kept of a file.

    Attributes:
        icc_profile: The colour profile of an RGB or gray file.
        exif: `Exif`, two zeros and a TIFF structure, of an upright image.
        xmp: An XMP packet, of an upright image.
        dpi: Pixels an inch, across and down.
        problem: Why the file's EXIF block is not kept, or None.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    problem: str | None = None

    def without_location(self) -> "Metadata":
        """The same without the place where the photograph was taken."""
        exif, xmp = self.exif, self.xmp
        if exif is not None:
            tags = tags_of(exif)
            tags.get_ifd(EXIF)  # else it is not written again
            if GPS in tags:
                del tags[GPS]
                exif = tags.tobytes()
        if xmp is not None:
            xmp = re.sub(rb"""\s+exif:GPS\w+\s*=\s*("[^"]*"|'[^']*')""", b"", xmp)
            xmp = re.sub(rb"<exif:GPS(\w+)\b.*?</exif:GPS\1\s*>", b"", xmp, flags=re.DOTALL)
        return replace(self, exif=exif, xmp=xmp)

    def options(self, kind: str) -> dict[str, Any]:
        """Pillow's arguments to write it into a file. A JPEG has no room for blocks of over 64 KB."""
        exif, xmp = (
            None if block is None or (kind == "JPEG" and len(block) > _JPEG_SEGMENT) else block
            for block in (self.exif, self.xmp)
        )
        given: dict[str, Any] = {"icc_profile": self.icc_profile, "exif": exif, "xmp": xmp, "dpi": self.dpi}
        if xmp is not None and kind == "PNG":
            from PIL.PngImagePlugin import PngInfo

            given["pnginfo"] = PngInfo()
            given["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode(errors="replace"))
        return {name: value for name, value in given.items() if value is not None}


NONE = Metadata()


def metadata_of(opened: Any, kind: str, *, colours: bytes) -> Metadata:
    """Reads the metadata of a file whose pixels were decoded.

    Args:
        opened: Pillow's image.
        kind: Its format.
        colours: What a profile of these pixels calls their colours, `RGB ` or `GRAY`; one of others is not kept.
    """
    info, problem, exif = opened.info, None, None
    try:
        exif = _exif_of_tiff(opened) if kind in ("TIFF", "RAW") else _upright(info.get("exif"))
    except (ValueError, struct.error) as error:
        problem = f"the EXIF block is damaged and is not kept: {error}"
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if xmp is not None:
        xmp = re.sub(rb"""(tiff:Orientation\s*=\s*["'])\d""", rb"\g<1>1", xmp)
        xmp = re.sub(rb"(<tiff:Orientation>)\d", rb"\g<1>1", xmp)
    dpi, profile = info.get("dpi"), info.get("icc_profile")
    return Metadata(
        icc_profile=profile if profile and profile[16:20] == colours != b"CMYK" else None,
        exif=exif,
        xmp=xmp,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(dpi) else None,
        problem=problem,
    )


def _upright(exif: bytes | None) -> bytes | None:
    """The EXIF block of an upright image, changed in place, so that what cameras store by position stays readable.

    The preview of the old pixels goes: nothing points to it any more.

    Raises:
        ValueError: The block is not one.
    """
    if not exif:
        return None
    block = bytearray(exif if exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(block[6:10]))
    if order is None:
        raise ValueError("it has no TIFF header")
    (start,) = struct.unpack_from(f"{order}I", block, 10)
    place = 6 + start
    (entries,) = struct.unpack_from(f"{order}H", block, place)
    end = place + 2 + 12 * entries
    for entry in range(place + 2, end, 12):
        if struct.unpack_from(f"{order}H", block, entry) == (_ORIENTATION,):
            struct.pack_into(f"{order}HII", block, entry + 2, 3, 1, 0)
            struct.pack_into(f"{order}H", block, entry + 8, 1)
    struct.pack_into(f"{order}I", block, end, 0)
    return bytes(block)


def _exif_of_tiff(opened: Any) -> bytes | None:
    """The tags of a TIFF that describe the photograph, as an EXIF block."""
    from PIL.Image import Exif

    tags, found = opened.getexif(), Exif()
    for tag in DESCRIPTIVE:
        if tag in tags:
            found[tag] = tags.get_ifd(tag) if tag in (EXIF, GPS) else tags[tag]
    return found.tobytes() if found else None


def tags_of(exif: bytes) -> Any:
    """The tags of an EXIF block, as Pillow gives them."""
    from PIL.Image import Exif

    tags = Exif()
    tags.load(exif)
    return tags
