"""Where all local state lies: one ignored folder, which the driver hands to the stages as RELUME_HOME."""

import os
from pathlib import Path


def relume_home(root: str | Path = ".") -> Path:
    """The folder of all local state, for entry points to read; what they call is given it.

    Args:
        root: The checkout.

    Returns:
        RELUME_HOME, or `.relume` in the checkout, as an absolute path. It is not created here.
    """
    return Path(os.environ.get("RELUME_HOME") or Path(root) / ".relume").resolve()


def tracking_uri(home: Path) -> str:
    """The address of MLflow's tracking store: MLFLOW_TRACKING_URI, or SQLite in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
