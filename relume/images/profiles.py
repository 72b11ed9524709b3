"""Colour profiles: which images the models do not know well, and CMYK brought to sRGB by its own."""

import io
from collections.abc import Callable
from typing import Any

_LINEAR = 70  # L* of the middle gray: 54 of sRGB, 61 of a gamma of 1.8, 76 without a gamma
_WIDE = 1.6  # times the gamut of sRGB: 1.4 of Display P3 and Adobe RGB, 1.9 of Rec. 2020, more of ProPhoto


def unusual(icc_profile: bytes) -> str | None:
    """What makes the values of an RGB image unlike those that models were trained on; None for usual profiles.

    Args:
        icc_profile: Of the file.
    """
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        if profile.profile.xcolor_space.strip() != "RGB":
            return None
        linear, wide = _lightness(profile) > _LINEAR, _gamut(profile) > _WIDE * _gamut(_srgb())
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):  # damaged, or it has no primaries
        return None
    if not (linear or wide):
        return None
    name = (profile.profile.profile_description or "of no name").strip()
    return f"the colour profile, {name}, is {'linear' if linear else 'of a wide gamut'}"


def cmyk_to_srgb(icc_profile: bytes | None) -> Callable[[Any], Any] | None:
    """A function from CMYK to sRGB, both images of Pillow; None without a profile of CMYK."""
    from PIL import ImageCms

    if icc_profile is None or icc_profile[16:20] != b"CMYK":
        return None
    try:
        transform = ImageCms.buildTransform(io.BytesIO(icc_profile), _srgb(), "CMYK", "RGB")
    except (OSError, ImageCms.PyCMSError):
        return None
    return transform.apply


def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _lightness(profile: Any) -> float:
    """L* of the middle gray, 128 of 255."""
    from PIL import Image, ImageCms

    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("LAB"), "RGB", "LAB")
    middle = transform.apply(Image.new("RGB", (1, 1), (128, 128, 128)))
    return middle.tobytes()[0] / 2.55


def _gamut(profile: Any) -> float:
    """Area of the triangle of the primaries in the plane of x and y."""
    (x1, y1), (x2, y2), (x3, y3) = (
        getattr(profile.profile, f"{name}_primary")[1][:2] for name in ("red", "green", "blue")
    )
    return abs((x2 - x1) * (y3 - y1) - (x3 - x1) * (y2 - y1)) / 2
