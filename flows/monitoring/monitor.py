"""The check of what production sends and gets: the last requests of each product beside the first of its release."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from flows.monitoring.requests import Requests
from flows.monitoring.tiles import HardTiles
from flows.release.ledger import Ledger
from flows.webhook import send
from relume.counts import counted
from relume.errors import BrokenFileError, RelumeError
from relume.files import atomic_file, write_json
from relume.monitoring.drift import Comparison, compare, limit_of_p
from relume.monitoring.settings import MonitorSettings
from relume.monitoring.statistics import NAMES
from relume.reading import read_json


class DriftError(RelumeError):
    """What production sends or gets is no longer what it was after the release."""

    exit_code = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProductReport:
    """What was found for one product.

    Attributes:
        product: Its name.
        release: That serves it.
        state: `collecting` while the release has not answered as many requests as its reference has; `quiet` when
            there are too few since; else `unchanged` or `changed`.
        reference: Requests of the reference.
        window: Requests of the window.
        comparisons: One for each statistic, when there was something to compare.
        known: Whether the check before found a change of this release as well, so that no one hears of it again.
    """

    product: str
    release: str
    state: Literal["collecting", "quiet", "unchanged", "changed"]
    reference: int
    window: int
    comparisons: list[Comparison] = dataclasses.field(default_factory=list)
    known: bool = False

    @property
    def is_alarm(self) -> bool:
        """Whether something has changed that the check before did not find."""
        return self.state == "changed" and not self.known

    def __str__(self) -> str:
        """For people: a line, and one more for each statistic that was compared."""
        line = (
            f"{self.product}  {self.release}  {self.state}: {counted(self.window, 'request')} beside {self.reference}"
        )
        rows = [
            f"  {found.statistic:<10} {found.reference:>10.4g} -> {found.window:<10.4g} p {found.p:.2g}"
            + ("  CHANGED" if found.changed else "")
            for found in self.comparisons
        ]
        return "\n".join([line, *rows])


def check(home: Path, settings: MonitorSettings, *, now: float | None = None) -> list[ProductReport]:
    """Compares the last requests of each product, and keeps what was found in the home.

    Args:
        home: RELUME_HOME.
        settings: Sizes of the two sets, and the rate of false alarms.
        now: End of the window; the clock's time when None.

    Returns:
        A report for each product that serves, also in `reports/monitoring/PRODUCT.json`, beside the plot of what
        has changed.

    Raises:
        LedgerError: The ledger is broken, so nothing says what serves.
        BrokenFileError: The database of the requests is damaged.
    """
    ledger = Ledger(home)
    since = (time.time() if now is None else now) - 60 * settings.window_minutes
    limit = limit_of_p(settings.false_alarms_per_day, window_minutes=settings.window_minutes, statistics=len(NAMES))
    reports = []
    with contextlib.closing(HardTiles(home)) as tiles:
        tiles.forget()
    with contextlib.closing(Requests(home)) as requests:
        for product in ledger.products():
            if (release := ledger.current(product)) is None:
                continue
            before = requests.first(release.model, settings.reference)
            after = requests.later(release.model, settings.reference, since)
            sizes = {"reference": len(before[NAMES[0]]), "window": len(after[NAMES[0]])}
            state: Literal["collecting", "quiet", "unchanged", "changed"] = "collecting"
            comparisons: list[Comparison] = []
            if sizes["reference"] == settings.reference:
                state = "quiet"
                if sizes["window"] >= settings.min_requests:
                    comparisons = compare(before, after, limit=limit)
                    state = "changed" if any(found.changed for found in comparisons) else "unchanged"
            place = home / "reports" / "monitoring" / product
            report = ProductReport(
                product=product,
                release=release.model,
                state=state,
                **sizes,
                comparisons=comparisons,
                known=_was_changed(place.with_suffix(".json"), release.model),
            )
            write_json(place.with_suffix(".json"), dataclasses.asdict(report))
            if report.state == "changed":
                _draw(place.with_suffix(".png"), report, before, after)
            reports.append(report)
    return reports


def require_unchanged(reports: list[ProductReport], home: Path) -> None:
    """Raises where a product changed.

    Raises:
        DriftError: Names the products and their statistics.
    """
    changed = [report for report in reports if report.state == "changed"]
    if changed:
        raise DriftError(
            "What is sent or served has changed since the release",
            where=", ".join(f"{report.product} ({report.release})" for report in changed),
            why="; ".join(_says(found) for report in changed for found in report.comparisons if found.changed),
            next_step=f"look at {home / 'reports' / 'monitoring'}; `relume retrain` trains on the photographs of today",
        )


def notify(reports: list[ProductReport], file: Path) -> None:
    """Sends alarms to a webhook, as one JSON object with `text` and `reports`.

    Args:
        reports: Of all products; nothing is sent when none is an alarm.
        file: Holds the address of the webhook.

    Raises:
        ConfigError: The file holds no address.
        ServiceError: The webhook did not take it. The address is not in the message.
    """
    alarms = [report for report in reports if report.is_alarm]
    if not alarms:
        return
    send(file, {"text": "\n".join(map(str, alarms)), "reports": [dataclasses.asdict(report) for report in alarms]})


def _was_changed(path: Path, release: str) -> bool:
    """Whether the report of the check before says that this release has changed; a damaged one says nothing."""
    try:
        before = read_json(path)
        return (before["release"], before["state"]) == (release, "changed")
    except (BrokenFileError, KeyError, TypeError):
        return False


def _says(found: Comparison) -> str:
    return f"{found.statistic} {found.reference:.3g} -> {found.window:.3g} (p {found.p:.1g})"


def _draw(path: Path, report: ProductReport, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    """Draws the distribution functions of the statistics that changed, the reference beside the window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [found.statistic for found in report.comparisons if found.changed]
    figure = Figure(figsize=(4 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for label, values in (("reference", before[name]), ("window", after[name])):
            axes.ecdf(values, label=label)
        axes.set(xlabel=name, ylabel="share of the requests")
        axes.legend()
    figure.suptitle(f"{report.product}, {report.release}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
