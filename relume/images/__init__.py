"""Images in files: decoded to RGB arrays with the facts about the file, and encoded by suffix."""

from relume.images.decoding import DecodedImage, decode, read_bytes, read_image
from relume.images.encoding import (
    SUFFIXES,
    Subsampling,
    check_suffix,
    encode,
    is_lossless,
    losses,
    save_image,
    to_uint8,
)
from relume.images.header import Header, read_header
from relume.images.metadata import Metadata

__all__ = [
    "SUFFIXES",
    "DecodedImage",
    "Header",
    "Metadata",
    "Subsampling",
    "check_suffix",
    "decode",
    "encode",
    "is_lossless",
    "losses",
    "read_bytes",
    "read_header",
    "read_image",
    "save_image",
    "to_uint8",
]
