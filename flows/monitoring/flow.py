"""The Prefect flow of the monitoring, which `prefect.yaml` starts every hour.

Importing this module imports Prefect.
"""

import dataclasses
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.monitoring.monitor import check, notify, require_unchanged
from flows.platform import retraining
from relume.home import relume_home
from relume.params import load_params


@flow(name="monitor", persist_result=False)
def monitor(repository: str = ".", home: str | None = None) -> list[dict[str, Any]]:
    """Compares what each product was sent and gave in the last window with what it was after its release.

    Args:
        repository: The top of the checkout, whose section `monitor` is used.
        home: The folder of all local state; RELUME_HOME, or `.relume` in the checkout, when None.

    Returns:
        The reports as JSON values.

    Raises:
        DriftError: Something has changed. If the check before did not find it, the webhook got an alarm and a
            retraining was started, as the settings say.
        RelumeError: It could not be checked, or the alarm could not be sent.
    """
    root = Path(repository).resolve()
    place = Path(home) if home else relume_home(root)
    settings = load_params(root).monitor
    reports = check(place, settings)
    for report in reports:
        print(report, flush=True)
        rows = [dataclasses.asdict(found) for found in report.comparisons]
        if rows:
            create_table_artifact(
                rows, key="monitor", description=f"{report.product}, {report.release}: {report.state}"
            )
    if settings.retrain and any(report.is_alarm for report in reports):
        retraining.start(place)
    if settings.webhook_file:
        notify(reports, root / settings.webhook_file)
    require_unchanged(reports, place)
    return [dataclasses.asdict(report) for report in reports]
