"""The report of the curated data: one HTML file that opens without a network, and its parts as PNG files beside it.

Sheets show a sample of each kind, always the same: the photographs whose ids sort first, which are hashes of their
bytes. So the report costs the same for a thousand photographs and for a million.
"""

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from relume.counts import counted
from relume.curation.diversity import descriptor
from relume.curation.embedding_map import embedding_map
from relume.curation.quality import shrink
from relume.curation.sheets import (
    Thumbnail,
    contact_sheet,
    file_name,
    histograms,
    save_figure,
    thumbnail,
)
from relume.files import atomic_folder, write_text
from relume.images import save_image, to_uint8
from relume.ingestion.ingest import Photograph, Photographs
from relume.reading import read_table, reading

ON_A_SHEET = 24
ON_THE_MAP, DRAWN_ON_IT = 600, 60
_PAIRS = 12
_FIGURES = ("sharpness", "noise_sigma", "flat_fraction")
_COLUMNS = {"image_id": str, "address": str, "group": str, "split": str, "reason": str, "cluster": int}
_COLUMNS |= dict.fromkeys(_FIGURES, float)
_AGAIN = "run `dvc repro --force curate`"


def write_data_report(root: Path, folder: Path) -> Path:
    """Fills a folder with `index.html` and the PNG files of its parts.

    Args:
        root: The checkout, with the outs of `ingest` and `curate`.
        folder: Replaced as a whole.

    Returns:
        The HTML file.

    Raises:
        BrokenFileError: The outs are missing or damaged.
    """
    import jinja2

    rows = read_table(root / "data" / "curated" / "images.csv", _COLUMNS, next_step=_AGAIN)
    rows.sort(key=lambda row: row["image_id"])
    photographs = Photographs(root / "data" / "ingested")
    of_id = {photograph.image_id: photograph for photograph in photographs.manifest}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    with atomic_folder(folder) as temporary:
        parts = []
        for kind, members in _kinds(rows).items():
            shown = [_thumbnail(photographs, of_id[row["image_id"]], _caption(row)) for row in members[:ON_A_SHEET]]
            save_image(temporary / f"{kind}.png", contact_sheet(shown))
            title = "Kept" if kind == "kept" else f"Rejected: {kind.removeprefix('rejected-')}"
            parts.append(
                _part(title, f"{counted(len(members), 'photograph')}, {len(shown)} shown", temporary / f"{kind}.png")
            )
        if pairs := _duplicates(rows):
            shown = [
                _thumbnail(photographs, of_id[row["image_id"]], f"{word}: {file_name(row['address'])}")
                for pair in pairs[:_PAIRS]
                for word, row in zip(("kept", "copy"), pair, strict=True)
            ]
            save_image(temporary / "duplicates.png", contact_sheet(shown))
            text = f"{counted(len(pairs), 'near duplicate')}, {len(shown) // 2} shown, each beside the better copy"
            parts.append(_part("Duplicates", text, temporary / "duplicates.png"))
        save_figure(histograms(_scores(root, rows)), temporary / "scores.png")
        parts.append(_part("Scores", "kept and rejected photographs, stacked", temporary / "scores.png"))
        kept = [row for row in rows if not row["reason"]][:ON_THE_MAP]
        if len(kept) > 1:
            images = [shrink(to_uint8(photographs.pixels(of_id[row["image_id"]])), 256) for row in kept]
            vectors = np.stack([descriptor(image) for image in images])
            figure = embedding_map(vectors, [row["cluster"] for row in kept], images[:DRAWN_ON_IT])
            save_figure(figure, temporary / "map.png")
            text = f"{counted(len(kept), 'kept photograph')} by the built-in descriptor, coloured by cluster"
            parts.append(_part("What the photographs look like", text, temporary / "map.png"))
        counts = Counter(row["reason"] or row["split"] for row in rows)
        quarantine = read_table(
            root / "data" / "ingested" / "quarantine.csv",
            {"address": str, "reason": str, "detail": str},
            next_step="run `dvc repro --force ingest`",
        )
        content = environment.get_template("data_report.html.j2").render(
            photographs=len(rows), counts=counts.most_common(), parts=parts, quarantine=quarantine[:200],
            quarantined=Counter(row["reason"] for row in quarantine).most_common(),
        )  # fmt: skip
        write_text(temporary / "index.html", content)
    return folder / "index.html"


def _kinds(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The kept rows, and those that each rule rejected, by the name of their sheet."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (bool(row["reason"]), row["reason"])):
        kinds.setdefault(f"rejected-{row['reason']}" if row["reason"] else "kept", []).append(row)
    return kinds


def _caption(row: dict[str, Any]) -> str:
    return f"{row['sharpness']:.0f} / {row['noise_sigma']:.1f}  {file_name(row['address'])}"


def _duplicates(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each near duplicate the photograph of its scene that was kept, and itself."""
    kept = {row["group"]: row for row in reversed(rows) if not row["reason"]}
    copies = [row for row in rows if row["reason"] == "near_duplicate" and row["group"] in kept]
    return [(kept[row["group"]], row) for row in copies]


def _scores(root: Path, rows: list[dict[str, Any]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The values of each score, of the kept and of the rejected photographs."""
    values = {name: [(row[name], bool(row["reason"])) for row in rows] for name in _FIGURES}
    if (path := root / "data" / "curated" / "scores.parquet").is_file():
        from pyarrow import parquet, types

        with reading(path, next_step=_AGAIN):
            table = parquet.read_table(path)
            rejected = [bool(reason) for reason in table.column("reason").to_pylist()]
            for field in table.schema:
                if types.is_floating(field.type):
                    column = zip(table.column(field.name).to_pylist(), rejected, strict=True)
                    values[field.name] = [(value, out) for value, out in column if value is not None]
    found = []
    for name, pairs in values.items():
        finite = [(value, out) for value, out in pairs if np.isfinite(value)]
        if finite:
            kept, rejected_values = ([value for value, out in finite if out is side] for side in (False, True))
            found.append((name, np.array(kept, float), np.array(rejected_values, float)))
    return found


def _thumbnail(photographs: Photographs, photograph: Photograph, text: str) -> Thumbnail:
    return thumbnail(photographs.pixels(photograph), text)


def _part(title: str, text: str, path: Path) -> dict[str, str]:
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    return {"title": title, "text": text, "source": source}
