"""The Prefect flow that looks for new photographs and for runs that were killed; `prefect.yaml` starts it every quarter
of an hour.

Importing this module imports Prefect.
"""

import os
from pathlib import Path

from prefect import flow

from flows.events import look
from flows.platform import retraining
from flows.platform.zombies import end_zombies
from flows.prefect_settings import prefect_api
from flows.turns import activities
from flows.webhook import send
from relume.counts import counted
from relume.home import relume_home
from relume.params import load_params


@flow(name="watch", persist_result=False)
def watch(repository: str = ".", home: str | None = None) -> list[str]:
    """Starts a retraining when S3 prefixes have new photographs, and ends runs that were killed.

    Args:
        repository: The top of the checkout, whose section `watch` is used.
        home: The folder of all local state; RELUME_HOME, or `.relume` in the checkout, when None.

    Returns:
        What was done, as sentences.

    Raises:
        SourceError: A prefix cannot be listed.
        ServiceError: The retraining cannot be started, or the webhook did not take the message.
    """
    root = Path(repository).resolve()
    place = Path(home) if home else relume_home(root)
    params = load_params(root)
    done = [
        f"{name} was killed and is ended" for name in end_zombies(prefect_api(place) or os.environ["PREFECT_API_URL"])
    ]
    arrivals = look(root, place)
    # A retraining in progress may have scanned already or not; the look after it says what it left.
    free = not any(run.what == "retrain" for run in activities(place))
    if free and arrivals.settled and len(arrivals.new) >= params.watch.photographs:
        retraining.start(place)
        done.append(f"{counted(len(arrivals.new), 'new photograph')}, such as {arrivals.new[0]}: a retraining begins")
    for line in done:
        print(line, flush=True)
    if done and params.monitor.webhook_file:
        send(root / params.monitor.webhook_file, {"text": "\n".join(done)})
    return done
