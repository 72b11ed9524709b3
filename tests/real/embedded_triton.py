"""The embedded Triton server for tests that start it by relume's own commands."""

import os
import subprocess
from pathlib import Path

from relume.home import relume_home

CHECKOUT = Path(__file__).parents[2]


def link_server(home: Path) -> None:
    """Gives a test's RELUME_HOME the server's environment of this checkout, which is installed if it is missing.

    Args:
        home: The test's folder; RELUME_HOME must still be the checkout's when this is called.
    """
    own = relume_home()
    subprocess.run(
        ["sh", "infra/triton/install.sh"], cwd=CHECKOUT, check=True, env=os.environ | {"RELUME_HOME": str(own)}
    )
    (home / "triton").mkdir(parents=True)
    (home / "triton" / "env").symlink_to(own / "triton" / "env")
