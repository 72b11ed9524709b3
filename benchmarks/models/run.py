"""Times every network against the plain transcription of its published block order.

    python -m benchmarks.models.run --results benchmarks/results/models.json
    python -m benchmarks.models.run --only swinir hat --repeats 7 --threads 1

Both get the same weights and the same image on the same machine. They run in turn, the one that begins alternating,
so that a slow moment meets both; the figure is the median of the ratios of neighbours. Ours runs in channels_last
memory, as `load_model` gives it; the transcription in PyTorch's default layout, as published. Cases measured earlier
stay in the results, each with its own date and conditions.
"""

import argparse
import datetime
import functools
import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.case import Case
from relume.files import write_json
from relume.models.registry import build
from relume.reading import read_json
from relume.serving.backends import processor

FOLDER = Path(__file__).parent


def cases(only: list[str]) -> list[Case]:
    """All cases of the transcriptions in this folder whose file or name contains one of `only`."""
    found = []
    for path in sorted(FOLDER.glob("transcribed_*.py")):
        module = importlib.import_module(f"benchmarks.models.{path.stem}")
        found += [c for c in module.CASES if not only or any(word in f"{path.stem} {c.name}" for word in only)]
    return found


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(case: Case, repeats: int, device: str) -> dict[str, Any]:
    """One row of the table: milliseconds of both, their ratio, and how far their outputs are apart."""
    torch.manual_seed(0)
    ours = build(case.architecture, dict(case.arguments)).eval()
    with torch.no_grad():  # zero scales and zero biases would hide a difference
        for parameter in ours.parameters():
            if (parameter == parameter.flatten()[0]).all():
                parameter += 0.2 * torch.randn_like(parameter)
    plain = case.transcription(**case.arguments).eval()
    plain.load_state_dict(ours.state_dict())
    ours, plain = ours.to(device, memory_format=torch.channels_last), plain.to(device)
    image = torch.rand(1, case.arguments.get("channels", 3), *case.size, device=device)
    last = image.contiguous(memory_format=torch.channels_last)
    inputs = {name: value.to(device) for name, value in case.inputs.items()}
    forward = functools.partial(case.rival, plain) if case.rival else plain
    rival = functools.partial(forward, image, **inputs)
    with torch.inference_mode():
        expected, actual = rival(), ours(last, **inputs)
        scale = expected.std() if expected.numel() > 1 else expected.abs()  # an estimator gives one number
        apart = float((actual - expected).abs().max() / scale)
        times: list[tuple[float, float]] = []
        for number in range(repeats):
            if number % 2:
                mine, published = seconds(lambda: ours(last, **inputs)), seconds(rival)
            else:
                published, mine = seconds(rival), seconds(lambda: ours(last, **inputs))
            times.append((published, mine))
    ratios = sorted(published / mine for published, mine in times)
    return {
        "case": case.name,
        "size": "x".join(map(str, case.size)),
        "published_ms": round(1e3 * statistics.median(published for published, _ in times), 2),
        "ours_ms": round(1e3 * statistics.median(mine for _, mine in times), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(ratios[0], 2), round(ratios[-1], 2)],
        "relative_difference": float(f"{apart:.1e}"),
    }


def main() -> None:
    """Runs the cases, prints the table, and writes it with date, hardware and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of families or cases")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(f"{'case':40} {'size':>9} {'published':>12} {'ours':>12} {'ratio':>7}  {'range':>13} {'apart':>8}")
    for case in cases(options.only):
        row = compare(case, options.repeats, options.device)
        rows.append(row)
        low, high = row["ratio_range"]
        print(
            f"{row['case']:40} {row['size']:>9} {row['published_ms']:>9} ms {row['ours_ms']:>9} ms "
            f"{row['ratio']:>7.2f}  {low:>5.2f} .. {high:<5.2f} {row['relative_difference']:>8}",
            flush=True,
        )
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        earlier = read_json(options.results) if options.results.exists() else {}
        conditions = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": torch.cuda.get_device_name() if options.device != "cpu" else processor(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "device": options.device,
            "repeats": options.repeats,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        found = {f"{row.pop('case')} at {row.pop('size')}": {**row, **conditions} for row in rows}
        write_json(options.results, dict(sorted({**earlier, **found}.items())))


if __name__ == "__main__":
    main()
