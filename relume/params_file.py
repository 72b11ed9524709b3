"""Reading the parameters: as plain values with their places, or one section for the stage that runs.

They are in two files. `params.yaml` is the user's; `recipe.yaml` is written as a whole by `relume recipes use`. A key
is in one of them. This module knows no section: a stage passes the settings class of its own sections, so that it
depends on their code alone. `relume.params` puts all sections together, for the check before anything runs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relume import strict_yaml
from relume.errors import ConfigError
from relume.settings import S, problems, validated

PARAMS, RECIPE = "params.yaml", "recipe.yaml"
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Values:
    """The values of both files.

    Attributes:
        value: Sections by name.
        places: Where each value is, such as "params.yaml, line 3", by its keys.
    """

    value: dict[str, Any]
    places: dict[Key, str]

    def place(self, keys: Sequence[str | int]) -> str:
        """Where a value is, or else the nearest value that contains it; its file at least."""
        whole = tuple(keys)
        return next(
            (self.places[whole[:end]] for end in range(len(whole), 0, -1) if whole[:end] in self.places), PARAMS
        )


def read_values(root: Path = Path()) -> Values:
    """Reads params.yaml and, where there is one, recipe.yaml.

    Raises:
        ConfigError: A file cannot be read, or a key is in both.
    """
    names = [PARAMS, *([RECIPE] if os.path.lexists(root / RECIPE) else [])]
    return joined({name: strict_yaml.read(root / name) for name in names})


def joined(documents: dict[str, strict_yaml.Document]) -> Values:
    """The values of several files, by their names.

    Raises:
        ConfigError: A key is in two of them.
    """
    value: dict[str, Any] = {}
    places: dict[Key, str] = {}
    for name, document in documents.items():
        here = {keys: f"{name}, line {line}" for keys, line in document.lines.items()}
        value = _joined(value, document.value, (), places, here)
        places = here | places
    return Values(value, places)


def _joined(value: Any, more: Any, keys: Key, places: dict[Key, str], here: dict[Key, str]) -> Any:
    if not isinstance(value, dict) or not isinstance(more, dict):
        raise ConfigError(
            "A parameter is set in two files",
            where=".".join(map(str, keys)),
            why=f"it is in {places[keys]} and in {here[keys]}, and neither takes precedence",
            next_step=f"remove it from {PARAMS}, and change it in {RECIPE}, which `relume recipes use` writes",
        )
    both = {key: _joined(value[key], more[key], (*keys, key), places, here) for key in value.keys() & more.keys()}
    return value | more | both


def load_section(section: str, model: type[S], root: Path = Path()) -> S:
    """Reads one section.

    Args:
        section: Its dotted name, such as `pretrain.bases.nafnet`.
        model: The settings that `relume.params.Params` has there.
        root: The checkout.

    Raises:
        ConfigError: A file cannot be read, the section is missing, or a value in it is refused.
    """
    values = read_values(root)
    value: Any = values.value
    keys = tuple(section.split("."))
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise ConfigError(
                "A section of the parameters is missing",
                where=section,
                next_step=f"add {section} to {PARAMS} or {RECIPE}",
            )
        value = value[key]
    return checked(model, value, values, at=keys)


def checked(model: type[S], value: Any, values: Values, at: tuple[str, ...] = ()) -> S:
    """Settings from the value at the keys `at`.

    Raises:
        ConfigError: Names every value that is refused, with its file and line.
    """
    try:
        return validated(model, value)
    except ValidationError as error:
        why = "".join(f"\n        {problem}" for problem in problems(error, model, at=at, place=values.place))
        next_step = f"correct the lines named above; what is missing belongs in {PARAMS} or in {RECIPE}"
        raise ConfigError("Some parameters are not valid", why=why, next_step=next_step) from None
