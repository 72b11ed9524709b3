"""Colour profiles, built byte by byte as ICC.1:2001-04 says: kept, noted, and CMYK converted by its own."""

import io
import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from relume.images import Metadata, decode, encode, losses

# X, Y and Z of red, green and blue, adapted to D50, as these profiles publish them.
PRIMARIES = {
    "sRGB": [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)],
    "Display P3": [(0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)],
    "Adobe RGB": [(0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)],
    "Rec. 2020": [(0.6734, 0.2790, -0.0019), (0.1656, 0.6753, 0.0299), (0.1251, 0.0457, 0.7969)],
    "ProPhoto": [(0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249)],
}
D50 = (0.9642, 1.0, 0.8249)


def fixed(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space, kind, tags, connection=b"XYZ "):
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + fixed(*D50)
    return header.ljust(128, b"\0") + table + body


def gamma(value):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * value))


def named(name):
    text = name.encode() + b"\0"
    return {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)}


def rgb_profile(name, exponent):
    colours = zip((b"rXYZ", b"gXYZ", b"bXYZ"), PRIMARIES[name], strict=True)
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(exponent))
    primaries = {tag: b"XYZ " + bytes(4) + fixed(*xyz) for tag, xyz in (*colours, (b"wtpt", D50))}
    return profile(b"RGB ", b"mntr", named(name) | primaries | curves)


GRAY = profile(b"GRAY", b"mntr", named("Gray") | {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50), b"kTRC": gamma(1.8)})


def cmyk_profile():
    """Lightness falls evenly from 100 without ink to 0 with all black; the other inks do nothing."""
    table = [(255 * (1 - black), 128, 128) for *_, black in itertools.product((0, 1), repeat=4)]
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += ramp * 4 + np.array(table, np.uint8).tobytes() + ramp * 3
    return profile(b"CMYK", b"prtr", named("Black ink") | {b"A2B0": lut}, connection=b"Lab ")


def saved(image, kind, icc_profile):
    file = io.BytesIO()
    image.save(file, kind, icc_profile=icc_profile)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "exponent", "words"),
    [
        ("sRGB", 2.2, None),
        ("Display P3", 2.2, None),
        ("Adobe RGB", 2.2, None),
        ("ProPhoto", 1.8, "ProPhoto, is of a wide gamut"),
        ("Rec. 2020", 2.4, "Rec. 2020, is of a wide gamut"),
        ("sRGB", 1.0, "sRGB, is linear"),
    ],
)
def test_a_note_names_a_profile_that_models_do_not_know(name, exponent, words):
    """Those of screens and cameras have none; the values stay, and so does the profile."""
    image, icc = Image.effect_noise((20, 20), 90).convert("RGB"), rgb_profile(name, exponent)
    decoded = decode(saved(image, "PNG", icc), full=True)
    assert [words in note for note in decoded.notes] == ([True] if words else [])
    np.testing.assert_array_equal(decoded.pixels, np.asarray(image))
    assert decoded.metadata.icc_profile == icc
    assert decode(saved(image, "PNG", icc)).notes == ()


@pytest.mark.parametrize("icc", [b"no profile at all", rgb_profile("ProPhoto", 1.8)[:300]])
def test_a_damaged_profile_is_no_obstacle(icc):
    """The image is decoded without a note."""
    assert decode(saved(Image.new("RGB", (4, 4)), "PNG", icc), full=True).notes == ()


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_is_converted_by_its_profile(kind):
    """Black ink gives the grays of sRGB's definition by the lightness in the profile, and the note says how."""
    ink = np.zeros((16, 256, 4), np.uint8)
    ink[..., 3] = np.arange(256)
    data = saved(Image.fromarray(ink, "CMYK"), kind, cmyk_profile())
    decoded = decode(data, full=True)
    lightness = 100 * (1 - np.arange(256) / 255)
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    expected = 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert np.abs(decoded.pixels - expected[:, np.newaxis]).max() <= (2 if kind == "TIFF" else 6)
    assert decoded.notes == ("CMYK was converted to sRGB by its profile",)
    assert decoded.metadata.icc_profile is None
    plain = decode(data)
    assert plain.notes == ()
    assert np.abs(plain.pixels - np.arange(255, -1, -1)[:, np.newaxis]).max() <= 6


@pytest.mark.parametrize(
    ("suffix", "channels", "dtype", "kept"),
    [
        (".png", 1, np.uint8, True),
        (".png", 2, np.uint8, True),
        (".png", 1, np.uint16, True),
        (".png", 2, np.uint16, False),  # has three colours, as OpenCV writes no gray with alpha
        (".jpg", 1, np.uint8, True),
        (".tif", 2, np.uint16, True),
        (".webp", 1, np.uint8, False),
        (".avif", 1, np.uint8, False),
    ],
)
def test_a_profile_of_gray_stays_with_gray(suffix, channels, dtype, kept):
    """Where the format has gray; else it would be wrong, and a note says that it was left out."""
    pixels, metadata = np.zeros((8, 8, channels), dtype), Metadata(icc_profile=GRAY)
    data = encode(pixels, suffix, metadata=metadata)
    assert decode(data, full=True).metadata.icc_profile == (GRAY if kept else None)
    assert bool(losses(pixels, f"image{suffix}", metadata)) is not kept
    assert (GRAY in data) == (kept and suffix != ".png")  # a PNG compresses it
