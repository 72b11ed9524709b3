"""relume: image restoration models and the tools to train, check, export and serve them."""

import os

from relume.network import keep_to_this_machine, leave_out_telemetry_packages

__version__ = "0.1.0"

__all__ = ["__version__"]

keep_to_this_machine(os.environ)
leave_out_telemetry_packages()
