"""TIFF files that Pillow does not decode: float pixels, and 16-bit ones stored by planes, or of gray with alpha."""

import io
from typing import Any

import numpy as np

from relume.images.orientation import as_seen

# Tags of TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 262, 274, 277
_ACROSS, _DOWN, _PLANAR, _UNIT, _EXTRA_SAMPLES, _FORMAT, _XMP, _PROFILE = 282, 283, 284, 296, 338, 339, 700, 34675
_GRAY_OR_RGB, _SEPARATE, _FLOAT, _ASSOCIATED_ALPHA, _CENTIMETRE = (1, 2), 2, 3, 1, 3


class DeepTiff:
    """The first image of such a file.

    Args:
        data: The bytes of a TIFF.

    Attributes:
        format: TIFF.
        info: As of Pillow's images: `icc_profile`, `xmp` and `dpi`, where the file has them.
        size: Width and height as stored.
        bit_depth: 16, or 32 for float, whatever its size in the file.
        channels: Stored channels; a last one beyond gray or RGB is alpha.
        orientation: The tag, 1 where there is none.
    """

    format = "TIFF"

    def __init__(self, data: bytes):
        from PIL.Image import Exif

        self._data, self._tags = data, Exif()
        self._tags.load(data)
        tags = self._tags
        self.size = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
        self._bits = set(_several(tags.get(_BITS, 1)))
        self._float = _FLOAT in _several(tags.get(_FORMAT, 1))
        self._planar = tags.get(_PLANAR, 1) == _SEPARATE and tags.get(_SAMPLES, 1) > 1
        self.bit_depth = 32 if self._float else max(self._bits)
        self.channels = tags.get(_SAMPLES, 1)
        self.orientation = tags.get(_ORIENTATION, 1)
        inch = 2.54 if tags.get(_UNIT) == _CENTIMETRE else 1.0
        found = {
            "icc_profile": tags.get(_PROFILE),
            "xmp": tags.get(_XMP),
            "dpi": (inch * tags[_ACROSS], inch * tags[_DOWN]) if _ACROSS in tags and _DOWN in tags else None,
        }
        self.info = {name: value for name, value in found.items() if value is not None}

    @property
    def is_deep(self) -> bool:
        """Whether Pillow and OpenCV would not decode it, or to other colours."""
        return self._float or (self._bits == {16} and (self._planar or self.channels == 2))

    @property
    def problem(self) -> str | None:
        """Why it is not read, or None."""
        alpha = _several(self._tags.get(_EXTRA_SAMPLES, ()))
        plain = self._tags.get(_PHOTOMETRIC) in _GRAY_OR_RGB and _ASSOCIATED_ALPHA not in alpha
        if plain and len(self._bits) == 1 and self.channels <= 4:
            return None
        return "16-bit and float TIFF is read as gray or RGB, also with unassociated alpha"

    def getexif(self) -> Any:
        """All tags, as Pillow's images give them."""
        return self._tags

    def pixels(self) -> np.ndarray:
        """(H, W, C) upright: uint16 or float32.

        Raises:
            ValueError: It cannot be decoded, or a value is not a number.
        """
        pixels = self._by_planes() if self._planar or self.channels == 2 or self._bits == {16} else self._by_pixels()
        if not self._float:
            return pixels
        pixels = pixels.astype(np.float32, copy=False)
        if not np.isfinite(pixels).all():
            raise ValueError("a value is infinite or not a number")
        return pixels

    def _by_planes(self) -> np.ndarray:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(self._data)) as file:
            pixels = file.pages.first.asarray()
        pixels = np.moveaxis(pixels, 0, -1) if self._planar else pixels.reshape(*pixels.shape[:2], -1)
        return as_seen(pixels, self.orientation)

    def _by_pixels(self) -> np.ndarray:
        """By OpenCV, which knows all compressions, and turns a TIFF while it decodes it."""
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error says what it would print
        try:
            pixels = cv2.imdecode(np.frombuffer(self._data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ValueError(error.err) from error
        if pixels is None:
            raise ValueError("the float pixels cannot be decoded")
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 1 else pixels


def _several(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)
