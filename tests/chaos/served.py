"""A champion that Triton serves, with a registry that can be killed: a real MLflow server on a real PostgreSQL."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import psutil

from flows.platform import services
from flows.processes import answers, free_port, recorded_process, start_process, stop_process
from tests.abuse.kills import TURNS, Platform
from tests.abuse.served_home import leave_usual_ports, processes_of
from tests.real.embedded_triton import CHECKOUT, link_server
from tests.real.postgres import Postgres, postgres
from tests.real.releases import make_checkout


class MissedError(Exception):
    """The fault came when all was over, so that nothing was tried."""


class Served(contextlib.ExitStack):
    """A checkout and its home, in which a champion serves, and the servers of the registry.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.root, self.home, self._mlflow = folder / "checkout", folder / "home", folder / "mlflow"
        link_server(self.home)
        self.callback(self._end)
        self.database: Postgres = self.enter_context(postgres())
        self.database.run("createdb", "mlflow")
        self._mlflow.mkdir()
        self._port = free_port()
        self.start_mlflow()
        self.callback(stop_process, self._mlflow, "mlflow")
        with self.here():
            self.platform = Platform(make_checkout(self.root), self.home)
            self.platform.put(TURNS[0])
            self.platform.release()
            self.platform.put_other()
            began = time.monotonic()
            self.platform.release()
            self.seconds = time.monotonic() - began

    def _end(self) -> None:
        with self.here():
            services.down(self.home)
            for process in processes_of(self.home):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """The folder and the environment of a user of the checkout."""
        self.root.mkdir(exist_ok=True)
        environment = {
            "RELUME_HOME": str(self.home),
            "PYTHONPATH": str(CHECKOUT),
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self._port}",
        }
        with contextlib.chdir(self.root), patch.dict(os.environ, environment), leave_usual_ports():
            yield

    def start_mlflow(self) -> None:
        """Starts MLflow's server on the database, at its address."""
        start_process(
            "mlflow",
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)),
                *("--workers", "1", "--backend-store-uri", self.database.address("mlflow")),
                *("--artifacts-destination", str(self._mlflow / "artifacts")),
            ],
            folder=self._mlflow,
            ready=lambda: answers(f"http://127.0.0.1:{self._port}/health"),
            timeout=180,
            address=f"http://127.0.0.1:{self._port}",
            env=_of_no_home() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )

    def kill_mlflow(self) -> None:
        """kill -9 of MLflow's server with its workers, which is then started again."""
        record = recorded_process(self._mlflow, "mlflow")
        assert record
        os.killpg(record.pid, signal.SIGKILL)
        self.start_mlflow()

    def kill_database(self) -> None:
        """kill -9 of PostgreSQL, which is then started again; MLflow's server stays."""
        self.database.kill()
        end = time.monotonic() + 60
        while True:
            time.sleep(0.5)
            try:
                with patch.dict(os.environ, _of_no_home(), clear=True):
                    self.database.start()
                return
            except subprocess.CalledProcessError:  # its other processes have not ended yet
                if time.monotonic() > end:
                    raise

    def kill_triton(self) -> None:
        """kill -9 of the server that serves, or of the one in which the candidate is tried."""
        found = []
        for process in processes_of(self.home):
            with contextlib.suppress(psutil.Error):
                if process.name() == "tritonserver":
                    found.append(process)
        if not found:
            raise MissedError
        with contextlib.suppress(psutil.Error):
            random.choice(found).kill()


def _of_no_home() -> dict[str, str]:
    """The environment of servers that are no part of the home: else they would count as left over by a release."""
    return {name: value for name, value in os.environ.items() if name != "RELUME_HOME"}
