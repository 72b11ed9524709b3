"""The models that ship with relume, each a folder here, ready to restore without a registry, a checkout or a GPU.

NAME/model.json, model.safetensors     the model artifact, from which trainings start
NAME/serving/                          the served model, exported from it
NAME/README.md                         its card: what it is for, what it was trained on, what it reaches
"""

import os
from collections.abc import Collection
from pathlib import Path

from relume import strict_yaml
from relume.errors import ModelMissingError
from relume.nearest import did_you_mean
from relume.settings import Settings, settings_of

__all__ = ["CONFIGURATION", "FOLDER", "default", "names", "purpose", "shipped"]

FOLDER = Path(__file__).parent
CONFIGURATION = "config.yaml"


class _Configuration(Settings):
    """What config.yaml of a home may say."""

    default_product: str = "photo"


def default(home: Path) -> str:
    """The product that restores when none is named: `default_product` of config.yaml in the home, else `photo`.

    Raises:
        ConfigError: config.yaml cannot be read, or holds other keys.
    """
    path = home / CONFIGURATION
    value = strict_yaml.read(path).value if os.path.lexists(path) else {}
    return settings_of(value, _Configuration, path).default_product


def names() -> list[str]:
    """The products that ship, sorted."""
    return sorted(path.parent.parent.name for path in FOLDER.glob("*/serving/serving.json"))


def purpose(name: str) -> str:
    """What a product that ships is for, the first paragraph of its card."""
    return (FOLDER / name / "README.md").read_text(encoding="utf-8").split("\n\n")[1].strip()


def shipped(name: str, released: Collection[str] = (), *, where: object = None) -> Path:
    """The folder of a product that ships: its artifact, and its served model in `serving`.

    Args:
        name: Its name.
        released: Products that were released, which a mistyped name may mean as well.
        where: The name and where it stands, for the message; by default the name.

    Raises:
        ModelMissingError: None of this name ships.
    """
    known = names()
    if name in known:
        return FOLDER / name
    raise ModelMissingError(
        "There is no product of this name",
        where=where or name,
        why=did_you_mean(name, {*known, *released}) or "none was released here, and none ships with relume",
        next_step=f"choose one of: {', '.join(known)}, or release one: relume pipeline run && relume release",
    )
