"""Where all local state lies: one ignored folder, which the driver hands to the stages as RELUME_HOME."""

import os
from pathlib import Path


def relume_home(root: str | Path = ".") -> Path:
    """The folder of all local state, for entry points to read; what they call is given it.

    Args:
        root: The checkout.

    Returns:
        RELUME_HOME, or `.relume` in the checkout, as an absolute path. It is not created here.
    """
    return Path(os.environ.get("RELUME_HOME") or Path(root) / ".relume").resolve()


def tracking_uri(home: Path) -> str:
    """The address of MLflow's tracking store: MLFLOW_TRACKING_URI, or SQLite in the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


CONFIGURATION = "config.yaml"


def default_product(home: Path) -> str:
    """The product that restores when none is named: `default_product` of config.yaml in the home, else `photo`.

    Raises:
        ConfigError: config.yaml cannot be read, or holds other keys.
    """
    from relume.products import DEFAULT

    path = home / CONFIGURATION
    if not path.is_file():
        return DEFAULT
    from relume import strict_yaml
    from relume.errors import ConfigError

    value = strict_yaml.read(path).value
    product = value.get("default_product", DEFAULT)
    if value.keys() - {"default_product"} or not isinstance(product, str):
        raise ConfigError("Invalid config.yaml", where=path, next_step="the only allowed key is default_product")
    return product
