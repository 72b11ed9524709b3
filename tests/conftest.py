"""For all tests: how they are spread over the cores, and that an interrupt reaches what they start."""

import signal
from typing import Any

import pytest

REAL = ("tests/real/", "tests/flows/platform/")
LONG_AND_APART = "tests/components/test_recipe_runs.py"  # its tests share nothing: they fill both workers at the end


def pytest_configure() -> None:
    """What a shell starts in the background ignores interrupts, and so would all processes that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps files whole on one worker of pytest-xdist, and the tests with real servers together on one.

    Servers take Triton's, MLflow's and Prefect's usual ports when they are free; on one worker no two ask at once.
    What a file trains or exports once is not made twice. Not by the mark `xdist_group`: the pinned pytest-xdist
    renames marked tests through a private field that the pinned pytest no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFileAndServers(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(LONG_AND_APART):
                return nodeid
            return "real" if nodeid.startswith(REAL) else nodeid.partition("::")[0]

    return ByFileAndServers(config, log)
