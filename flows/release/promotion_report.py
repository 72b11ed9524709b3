"""The page about a candidate: what the gate found, images to look at, and the terms of its photographs.

It is one HTML file that opens without a network. A link, a script or a style from elsewhere is not in it.
"""

import base64
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows.release.conditions import conditions_of
from flows.release.gate import GateReport, held_out_photographs
from flows.release.licences import SourceLicence
from flows.release.package import Package
from relume.evaluation.settings import EvaluateSettings
from relume.files import write_text
from relume.params import ReleaseSettings

SHOWN = 256  # pixels of an image's centre, at full resolution
_CONTRAST = 8


def write_promotion_report(
    path: Path,
    report: GateReport,
    candidate: Package,
    champion: Package | None,
    *,
    settings: ReleaseSettings,
    evaluate: EvaluateSettings,
    held_out: Path,
    licences: Sequence[SourceLicence],
    key: str | None,
) -> None:
    """Writes the page.

    Shown are, under the first condition of the gate, the photograph on which the candidate is worst beside the
    champion, the one in the middle, and the one on which their results differ most; before there is a champion, beside
    the degraded photographs.

    Args:
        path: The HTML file.
        report: Of the gate.
        candidate: The candidate's package.
        champion: The champion's, or None.
        settings: Of the gate.
        evaluate: The task and its levels.
        held_out: Folder of the held-out photographs.
        licences: The terms of the sources of its data.
        key: Name of the key that signs the home's releases; None when there is none yet.
    """
    import jinja2

    from relume.serving.onnx_restorer import OnnxRestorer

    restorers = [OnnxRestorer(each.folder / "serving") for each in (candidate, champion) if each]
    tile = max(side for each in restorers for side in each.serving.inference.tiles)
    photographs = held_out_photographs(held_out, settings, tile=tile)
    condition = next(iter(conditions_of(evaluate, restorers[0].serving)))
    found = {
        image_id: [condition.image(restorer, photograph, image_id, settings.seed) for restorer in (None, *restorers)]
        for image_id, photograph in photographs.items()
    }
    rows = []
    for title, image_id in _chosen(found):
        (before, *results), clean = found[image_id], photographs[image_id]
        named = zip(("before", "candidate", "champion"), (before, *results), strict=False)
        images = [{"title": name, "psnr": psnr, "source": _source(image)} for name, (image, psnr) in named]
        difference = results[0][0].astype(np.int16) - (results[1] if champion else before)[0]
        shown = np.clip(128 + _CONTRAST * difference, 0, 255).astype(np.uint8)
        images += [
            {"title": f"difference, {_CONTRAST} times", "psnr": None, "source": _source(shown)},
            {"title": "clean", "psnr": None, "source": _source(clean)},
        ]
        rows.append({"title": f"{title}: {image_id}", "image_id": image_id, "images": images})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    content = environment.get_template("promotion_report.html.j2").render(
        candidate=candidate,
        champion=champion.model if champion else None,
        report=report,
        condition=str(condition),
        rows=rows,
        licences=licences,
        key=key,
    )
    write_text(path, content)


def _chosen(found: dict[str, list[tuple[np.ndarray, float]]]) -> list[tuple[str, str]]:
    """The photographs to look at, each with why."""
    # Of each the candidate, and what it is compared with: the champion, or before there is one the degraded photograph.
    pairs = {name: (each[1], each[2] if len(each) > 2 else each[0]) for name, each in found.items()}
    gains = {name: candidate[1] - other[1] for name, (candidate, other) in pairs.items()}
    changes = {
        name: float(np.abs(candidate[0].astype(np.int16) - other[0]).mean())
        for name, (candidate, other) in pairs.items()
    }
    middle = statistics.median_low(gains.values())
    return [
        (f"worst, {min(gains.values()):+.2f} dB", min(gains, key=gains.__getitem__)),
        (f"median, {middle:+.2f} dB", next(name for name, gain in gains.items() if gain == middle)),
        ("most changed", max(changes, key=changes.__getitem__)),
    ]


def _source(image: np.ndarray) -> str:
    """The centre of an image as an address that holds it."""
    from relume.images import encode

    top, left = (max(0, (side - SHOWN) // 2) for side in image.shape[:2])
    data: Any = encode(np.ascontiguousarray(image[top : top + SHOWN, left : left + SHOWN]), ".webp")
    return "data:image/webp;base64," + base64.b64encode(data).decode()
