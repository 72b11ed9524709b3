"""relume: image restoration models and the tools to train, check, export and serve them."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from relume.network import keep_to_this_machine, leave_out_telemetry_packages

__version__ = "0.1.0"

__all__ = ["RemoteRestorer", "Restorer", "__version__"]

if TYPE_CHECKING:
    from relume.restorer import RemoteRestorer, Restorer

keep_to_this_machine(os.environ)
leave_out_telemetry_packages()


def __getattr__(name: str) -> Any:
    """Imports the restorers when they are used: `import relume` stays light.

    By name, because every stage of the graph imports this package: its code deps are what imports say, and an edit to a
    restorer would make all trainings stale.
    """
    if name in ("RemoteRestorer", "Restorer"):
        return getattr(importlib.import_module("relume.restorer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
