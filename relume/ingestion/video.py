"""Frames of videos, decoded by FFmpeg through PyAV, which is installed with relume[video].

A video is taken whole or not at all: one that is cut off, or of which a frame is damaged, gives none, so that a copy
that broke off is not taken for a shorter video. Only the reader that the first bytes name is tried, on the file's own
bytes: FFmpeg knows playlists as well, which would open other files and addresses.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from relume.curation.hashes import perceptual_hash
from relume.curation.quality import gray
from relume.errors import ImageError
from relume.images.header import out_of_memory, too_large
from relume.ingestion.settings import VideoSettings

_NOT_VIDEO = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx ")  # images in the same container
_MISSING_END = 0.5  # seconds by which the last frame may end before the video says it does, beside two frames
_TS_PACKET, _M2TS_PACKET = 188, 192  # bytes


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame that was taken.

    Attributes:
        seconds: When it is shown, from the beginning of the video.
        pixels: uint8 (H, W, 3) RGB, upright.
        mode: Pixels as stored, by FFmpeg's name, such as yuv420p.
    """

    seconds: float
    pixels: np.ndarray
    mode: str


def video_format(file: BinaryIO) -> str | None:
    """FFmpeg's name of the container that a file's first bytes show; None for what is no video."""
    start = file.read(2 * _M2TS_PACKET)
    file.seek(0)
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return None if start[4:8] == b"ftyp" and start[8:12] in _NOT_VIDEO else "mov"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
        return "avi"
    for packet, first in ((_TS_PACKET, 0), (_M2TS_PACKET, 4)):
        if start[first : first + 1] == start[first + packet : first + packet + 1] == b"\x47":
            return "mpegts"
    return None


def frames(file: BinaryIO, rule: VideoSettings, *, max_megapixels: float, min_side: int) -> Iterator[Frame]:
    """Decodes a video and takes frames by a rule.

    Args:
        file: A video, as `video_format` says; it is read from its beginning.
        rule: Which frames.
        max_megapixels: Videos of larger frames are refused.
        min_side: Videos with a shorter side are refused, in pixels.

    Raises:
        ImageError: `missing_package`, `unsupported_format` (no video stream), `decompression_bomb`,
            `too_small`, `truncated` or `corrupt`; after some frames, too, so keep none before the last one came.
    """
    try:
        import av
    except ImportError as error:
        raise ImageError(
            "Videos are read by a package that is not installed",
            reason="missing_package",
            why=f"av: {error}",
            next_step='pip install --constraint constraints.txt "relume[video]"',
        ) from None
    kind = video_format(file)
    assert kind is not None
    if kind == "mov":
        _check_boxes(file)
    try:
        with av.open(file, format=kind) as container:
            yield from _taken(container, rule, max_megapixels, min_side)
    except av.error.EOFError as error:
        raise _cut(str(error)) from error
    except MemoryError as error:  # FFmpeg's is one of Python's
        raise out_of_memory(None) from error
    except av.error.FFmpegError as error:
        raise _corrupt(str(error)) from error


def _check_boxes(file: BinaryIO) -> None:
    """Refuses a file of the family of MP4 whose last box reaches beyond its end, or that has no index.

    Source: ISO/IEC 14496-12, section 4.2.
    """
    end, place, kinds = file.seek(0, os.SEEK_END), 0, set()
    while place < end:
        file.seek(place)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        size = size or end - place  # without a size it reaches to the end
        if len(head) < 8 or size < 8 or place + size > end:
            raise _cut(f"its part {kind.decode('latin-1')!r} has {size} bytes, of which {end - place} are there")
        kinds.add(kind)
        place += size
    file.seek(0)
    if b"moov" not in kinds:
        raise _cut("its index is missing")


def _cut(why: str) -> ImageError:
    next_step = "copy the file again from where it came from"
    return ImageError("The video is cut off", reason="truncated", why=why, next_step=next_step)


def _corrupt(why: str) -> ImageError:
    next_step = "copy the file again from where it came from"
    return ImageError("The video is damaged", reason="corrupt", why=why, next_step=next_step)


def _taken(container: Any, rule: VideoSettings, max_megapixels: float, min_side: int) -> Iterator[Frame]:
    if not container.streams.video:
        raise ImageError("The file has no video stream", reason="unsupported_format")
    stream = container.streams.video[0]
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_megapixels * 1e6:
        raise too_large(f"frames of {width}x{height}; the limit is {max_megapixels:g} megapixels", None)
    if min(width, height) < min_side:
        why = f"frames of {width}x{height}, and each side must have at least {min_side}"
        raise ImageError("The video is too small", reason="too_small", why=why)
    stream.thread_count = 1  # files are decoded side by side
    first = end = None
    following, last_hash, step = 0.0, None, 0.0
    for frame in container.decode(stream):
        if frame.is_corrupt:
            raise _corrupt(f"the frame at {frame.time} s")
        if frame.time is None:
            raise _corrupt("a frame has no time")
        first = frame.time if first is None else first
        step = max(step, frame.time - end) if end is not None else step
        end, seconds = frame.time, frame.time - first
        if seconds < following - 1e-6:
            continue
        pixels = _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
        following = seconds + rule.every_seconds
        found = perceptual_hash(gray(pixels))
        if last_hash is not None and (found ^ last_hash).bit_count() < rule.min_difference:
            continue
        last_hash = found
        yield Frame(seconds=seconds, pixels=pixels, mode=frame.format.name)
    if first is None or end is None:
        raise _cut("it has no frame")
    length = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
    if (missing := length - (end - first) - 2 * step) > _MISSING_END:
        raise _cut(f"its frames end {missing:.1f} s before the {length:.1f} s that it says to have")


def _upright(pixels: np.ndarray, rotation: int) -> np.ndarray:
    """Turns a frame by the degrees that its display matrix says, counter-clockwise, if these are quarter turns."""
    return np.ascontiguousarray(np.rot90(pixels, rotation // 90)) if rotation % 90 == 0 else pixels
