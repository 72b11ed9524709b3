"""The kinds of faults. Each gets a fresh folder and a seeded generator, and says what is wrong afterwards."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos import objects, records, releases, runs, training
from tests.chaos.world import World

Fault = Callable[[World, Path, random.Random], Iterator[str]]
FAULTS: dict[str, Fault] = {
    "kill -9 of a pipeline run": runs.driver_killed,
    "kill -9 of a stage": runs.step_killed,
    "kill -9 of Prefect's server": runs.server_killed,
    "two pipeline runs at once": runs.two_runs,
    "two retrainings at once": runs.two_retrainings,
    "jumps of the clock": runs.clock_jumps,
    "a disk that fails during a run": runs.disk_fails,
    "kill -9 of a container": runs.container_killed,
    "an object of DVC's cache": runs.object_damaged,
    "kill -9 of a training": training.trainer_killed,
    "a training's checkpoint": training.checkpoint_damaged,
    "kill -9 of a release": releases.release_killed,
    "kill -9 of Triton during a release": releases.triton_killed,
    "kill -9 of MLflow during a release": releases.mlflow_killed,
    "kill -9 of PostgreSQL during a release": releases.database_killed,
    "two releases at once": releases.two_releases,
    "kill -9 of the gateway": releases.gateway_killed,
    "S3 answers with errors": objects.errors,
    "S3 answers slowly": objects.slow_answers,
    "S3 connections are cut": objects.cut_connections,
    "S3 gives other ETags": objects.other_etags,
    "kill -9 of the S3 server": objects.server_killed,
    "kill -9 of who writes the ledger": records.ledger_writer_killed,
    "a byte or the end of the ledger": records.ledger_damaged,
    "kill -9 of a backup": records.backup_killed,
    "kill -9 of a restoration": records.restoration_killed,
    "kill -9 of a garbage collection": records.collection_killed,
    "kill -9 of a key's rotation": records.rotation_killed,
}
