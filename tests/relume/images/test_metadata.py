"""What a photograph says beside its pixels outlives restoring; read back by tifffile, which shares no code with it."""

import io
import struct

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image

from relume.images import decode, encode

SUFFIXES = [".jpg", ".png", ".webp", ".tif"]
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    b' xmlns:xmp="http://ns.adobe.com/xap/1.0/" tiff:Orientation="6" exif:GPSLatitude="52,31N" xmp:Rating="4">'
    b"<exif:GPSLongitude>13,24E</exif:GPSLongitude></rdf:Description></rdf:RDF></x:xmpmeta>"
)
MAKER_NOTE = bytes(range(60, 100))


def camera_exif(order="<"):
    """An EXIF block as a camera writes it: orientation 6, EXIF and GPS, a maker's note, and a preview at its end."""
    sizes = {2: 1, 3: 2, 4: 4, 5: 8, 7: 1}

    def ifd(entries, start, following=0):
        body, data = struct.pack(f"{order}H", len(entries)), b""
        free = start + 2 + 12 * len(entries) + 4
        for tag, kind, value in entries:
            count = len(value) // sizes[kind]
            if len(value) <= 4:
                field = value.ljust(4, b"\0")
            else:
                field = struct.pack(f"{order}I", free + len(data))
                data += value + b"\0" * (len(value) % 2)
            body += struct.pack(f"{order}HHI", tag, kind, count) + field
        return body + struct.pack(f"{order}I", following) + data

    def short(value):
        return struct.pack(f"{order}H", value)

    def long(value):
        return struct.pack(f"{order}I", value)

    exif = [(0x9003, 2, b"2026:05:01 10:20:30\0"), (0x927C, 7, MAKER_NOTE)]
    gps = [(1, 2, b"N\0"), (2, 5, struct.pack(f"{order}6I", 52, 1, 31, 1, 7, 1))]
    main = [(0x010F, 2, b"Leica\0"), (0x0112, 3, short(6)), (0x8769, 4, long(0)), (0x8825, 4, long(0))]
    at_exif = 8 + len(ifd(main, 8))
    at_gps = at_exif + len(ifd(exif, at_exif))
    at_preview = at_gps + len(ifd(gps, at_gps))
    main[2], main[3] = (0x8769, 4, long(at_exif)), (0x8825, 4, long(at_gps))
    head = (b"II*\0" if order == "<" else b"MM\0*") + long(8)
    preview = ifd([(0x0201, 4, long(0)), (0x0202, 4, long(0))], at_preview)
    return b"Exif\0\0" + head + ifd(main, 8, at_preview) + ifd(exif, at_exif) + ifd(gps, at_gps) + preview


def photograph(exif=None, xmp=XMP, suffix=".jpg"):
    """The bytes of a photograph that lies on its side."""
    file = io.BytesIO()
    exif = camera_exif() if exif is None else exif
    Image.fromarray(skimage.data.chelsea()[:40, :60]).save(file, "JPEG", exif=exif, xmp=xmp, dpi=(300, 300))
    return file.getvalue()


def tags_of(data, suffix):
    """The tags of the main, EXIF and GPS blocks of a file, by tifffile; of the pages their number."""
    exif = Image.open(io.BytesIO(data)).info.get("exif", b"").removeprefix(b"Exif\0\0")
    block = data if suffix == ".tif" else exif
    with tifffile.TiffFile(io.BytesIO(block)) as file:
        page = file.pages.first
        found = {tag.code: tag.value for tag in page.tags}
        return found, len(file.pages)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_photograph_keeps_what_its_camera_wrote(suffix, order):
    """Date, maker, place and resolution are there again; the image is upright, and so says its orientation."""
    decoded = decode(photograph(camera_exif(order)))
    assert decoded.pixels.shape == (60, 40, 3)
    data = encode(decoded.pixels, suffix, metadata=decoded.metadata)
    tags, _ = tags_of(data, suffix)
    assert tags[0x010F] == "Leica"
    assert tags.get(0x0112, 1) == 1
    assert tags[0x8769]["DateTimeOriginal"] == "2026:05:01 10:20:30"
    assert tags[0x8769]["MakerNote"] == MAKER_NOTE
    assert tags[0x8825]["GPSLatitude"] == (52, 1, 31, 1, 7, 1)
    again = decode(data)
    assert again.pixels.shape == decoded.pixels.shape
    assert again.metadata.xmp == XMP.replace(b'tiff:Orientation="6"', b'tiff:Orientation="1"')
    if suffix != ".webp":  # which has no place for it outside of EXIF
        assert again.metadata.dpi == pytest.approx((300, 300), abs=0.1)


def test_the_preview_of_the_old_pixels_is_gone():
    """A reader finds one image in the block, not the small one of before."""
    _, pages = tags_of(photograph(), ".jpg")
    assert pages == 2
    decoded = decode(photograph())
    _, pages = tags_of(encode(decoded.pixels, ".jpg", metadata=decoded.metadata), ".jpg")
    assert pages == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_place_can_be_left_out(suffix):
    """Without the location neither EXIF nor XMP holds a coordinate; date, maker and rating stay."""
    decoded = decode(photograph())
    data = encode(decoded.pixels, suffix, metadata=decoded.metadata.without_location())
    tags, _ = tags_of(data, suffix)
    assert 0x8825 not in tags
    assert tags[0x8769]["DateTimeOriginal"] == "2026:05:01 10:20:30"
    assert b"GPS" not in data
    assert decode(data).metadata.xmp.count(b'xmp:Rating="4"') == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\0\0", b"garbage", camera_exif()[:20]])
def test_a_damaged_block_costs_the_block_alone(block):
    """The pixels are read, the rest is kept, and the problem is named."""
    decoded = decode(photograph(block))
    assert decoded.metadata.exif is None
    assert decoded.metadata.problem is None or "EXIF" in decoded.metadata.problem
    assert decoded.metadata.xmp is not None
    assert encode(decoded.pixels, ".jpg", metadata=decoded.metadata)


def test_what_a_jpeg_has_no_room_for_is_left_out():
    """An XMP packet of 100 KB, as a PNG may hold, does not keep a JPEG from being written."""
    decoded = decode(photograph())
    long = XMP.replace(b"<x:xmpmeta", b" " * 100_000 + b"<x:xmpmeta")
    metadata = type(decoded.metadata)(xmp=long)
    assert decode(encode(decoded.pixels, ".png", metadata=metadata)).metadata.xmp is not None
    assert decode(encode(decoded.pixels, ".jpg", metadata=metadata)).metadata.xmp is None


def test_gray_pixels_give_a_gray_file():
    """One channel is stored as one, and read back as three equal ones."""
    gray = skimage.data.camera()[:40, :60, np.newaxis]
    for suffix in (".png", ".tif"):
        decoded = decode(encode(gray, suffix))
        assert decoded.header.channels == 1
        assert np.array_equal(decoded.pixels, np.broadcast_to(gray, (40, 60, 3)))
