"""The one runner of DVC's commands. Its Python interface is used by `flows.graph` alone, and for reading alone."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from relume.errors import UserError
from relume.network import keep_to_this_machine

_OF_THE_CALLER = ("GIT_", "DVC_STAGE", "DVC_ROOT", "DVC_EXP_")  # set by a git hook or a stage for its own commands
_LOCKED = "Unable to acquire lock"  # of dvc.lock.FAILED_TO_LOCK_MESSAGE


class DvcLockedError(UserError):
    """Another command of DVC works in the checkout."""


def start_dvc(root: Path, arguments: list[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a command of DVC in a session of its own, so that it can be ended with all that it starts.

    Args:
        root: The checkout, or a clone of it.
        arguments: The command and its arguments.
        environment: The whole environment, by default this process's. What belongs to a git hook or a stage that
            called this process is dropped from it.

    Returns:
        The process; standard output and error are one pipe.
    """
    return subprocess.Popen(
        _command(arguments),
        cwd=root,
        env=_environment(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def run_dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a short command of DVC to its end, with this process's environment.

    Args:
        root: The checkout.
        *arguments: The command and its arguments.

    Returns:
        The process that ended, with standard output and error as text.

    Raises:
        DvcLockedError: For some seconds another command of DVC held the checkout's lock.
    """
    done = subprocess.run(_command(arguments), cwd=root, env=_environment(None), capture_output=True, text=True)
    if done.returncode and _LOCKED in done.stderr:
        raise DvcLockedError(
            "Another dvc command holds DVC's lock",
            where=root / ".dvc" / "tmp" / "lock",
            why=f"`dvc {arguments[0]}` needs it, and one command at a time works in a checkout",
            next_step="wait until the other command ends, or end it, then run the same command again",
        )
    return done


def _command(arguments: list[str] | tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "dvc", *arguments]


def _environment(environment: Mapping[str, str] | None) -> dict[str, str]:
    given = os.environ if environment is None else environment
    environment = {name: value for name, value in given.items() if not name.startswith(_OF_THE_CALLER)}
    keep_to_this_machine(environment)
    return environment
