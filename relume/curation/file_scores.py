"""The scores of image files that are not ingested yet, so that the limits of curation can be chosen by them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from relume.curation.quality import quality
from relume.curation.scores import scores
from relume.errors import ImageError
from relume.images import decode, read_bytes, to_uint8
from relume.images.header import open_image
from relume.images.quality import nearest_quality
from relume.parallel import Budget, map_in_order

_AT_ONCE = Budget(64.0)  # megapixels
_MIN_SIDE = 34  # pixels, of the smallest image that all scores can be measured of


def file_scores(files: Sequence[Path]) -> Iterator[dict[str, float | int | str] | ImageError]:
    """Measures image files.

    Args:
        files: Their paths.

    Yields:
        For each file its path as `file`, `width`, `height`, `bit_depth` and all scores by name, or why it cannot be
        read. `jpeg_quality` of a JPEG is that of its quantisation tables.
    """
    yield from map_in_order(_measure, files)


def _measure(path: Path) -> dict[str, float | int | str] | ImageError:
    try:
        data = read_bytes(path)
        opened, header = open_image(data, path)
        with _AT_ONCE.take(header.width * header.height / 1e6):
            pixels = to_uint8(decode(data, where=path, min_side=_MIN_SIDE).pixels)
            figures = asdict(quality(pixels)) | asdict(scores(pixels))
    except ImageError as error:
        return error
    if header.format == "JPEG":
        figures["jpeg_quality"] = nearest_quality(opened.quantization[0])
    facts = {"width": header.width, "height": header.height, "bit_depth": header.bit_depth}
    return {"file": str(path), **facts, **figures}
