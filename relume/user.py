"""Who runs this process, for programs that insist on knowing."""

import getpass
import os
from pathlib import Path


def give_name_and_home(home: Path) -> None:
    """Gives a user who has no name or no home folder, as in many containers, ones of relume.

    DVC, MLflow and Prefect end in a traceback without them. Nothing is created here.

    Args:
        home: RELUME_HOME.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(home / "user")
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["LOGNAME"] = "relume"
