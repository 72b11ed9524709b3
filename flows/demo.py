"""The main job on embedded defaults, as a new user sees it: graph, release, an image through Triton, report."""

import time
from pathlib import Path
from typing import Any

from flows.embedded_triton import EmbeddedTriton
from flows.report import write_report
from flows.turns import turn
from relume.evaluation.card import read_metrics
from relume.evaluation.settings import EvaluateSettings
from relume.evaluation.tasks import INPUTS
from relume.params_file import load_section


def run_demo(root: Path, home: Path) -> None:
    """Runs the retraining flow on the sources of the checkout, shows its result, and leaves no process running that did
    not run before.

    Args:
        root: The top of a relume checkout.
        home: RELUME_HOME.

    Raises:
        RelumeError: As the flow; Triton is stopped in any case if it was started here.
    """
    from flows.prefect_settings import use_local_prefect

    started = time.monotonic()
    root = root.resolve()
    use_local_prefect(home)
    from flows.retrain import retrain

    triton = EmbeddedTriton(home)
    with turn(home, root, "demo"):  # it does not wait, as its user is watching
        already_up = triton.running() is not None
        try:
            result = retrain(str(root), home=str(home))
            assert isinstance(result, dict)  # with the turn in hand it is not skipped
            served = _through_triton(root, home)
        finally:
            if not already_up:
                triton.stop()
    report = write_report(
        home / "reports" / "index.html",
        root=root,
        facts={"stages": result["pipeline"]["stages"], "release": _release_facts(result["release"]), "served": served},
    )
    left = "Triton, which ran before, is still running" if already_up else "no process was left running"
    took = f"{(time.monotonic() - started) / 60:.1f} minutes; {left}"
    print(_summary(root, result, served, report, took), flush=True)


def _through_triton(root: Path, home: Path) -> dict[str, Any]:
    """Sends a degraded held-out photograph to the product on Triton and keeps both images as files."""
    from flows.release.package import product_of
    from relume.evaluation.held_out import degraded_photograph, photographs
    from relume.images import save_image
    from relume.metrics import psnr, to_8_bit
    from relume.serving.levels import level_for
    from relume.serving.triton_client import TritonRestorer

    degradation, levels = next(load_section("evaluate", EvaluateSettings, root).measured())
    level = levels[len(levels) // 2]
    image_id, photograph = max(
        photographs(root / "data" / "curated" / "held_out" / "test").items(), key=lambda item: item[1].size
    )
    degraded, clean = degraded_photograph(photograph, image_id, level, degradation.protocols[0], seed=0)
    noisy = to_8_bit(degraded)
    product = product_of(root)
    server = EmbeddedTriton(home).start()
    with TritonRestorer(server.grpc, product, key=server.key) as restorer:
        restoration = restorer.restore(noisy, level=level_for(restorer.served().levels, degradation.parameter, level))
    restored = restoration.image
    folder = home / "reports" / "demo"
    for name, image in {"noisy": noisy, "restored": restored, "clean": clean}.items():
        save_image(folder / f"{name}.png", image)
    height, width = clean.shape[:2]
    return {
        "product": product,
        "release": restoration.release,
        "size": f"{width} x {height}",
        "noisy": noisy,
        "restored": restored,
        "gain": psnr(restored, clean) - psnr(noisy, clean),
        "folder": folder,
    }


def _release_facts(outcome: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the report shows of a release; None when the package was not released again."""
    if outcome is None:
        return None
    return {**outcome["release"], "checks": outcome["gate"].get("checks", [])}


def _summary(root: Path, result: dict[str, Any], served: dict[str, Any], report: Path, took: str) -> str:
    degradation, _ = next(load_section("evaluate", EvaluateSettings, root).measured())
    metrics = read_metrics(root / "reports" / "metrics.json")[degradation.protocols[0]]
    levels = sorted(metrics["final"], key=lambda level: float(level.partition("_")[2]))
    titles = INPUTS | {"nlm": "non-local means", "average": "plain average", "ensemble": "ensemble head"}
    rows = [("", *(level.replace("_", " ") for level in levels))]
    for system, title in (titles | {"final": "fine-tuned, released"}).items():
        if system in metrics:
            rows.append((title, *(f"{metrics[system][level]['psnr']:.2f} dB" for level in levels)))
    table = "\n".join(f"  {title:<22}" + "".join(f"{cell:>11}" for cell in cells) for title, *cells in rows)
    return f"""
Held-out photographs, PSNR
{table}

Released   {served["release"]}
Restored   {_short(served["folder"] / "restored.png", root)} by Triton ({served["gain"]:+.1f} dB over noisy.png)
Report     {_short(report, root)}
Took       {took}

Next
  . .venv/bin/activate
  relume restore {_short(served["folder"] / "noisy.png", root)} -o clean.png --product {served["product"]}
  relume restore MY_PHOTO.jpg -o clean.jpg
  relume pipeline run --source MY_PHOTOS && relume release
  relume up && relume status
"""


def _short(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
