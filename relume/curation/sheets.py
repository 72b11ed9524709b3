"""Contact sheets: many photographs small on one image, each with a line of text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np

from relume.curation.quality import shrink
from relume.files import atomic_file
from relume.images import to_uint8

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL = 160  # pixels, of the longer side
_LINE, _GAP, _COLUMNS = 16, 8, 6
_BACKGROUND, _INK = (250, 250, 250), (40, 40, 40)


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small photograph.

    Attributes:
        pixels: uint8 (H, W, 3), at most `THUMBNAIL` a side.
        text: What is written below.
    """

    pixels: np.ndarray
    text: str


def thumbnail(pixels: np.ndarray, text: str) -> Thumbnail:
    """Makes a photograph small: (H, W, 3), uint8 or uint16."""
    return Thumbnail(pixels=shrink(to_uint8(pixels), THUMBNAIL), text=text)


def file_name(address: str) -> str:
    """The name of a file by its address, on one line."""
    return " ".join(unquote(address).rpartition("/")[2].split())


def contact_sheet(thumbnails: Sequence[Thumbnail], columns: int = _COLUMNS) -> np.ndarray:
    """Draws thumbnails in rows: uint8 (H, W, 3). There must be one at least.

    Args:
        thumbnails: In reading order.
        columns: In a row, at most.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    columns = min(columns, len(thumbnails))
    cell = (THUMBNAIL + _GAP, THUMBNAIL + _LINE + _GAP)
    rows = -(-len(thumbnails) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _BACKGROUND)
    # Pillow's own font has the letters of English alone.
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 10)
    for number, item in enumerate(thumbnails):
        left, top = (_GAP + at * side for at, side in zip((number % columns, number // columns), cell, strict=True))
        height, width = item.pixels.shape[:2]
        place = (left + (THUMBNAIL - width) // 2, top + (THUMBNAIL - height) // 2)
        sheet.paste(Image.fromarray(item.pixels), place)
        text = item.text
        while text and draw.textlength(text, font) > THUMBNAIL:
            text = text[:-2] + "…" if len(text) > 2 else ""
        draw.text((left, top + THUMBNAIL), text, _INK, font)
    return np.asarray(sheet)


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure of matplotlib as PNG; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})


def histograms(scores: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> "Figure":
    """A figure with a histogram for each score: its name, the values of the kept photographs, those of the rejected."""
    from matplotlib.figure import Figure

    scores = list(scores)
    columns = min(4, len(scores))
    rows = -(-len(scores) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    for number, (name, kept, rejected) in enumerate(scores, start=1):
        axes = figure.add_subplot(rows, columns, number)
        low, high = np.quantile(np.concatenate([kept, rejected]), [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, 31)
        stacked = [np.clip(values, edges[0], edges[-1]) for values in (kept, rejected)]
        axes.hist(stacked, edges.tolist(), stacked=True, color=["#2a7f9e", "#d0603a"], label=["kept", "rejected"])
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        if number == 1:
            axes.legend(fontsize=7)
    return figure
