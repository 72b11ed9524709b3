"""The options of `relume evaluate` as a plan that can run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from relume.counts import counted
from relume.errors import ConfigError, SourceError
from relume.evaluation.benchmark.measure import Asking
from relume.evaluation.benchmark.output import check_output
from relume.evaluation.benchmark.protocols import PROTOCOLS, parse_levels
from relume.evaluation.benchmark.run import Plan, Progress, run
from relume.evaluation.benchmark.sets import SETS, open_set
from relume.evaluation.benchmark.systems import baseline, load_estimator, load_system
from relume.inference.plan import Inference


def benchmark_request(
    *,
    models: Sequence[str],
    sets: Sequence[str],
    data: str | None,
    protocols: Sequence[str],
    out: str | Path,
    baselines: Sequence[str] = (),
    ask: str | None = None,
    estimator: str | None = None,
    self_ensemble: bool = False,
    tile: int | None = None,
    halo: int = 16,
    overlap: int = 8,
    seed: int = 0,
    limit: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[str, list[str]]:
    """Loads what is named, measures it and writes `out`; artifacts run on the GPU where there is one.

    Args:
        models: Folders; see `load_system`.
        sets: Names or folders; see `open_set`.
        data: The folder of the benchmark sets.
        protocols: As `parse_protocol` reads them; empty for the protocol that each set is made for.
        out: Folder of the results; it may hold an earlier result, which is replaced, and nothing else.
        baselines: `blur`, `nlm` and `bm3d`.
        ask: Levels between commas that adjustable systems are asked for.
        estimator: Folder of a level estimator.
        self_ensemble: Whether artifacts run in eight orientations.
        tile: Side of the tiles that artifacts run in; None for whole images.
        halo: Context of a tile in pixels.
        overlap: Pixels over which neighbouring tiles are blended.
        seed: Of the noise and of the bootstrap.
        limit: Only the first so many images of each set.
        on_progress: Called after each image.

    Returns:
        The tables, and notes for their reader.

    Raises:
        UserError: Something named cannot be found or does not fit.
    """
    if ask is not None and estimator:
        raise ConfigError("--ask and --estimator cannot be used together", next_step="leave one of them out")
    named = [*models, *(name for name in sets if name not in SETS)]
    check_output(out, needed=[*named, *(place for place in (data, estimator) if place)])
    asked = () if ask is None else parse_levels(ask, where="--ask")
    settings = {
        "models": list(models),
        "baselines": list(baselines),
        "sets": list(sets),
        "protocols": list(protocols),
        "ask": ask,
        "estimator": estimator,
        "self_ensemble": self_ensemble,
        "tile": tile,
        "halo": halo if tile else None,
        "overlap": overlap if tile else None,
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inference = None if tile is None else _tiles(tile, halo, overlap)
    opened = [open_set(name, data) for name in sets]

    systems = [
        *(load_system(path, inference=inference, self_ensemble=self_ensemble, device=device) for path in models),
        *map(baseline, baselines),
    ]
    asking = Asking(
        levels=asked,
        estimate=load_estimator(estimator, device=device) if estimator else None,
    )
    plan = Plan(sets=opened, systems=systems, protocols=protocols, asking=asking, seed=seed, limit=limit)
    return run(plan, out, settings=settings, on_progress=on_progress), plan.notes()


def _tiles(tile: int, halo: int, overlap: int) -> Inference:
    try:
        return Inference(tile=tile, halo=halo, overlap=overlap)
    except ValidationError as error:
        raise ConfigError(
            "The tiles cannot cover an image",
            where=f"--tile {tile} --halo {halo} --overlap {overlap}",
            why=error.errors()[0]["msg"].removeprefix("Value error, "),
            next_step="lower the halo or the overlap, or enlarge the tile",
        ) from None


def describe(data: str | None) -> str:
    """The sets and protocols that there are, and which sets are below `data`."""
    lines = ["sets" + ("" if data else "  (give their folder with --data or RELUME_DATA to see which are present)")]
    for entry in SETS.values():
        lines.append(f"  {entry.name:<16} {entry.about}; by default {entry.protocol}{_presence(entry.name, data)}")
    lines += ["", "protocols"]
    for protocol in PROTOCOLS.values():
        levels = ",".join(f"{level:g}" for level in protocol.levels)
        lines.append(f"  {protocol.name:<16} {protocol.about}" + (f"; {protocol.parameter} {levels}" if levels else ""))
    return "\n".join(lines)


def _presence(name: str, data: str | None) -> str:
    if data is None:
        return ""
    try:
        return f"; {counted(len(open_set(name, data).paths()), 'image')}"
    except SourceError:
        return "; not present"
