"""A real PostgreSQL server for tests: Debian's, in a folder of its own on a free loopback port."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.processes import free_port

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """Where the server is; its user has no password, since it listens on loopback for one test.

    Attributes:
        port: Its port.
        folder: Its data and its log.
        account: Whose processes it has; this user's when None.
    """

    port: int
    folder: Path
    account: str | None
    user: str = "postgres"

    @property
    def place(self) -> list[str]:
        """The options by which PostgreSQL's own programs find it."""
        return ["--host", "127.0.0.1", "--port", str(self.port), "--username", self.user, "--no-password"]

    def address(self, database: str, scheme: str = "postgresql") -> str:
        """SQLAlchemy's address of a database."""
        return f"{scheme}://{self.user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it; after a kill it repairs itself from its log."""
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories=''"
        self.own("pg_ctl", "--wait", "--log", f"{self.folder}/log", "--options", options, "start")

    def kill(self) -> None:
        """kill -9 of its first process; the others end when they see that."""
        os.kill(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def own(self, program: str, *arguments: str) -> None:
        """Runs one of the programs that work on its folder."""
        command = [require(program), "--pgdata", f"{self.folder}/data", *arguments]
        subprocess.run(command, check=True, user=self.account, cwd=self.folder, stdout=subprocess.DEVNULL)

    def run(self, program: str, *arguments: str) -> str:
        """Runs one of PostgreSQL's own programs, such as pg_dump."""
        command = [require(program), *self.place, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def require(program: str) -> str:
    """The path of one of PostgreSQL's programs; the test is skipped where it is not installed."""
    found = shutil.which(program) or next((str(each / program) for each in _DEBIAN if (each / program).is_file()), None)
    if found is None:
        pytest.skip(f"{program} is not installed: apt-get install postgresql")
    return found


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Runs the server; ends it on leaving. It refuses to run as root, so root gives it another user."""
    account = "nobody" if os.geteuid() == 0 else None
    require("pg_ctl")
    # Not below pytest's folders, which another user cannot enter.
    with tempfile.TemporaryDirectory(prefix="relume-postgres-") as folder:
        if account:
            shutil.chown(folder, account)
        server = Postgres(port=free_port(), folder=Path(folder), account=account)
        server.own("initdb", "--auth", "trust", "--username", server.user, "--encoding", "UTF8")
        server.start()
        try:
            yield server
        finally:
            server.own("pg_ctl", "--wait", "--mode", "immediate", "stop")
