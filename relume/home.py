"""The folder of all local state: git ignores it, and the driver passes it to the stages as RELUME_HOME."""

import contextlib
import json
import os
import stat
from pathlib import Path

from relume.errors import RelumeError
from relume.files import storing, write_json


def relume_home(root: str | Path = ".") -> Path:
    """The folder of all local state, for entry points to read; what they call is given it.

    Args:
        root: The checkout.

    Returns:
        RELUME_HOME, or `.relume` in the checkout, as an absolute path. It is not created here.
    """
    return Path(os.environ.get("RELUME_HOME") or Path(root) / ".relume").resolve()


def private_home(home: Path) -> None:
    """Makes the home a folder that only its user may enter: it has databases, logs and keys.

    A home of another user is left as it is.

    Raises:
        StorageError: The disk refuses it.
    """
    with storing(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _for_its_user(home, 0o700)


def private_file(path: Path) -> None:
    """Makes a file that only its user may read, empty when it is not there, as databases take one.

    Raises:
        StorageError: The disk refuses it.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        _for_its_user(path, 0o600)


def _for_its_user(path: Path, mode: int) -> None:
    found = path.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
        path.chmod(mode)


def tracking_uri(home: Path) -> str:
    """The address of MLflow's tracking store: MLFLOW_TRACKING_URI, or SQLite in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


def remember_release(root: Path, home: Path) -> None:
    """Writes down for this user where the last release was, so that it restores from any folder.

    A user whose state cannot be kept, such as one without a home folder, goes without.
    """
    with contextlib.suppress(OSError, RuntimeError, RelumeError):
        write_json(_last_release(), {"root": str(root.resolve()), "home": str(home.resolve())})


def place_of_release(root: Path) -> tuple[Path, Path]:
    """The checkout and the home whose releases restore: those of a folder, else those of this user's last release.

    Args:
        root: The current folder. Its home counts when RELUME_HOME names it or it is there.
    """
    own = root.resolve(), relume_home(root)
    try:
        value = json.loads(_last_release().read_text(encoding="utf-8"))
        last = Path(value["root"]), Path(value["home"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return own
    if os.environ.get("RELUME_HOME") or own[1].is_dir():
        return last if last[1] == own[1] else own
    return last if last[1].is_dir() else own


def _last_release() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "relume" / "last_release.json"


CONFIGURATION = "config.yaml"


def default_product(home: Path) -> str:
    """The product that restores when none is named: `default_product` of config.yaml in the home, else `photo`.

    Raises:
        ConfigError: config.yaml cannot be read, or holds other keys.
    """
    from relume.products import DEFAULT

    path = home / CONFIGURATION
    if not os.path.lexists(path):
        return DEFAULT
    from relume import strict_yaml
    from relume.errors import ConfigError

    value = strict_yaml.read(path).value
    product = value.get("default_product", DEFAULT)
    if value.keys() - {"default_product"} or not isinstance(product, str):
        raise ConfigError("config.yaml is not valid", where=path, next_step="the only allowed key is default_product")
    return product
