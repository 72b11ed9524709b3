"""A user without a name and without a home folder, as containers run programs."""

import os
import shutil
import subprocess
import sys

import pytest

CODE = """\
import getpass, sys
from pathlib import Path
from relume.user import give_name_and_home
give_name_and_home(Path(sys.argv[1]))
print(Path.home(), getpass.getuser())
"""
NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
KNOWN = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")


def possible() -> bool:
    """Whether this machine lets a process be a user that has no entry in its list of users."""
    return bool(shutil.which("unshare")) and subprocess.run([*NOBODY, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not possible(), reason="no user namespaces here")
def test_nobody_gets_a_name_and_a_home(tmp_path):
    """Without both they are relume's; what the environment says is left alone."""
    bare = {name: value for name, value in os.environ.items() if name not in KNOWN}
    for given, said in (({}, f"{tmp_path / 'user'} relume"), ({"HOME": "/x", "LOGNAME": "me"}, "/x me")):
        done = subprocess.run(
            [*NOBODY, sys.executable, "-c", CODE, str(tmp_path)], env=bare | given, capture_output=True, text=True
        )
        assert done.stdout.strip() == said, done.stderr
