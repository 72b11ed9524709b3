"""The Prefect flow of the garbage collection, which `prefect.yaml` starts every week.

Importing this module imports Prefect.
"""

from pathlib import Path

from prefect import flow
from prefect.states import Completed, State

from flows.garbage.collect import collect
from flows.turns import WAIT_SECONDS, RunInProgressError
from relume.home import relume_home
from relume.params import garbage_settings


@flow(name="garbage_collect", persist_result=False)
def garbage_collect(repository: str = ".", home: str | None = None, wait: float = WAIT_SECONDS) -> list[str] | State:
    """Lists what nothing refers to any more; removes it where `garbage.remove` of params.yaml says so.

    Args:
        repository: The top of the checkout.
        home: The folder of all local state; RELUME_HOME, or `.relume` in the checkout, when None.
        wait: Seconds to wait for another run in this checkout; after that this one is skipped, which its state says.

    Returns:
        What was found, as lines for people.

    Raises:
        RelumeError: As `flows.garbage.collect.collect`; nothing is removed.
    """
    root = Path(repository).resolve()
    settings = garbage_settings(root)
    try:
        found = collect(
            root, Path(home) if home else relume_home(root), settings, remove=settings.remove, wait=wait
        ).lines()
    except RunInProgressError as busy:
        return Completed(name="Skipped", message=str(busy))
    for line in found:
        print(line, flush=True)
    return found
