"""Where the driver keeps its local state: one ignored folder, handed to the steps as RELUME_HOME."""

import os
from pathlib import Path


def relume_home() -> Path:
    """The folder of all local state: RELUME_HOME, or `.relume` below the current folder.

    Returns:
        An absolute path. It is not created here.
    """
    return Path(os.environ.get("RELUME_HOME") or ".relume").resolve()


def tracking_uri() -> str:
    """The address of MLflow's tracking store: MLFLOW_TRACKING_URI, or SQLite below RELUME_HOME."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{relume_home() / 'mlflow' / 'mlflow.db'}"
