"""Camera raw files, developed by LibRaw with the camera's white balance."""

import io
import struct
from typing import Any

import numpy as np
import rawpy

_TURNED = (5, 6)  # LibRaw's numbers for a quarter turn


class RawFile:
    """A camera raw file.

    Args:
        file: Its bytes.

    Attributes:
        format: RAW.
        size: Width and height of the developed image, which is upright.
        bit_depth: 16.
        channels: 3.
        orientation: 1.
        info: Nothing; the descriptive tags come from `getexif`.
        problem: None.
    """

    format, bit_depth, channels, orientation, problem = "RAW", 16, 3, 1, None

    def __init__(self, file: io.BytesIO):
        self._data = file.getvalue()
        self.info: dict[str, Any] = {}
        with rawpy.imread(io.BytesIO(self._data)) as raw:
            sizes = raw.sizes
        self.size = (sizes.height, sizes.width) if sizes.flip in _TURNED else (sizes.width, sizes.height)

    def getexif(self) -> Any:
        """The tags of raw files that are built as a TIFF; none of others."""
        from PIL.Image import Exif

        tags = Exif()
        try:
            tags.load(self._data)
        except (SyntaxError, ValueError, struct.error):
            return Exif()
        return tags

    def pixels(self) -> np.ndarray:
        """uint16 (H, W, 3) sRGB, upright."""
        with rawpy.imread(io.BytesIO(self._data)) as raw:
            return raw.postprocess(use_camera_wb=True, output_bps=16)
