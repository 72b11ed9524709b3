"""For all tests: how they are spread over the cores, and that an interrupt reaches what they start."""

import os
import shutil
import signal
import tempfile
from typing import Any

import pytest
from hypothesis import settings

REAL = ("tests/real/", "tests/flows/platform/")
LONG_AND_APART = "tests/components/test_recipe_runs.py"  # its tests share nothing: they fill both workers at the end
STATE = tempfile.TemporaryDirectory(prefix="relume-state-")
DIED_IN: set[str] = set()  # the tests in which a worker of this run died

# Hypothesis' own profile for CI, everywhere: a commit is tested with the same examples each time, and no example is
# refused for the time that a busy machine needed. It keeps no database that the two workers would share.
settings.load_profile("ci")


def pytest_configure() -> None:
    """Keeps what relume remembers of a user's releases apart from the developer's own, and lets interrupts through.

    What a shell starts in the background ignores interrupts, and so would all processes that tests start.
    """
    os.environ["XDG_STATE_HOME"] = STATE.name
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

        def _reschedule(self, node: Any) -> None:
            """Gives a worker files until it has a test after the one it runs: it starts none without the next."""
            while not node.shutting_down and (not self.workqueue or self._pending_of(self.assigned_work[node]) < 2):
                super()._reschedule(node)

        def remove_node(self, node: Any) -> str | None:
            """Runs the test in which a worker died once more, and what else that worker still had.

            A second death fails the test: libraries that many tests load into one process can end it in a test that
            passes on its own, as OpenVINO did. The pinned pytest-xdist hands out finished files again and then waits
            for ever.
            """
            left = {
                file: unfinished
                for file, tests in self.assigned_work.pop(node).items()
                if (unfinished := {test: False for test, done in tests.items() if not done})
            }
            if not left:
                return None
            file = next(iter(left))
            crashed = next(iter(left[file]))
            again = crashed not in DIED_IN
            DIED_IN.add(crashed)
            if not again:
                del left[file][crashed]
            self.workqueue.update({file: tests for file, tests in left.items() if tests})
            for other in self.nodes:
                self._reschedule(other)
            return None if again else crashed

    return ByFileAndServers(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the tests in which a worker died, also those that passed the second time."""
    for test in sorted(DIED_IN):
        terminalreporter.line(f"WORKER DIED in {test}; the test ran once more", red=True)


@pytest.fixture
def chromium():
    """Chromium without a window, for one test: while it runs, its thread counts as that of an event loop."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's package chromium: sh infra/setup.sh dev")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox needs rights that a container may not give; it opens our pages alone.
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture
def offline_page(chromium):
    """A page; whatever it asks of a network, and an error in it, fails the test."""
    page, troubles = chromium.new_page(), []
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url))
    page.on("requestfailed", lambda request: troubles.append(request.url))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    yield page
    page.close()
    assert troubles == []
