"""What a process of relume may reach: no package reports its usage, and this machine is reached without a proxy.

Importing `relume` sets both, because ONNX Runtime and OpenVINO read them when they are loaded, by any import. What
relume starts inherits the variables.
"""

import sys
from collections.abc import MutableMapping

# The names are those of the packages' own documentation.
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
# OpenVINO sends an event when it is imported and reads no variable. It does without this package of its own.
NOT_IMPORTED = ("openvino_telemetry",)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def keep_to_this_machine(environment: MutableMapping[str, str]) -> None:
    """Sets in an environment that no package reports its usage and that loopback goes through no proxy."""
    environment.update(TELEMETRY_OFF)
    # Programs read either spelling; most let the small one win.
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host for host in map(str.strip, given.split(",")) if host]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def leave_out_telemetry_packages() -> None:
    """Makes imports of packages that only send events fail, which those who use them expect."""
    for name in NOT_IMPORTED:
        sys.modules[name] = None  # type: ignore[assignment]
