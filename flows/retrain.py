"""Scheduled retraining: list the sources, bring the graph up to date, release what is new.

Importing this module imports Prefect. `prefect.yaml` deploys it; `relume up` starts the worker that runs it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, State

import flows.pipeline
import flows.release
from flows.embedded_triton import triton_elsewhere
from flows.release.ledger import Ledger
from flows.release.package import Package, open_package
from flows.turns import WAIT_SECONDS, RunInProgressError, turn
from flows.webhook import send
from relume.errors import RelumeError
from relume.home import relume_home
from relume.ingestion.lists import update_list
from relume.params_file import read_values


@flow(name="retrain", persist_result=False)
def retrain(
    repository: str = ".", server: str | None = None, home: str | None = None, wait: float = WAIT_SECONDS
) -> dict[str, Any] | State:
    """Scans the sources, runs the graph, and releases the package if it was neither promoted nor refused before.

    Args:
        repository: The top of the checkout.
        server: gRPC address of a running Triton server; when None that of RELUME_SERVER, else the embedded one,
            started if need be.
        home: The folder of all local state; RELUME_HOME, or `.relume` in the checkout, when None.
        wait: Seconds to wait for another run in this checkout; after that this one is skipped, which its state says.

    Returns:
        `sources`: what changed in them; `pipeline`: the result of the pipeline flow; `package`: hash of the
        package; `release`: the outcome of the release, or None when this package served before or was refused before.

    Raises:
        RelumeError: As the pipeline and the release. A candidate that the gate refuses fails the run, so that
            a person examines it.
    """
    root = Path(repository).resolve()
    place = Path(home) if home else relume_home(root)
    server = server or triton_elsewhere()
    logger = get_run_logger()

    def say(line: str) -> None:
        print(line, flush=True)
        logger.info(line)

    try:
        with turn(place, root, "retrain", wait=wait, say=say) as this:
            this.at("scan of the sources")
            changed = task(name="scan sources", cache_policy=NO_CACHE)(_scan)(root, place)
            ran = flows.pipeline.run(root, place)
            this.at("release")
            package = open_package(root / "package")
            outcome = None if judged(Ledger(place), package) else flows.release.run(root, place, server=server)
    except RunInProgressError as busy:
        return Completed(name="Skipped", message=str(busy))
    except RelumeError as error:
        _report(root, f"The retraining failed. {error}", say)
        raise
    if outcome:
        _report(root, f"The retraining released {outcome['release']['model']}.", say)
    return {"sources": changed, "pipeline": ran, "package": package.sha256, "release": outcome}


def _report(root: Path, text: str, say: Callable[[str], None]) -> None:
    """Sends the end of a retraining to the webhook, if there is one; that it cannot be reached fails nothing."""
    values = read_values(root).value.get("monitor", {})
    try:
        if file := values.get("webhook_file"):
            send(root / file, {"text": text})
    except RelumeError as error:
        say(f"warning: {error}")


def judged(ledger: Ledger, package: Package) -> bool:
    """Whether a package was promoted or refused before; one whose release was cut short was not."""
    return any(
        entry.event in ("promoted", "refused") and entry.release.package == package.sha256 for entry in ledger.entries()
    )


def _scan(root: Path, home: Path) -> dict[str, Any]:
    change = update_list(root, home)
    return dataclasses.asdict(change) | {"path": str(change.path)}
