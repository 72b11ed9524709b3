"""The parameters as a document and as a JSON schema for editors, made of the settings classes and their docstrings."""

import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from relume.params import Params
from relume.settings import Settings

PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any"}
OTHERS = {"release": ["relume release"], "runner": ["relume pipeline run"]}  # what reads a section beside the stages
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "entries, at least"}


def params_page(root: Path) -> str:
    """All parameters as Markdown: a table for each section, then one for each kind of value that sections share.

    Args:
        root: The checkout, whose dvc.yaml says which stage reads a section.
    """
    readers = _readers(root)
    meanings = meanings_of(Params)
    parts, waiting, done = [], [], set()
    for name, field in Params.model_fields.items():
        section = field.alias or name
        read_by = ", ".join(f"`{reader}`" for reader in readers.get(section, OTHERS.get(section, ()))) or "no stage"
        model = next(_settings_in(field.annotation), None)
        if model is None:  # one value
            kind = f"{_type(field.annotation)}; by default {_default(field)}."
            parts.append(f"## {section}\n\n{meanings[name]} Read by {read_by}. One of {kind}\n")
            continue
        done.add(model)
        parts.append(f"## {section}\n\n{meanings[name]} Read by {read_by}.\n\n{_table(model)}")
        waiting += _nested(model)
    while waiting:
        model = waiting.pop(0)
        if model not in done:
            done.add(model)
            parts.append(f"## {_title(model)}\n\n{_summary(model)}\n\n{_table(model)}")
            waiting += _nested(model)
    return "\n".join(parts)


def params_schema() -> str:
    """The JSON schema for editors, with the meaning of each key.

    Nothing is required in it, since params.yaml and recipe.yaml share the sections.
    """

    def without_required(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_required(entry) for key, entry in value.items() if key != "required"}
        return [without_required(entry) for entry in value] if isinstance(value, list) else value

    schema = without_required(Params.model_json_schema(by_alias=True))
    for model in settings_classes():
        here = schema if model is Params else schema["$defs"][model.__name__]
        here["description"] = _summary(model)
        meanings = meanings_of(model)
        for name, field in model.model_fields.items():
            # A `kind` says which of several settings these are.
            here["properties"][field.alias or name]["description"] = meanings.get(name) or _summary(model)
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def meanings_of(model: type[Settings]) -> dict[str, str]:
    """What each field means, from the `Attributes` of the class's docstring and of those that it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        _, _, attributes = (inspect.cleandoc(cls.__doc__ or "")).partition("Attributes:\n")
        for entry in re.split(r"\n(?= {4}\w+:)", attributes.split("\n\n")[0]):
            name, colon, meaning = entry.strip().partition(":")
            if colon:
                found[name] = " ".join(meaning.split())
    return found


def settings_classes(model: type[Settings] = Params) -> set[type[Settings]]:
    """A settings class and all that its fields hold, at any depth."""
    found, waiting = set(), [model]
    while waiting:
        if (current := waiting.pop()) not in found:
            found.add(current)
            waiting += _nested(current)
    return found


def _readers(root: Path) -> dict[str, list[str]]:
    """For each section of the parameters, the stages that read it."""
    readers: dict[str, list[str]] = {}
    for stage, entry in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        named: list[str] = []
        for item in entry.get("do", entry).get("params", []):
            named += [key for keys in item.values() for key in keys] if isinstance(item, Mapping) else [item]
        for section in dict.fromkeys(key.partition(".")[0] for key in named):
            readers.setdefault(section, []).append(stage)
    return readers


def _table(model: type[Settings]) -> str:
    meanings = meanings_of(model)
    rows = [
        f"| `{field.alias or name}` | {_type(field.annotation)} | {_default(field)} | {_range(field)} |"
        f" {meanings.get(name, '').replace('|', chr(92) + '|')} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| key | type | default | range | meaning |", "|---|---|---|---|---|", *rows, ""])


def _type(annotation: Any) -> str:
    """An annotation in words; settings classes as links to their table."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        return f"[{_title(annotation)}](#{_title(annotation).replace(' ', '-')})"
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"list of {len(arguments)}: {_type(arguments[0])}"
    if origin in (tuple, list):
        return f"list: {_type(arguments[0])}"
    if origin is dict:
        return f"mapping: {_type(arguments[1])}"
    return str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, Settings):
        return "its defaults"
    return "null" if value is None else f"`{json.dumps(to_jsonable_python(value))}`"


def _range(field: FieldInfo) -> str:
    """The bounds of a number; other rules are in the meaning, and in the message of what is refused."""
    holders = [*field.metadata, *(item for value in _annotated(field.annotation) for item in value.__metadata__)]
    bounds: dict[str, float] = {}
    for holder in holders:
        for item in getattr(holder, "metadata", [holder]):
            bounds |= {key: getattr(item, key) for key in BOUNDS if getattr(item, key, None) is not None}
    return ", ".join(f"{words} {_plain(bounds[key])}" for key, words in BOUNDS.items() if key in bounds)


def _plain(number: float) -> str:
    """A whole number with all its digits."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _annotated(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield annotation
    for argument in get_args(annotation):
        if not isinstance(argument, str):
            yield from _annotated(argument)


def _settings_in(annotation: Any) -> Iterator[type[Settings]]:
    """The settings classes that an annotation names, in order."""
    if inspect.isclass(annotation) and not get_origin(annotation) and issubclass(annotation, Settings):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from _settings_in(argument)


def _nested(model: type[Settings]) -> list[type[Settings]]:
    hints = typing.get_type_hints(model, include_extras=True)
    return list(dict.fromkeys(cls for name in model.model_fields for cls in _settings_in(hints[name])))


def _title(model: type[Settings]) -> str:
    """A class's name in words: `GaussianNoise` is "gaussian noise"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", model.__name__.removesuffix("Settings")).lower()


def _summary(model: type[Settings]) -> str:
    return " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())
