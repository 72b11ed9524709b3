"""The base of all settings: they are immutable, unknown keys are refused, and one function reads them strictly."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from relume.errors import ConfigError
from relume.nearest import did_you_mean

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def validated(model: type[S], value: dict[str, Any]) -> S:
    """Settings from plain values, as a file of YAML gives them.

    No value is converted: a text is not accepted as a number, nor 1.5 or `true` as a whole number.

    Raises:
        ValidationError: Some values are refused; `problems` says why.
    """
    return model.model_validate_json(json.dumps(value), strict=True)


def settings_of(value: dict[str, Any], model: type[S], path: Path) -> S:
    """Settings from the values of a file.

    Raises:
        ConfigError: Some values are refused; names them and the file.
    """
    try:
        return validated(model, value)
    except ValidationError as error:
        why = "; ".join(problems(error, model))
        raise ConfigError("The file is not valid", where=path, why=why, next_step=f"correct {path}") from None


def problems(
    error: ValidationError,
    model: type[Settings],
    *,
    at: tuple[str, ...] = (),
    place: Callable[[Sequence[str | int]], str] | None = None,
) -> Iterator[str]:
    """What a model refused: a line for each value, with its key and, for an unknown key, the nearest known one.

    Args:
        error: The refusal.
        model: The model that refused.
        at: Keys of the model.
        place: Where the value at a sequence of keys is, such as "params.yaml, line 3".
    """
    for entry in error.errors(include_url=False):
        keys, given = entry["loc"], entry["input"]
        if of_key := keys[-1:] == ("[key]",):
            keys = keys[:-1]
        key = ".".join(map(str, (*at, *keys)))
        if entry["type"] == "extra_forbidden":
            near = did_you_mean(str(keys[-1]), _names(model, keys[:-1]))
            text = f"{key} is unknown{f'; {near}' if near else ''}"
        elif entry["type"] == "missing":
            text = f"{key} is missing"
        else:
            shown = "" if of_key or isinstance(given, dict | list) else f" = {given!r}"
            text = f"{key}{shown}: ".removeprefix(": ") + entry["msg"].removeprefix("Value error, ")
            if entry["type"] in ("float_type", "int_type") and isinstance(given, str) and (number := _number(given)):
                text += f"; {given} is a text in YAML 1.1, write {number}"
        yield f"{place((*at, *keys))}: {text}" if place else text


def _number(text: str) -> str | None:
    """How YAML 1.1 wants a number that Python reads from a text, such as 1.0e-4 for 1e-4."""
    try:
        number = float(text)
    except ValueError:
        return None
    mantissa, exponent, power = text.lower().partition("e")
    if not exponent:
        return f"{number:g} without quotes"
    sign = "" if power.startswith(("+", "-")) else "+"
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{sign}{power}"


def _names(model: type[Settings], keys: Sequence[str | int]) -> list[str]:
    """The fields of all settings that can be below `keys`."""
    here: list[type[Settings]] = [model]
    for key in keys:
        below = [part for kind in here if key in fields(kind) for part in mentioned(fields(kind)[key])]
        # What is not a field is a position in a list, a key of a mapping, or the `kind` that chose one of several.
        kinds = [kind for kind in here if "kind" in kind.model_fields and key in _kinds(kind)]
        here = below or kinds or here
    return [name for kind in here for name in fields(kind)]


def _kinds(model: type[Settings]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def fields(model: type[Settings]) -> dict[Any, FieldInfo]:
    """The fields by the names that a file gives them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def mentioned(annotation: Any) -> list[type[Settings]]:
    """The settings that an annotation or a field names, within lists, mappings and alternatives too."""
    annotation = getattr(annotation, "annotation", annotation)
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in get_args(annotation) for found in mentioned(part)]
