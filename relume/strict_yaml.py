"""YAML that people write, read strictly: what would silently mean something else is refused with its line.

Only mappings with text keys or whole numbers, lists, texts, finite numbers, true, false and null are values. Refused
are duplicate keys, tabs as indentation, not-a-number and infinities, what YAML 1.1 reads as another number than
it looks like (`010`, `6:24`) or for true or false (`no`, `on`), dates and all other tags, references to themselves, and
references that unfold to more than `MOST_VALUES` (the "billion laughs").
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from relume.errors import ConfigError

MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """The content of a file, with the line of each value.

    Attributes:
        value: Its mapping, of plain values; empty for an empty file.
        lines: The line, counted from 1, at which each value starts, by its keys and places in lists.
    """

    value: dict[str, Any]
    lines: dict[Key, int]


def read(path: Path) -> Document:
    """Reads a file.

    Raises:
        ConfigError: The file is missing or unreadable, not UTF-8, not YAML, not a mapping, or has a refused value;
            names the line.
    """
    return parse(_content(path), path)


def require_readable(path: Path) -> None:
    """Checks a file before another program reads it: it is UTF-8 and YAML, and its references unfold to little.

    Raises:
        ConfigError: It is not, or the file is missing or unreadable.
    """
    _compose(_content(path), path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            "The file does not exist", where=path, next_step="change to the top folder of a relume checkout"
        ) from None
    except OSError as error:  # such as a folder, or a file of another user
        raise ConfigError(
            "The file cannot be read",
            where=path,
            why=error.strerror,
            next_step="check that it is a file that you may read",
        ) from None


def parse(content: bytes, path: Path) -> Document:
    """Reads the content of a file, or what will be its content.

    Raises:
        ConfigError: As `read`.
    """
    root = _compose(content, path)
    if root is None:
        return Document({}, {})
    if not isinstance(root, yaml.MappingNode):
        raise _refusal(path, root.start_mark.line + 1, "it has no keys", "write keys with values")
    reader = _Reader(path)
    return Document(reader.value(root, ()), reader.lines)


def _compose(content: bytes, path: Path) -> yaml.Node | None:
    """The nodes of a file, whose references unfold to little."""
    try:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise _refusal(
            path, content.count(b"\n", 0, error.start) + 1, "its text is not UTF-8", "save it as UTF-8"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1
        tab = "\\t" in str(error.problem)
        why = "the indentation has a tab" if tab else ": ".join(filter(None, (error.context, error.problem)))
        raise _refusal(path, line, why, "indent with spaces" if tab else "correct the line") from None
    except RecursionError:
        raise _refusal(path, 1, "its values are nested too deeply", "write fewer levels") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        why = str(error).splitlines()[0]
        raise ConfigError(
            "The file is not valid YAML", where=path, why=why, next_step=f"remove it from {path}"
        ) from None
    if root is not None:
        _Reader(path).require_bounded(root)
    return root


def _refusal(path: Path, line: int, why: str, next_step: str) -> ConfigError:
    return ConfigError("The file is not valid YAML", where=f"{path}, line {line}", why=why, next_step=next_step)


_REFUSED_TAG = "this kind of value is not allowed; quote it if it is a text"
_WORDS = {"yes", "no", "on", "off"}  # of YAML 1.1 for true and false; DVC, which reads YAML 1.2, takes them for texts
_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+|[0-9]*\.[0-9]*([eE][-+][0-9]+)?)")
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


class _Reader:
    def __init__(self, path: Path):
        self._path = path
        self._scalars = yaml.SafeLoader("")
        self.lines: dict[Key, int] = {}

    def _refuse(self, node: yaml.Node, why: str, next_step: str = "correct the line") -> ConfigError:
        return _refusal(self._path, node.start_mark.line + 1, why, next_step)

    def require_bounded(self, root: yaml.Node) -> None:
        """Refuses references to themselves, and those that unfold to too much."""
        sizes: dict[int, int | None] = {}

        def size(node: yaml.Node) -> int:
            if id(node) in sizes:
                if (known := sizes[id(node)]) is None:
                    raise self._refuse(node, "a value refers to itself")
                return known
            sizes[id(node)] = None
            parts = [part for entry in node.value for part in entry] if isinstance(node, yaml.MappingNode) else []
            parts = node.value if isinstance(node, yaml.SequenceNode) else parts
            sizes[id(node)] = total = 1 + sum(map(size, parts))
            if total > MOST_VALUES:
                raise self._refuse(node, f"references unfold to more than {MOST_VALUES:,} values")
            return total

        size(root)

    def value(self, node: yaml.Node, at: Key) -> Any:
        """The plain value of a node; `at` are its keys."""
        self.lines[at] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(part, (*at, place)) for place, part in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _SCALARS:
            raise self._refuse(node, f"{node.tag.removeprefix('tag:yaml.org,2002:')}: {_REFUSED_TAG}")
        try:
            value = self._scalars.construct_object(node)
        except ValueError as error:  # such as `!!int x`
            raise self._refuse(node, str(error)) from None
        except LookupError:  # such as `!!bool x` and `!!int ""`
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise self._refuse(
                node, f"{node.value!r} is not of type {kind}", "remove the tag, or correct the value"
            ) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refuse(node, f"{node.value} is not a finite number", "write a finite number")
        if isinstance(value, bool) and node.value.lower() in _WORDS:
            raise self._trap(node, str(value).lower())
        if isinstance(value, int | float) and not isinstance(value, bool) and not _PLAIN_NUMBER.fullmatch(node.value):
            raise self._trap(node, str(value))
        return value

    def _trap(self, node: yaml.ScalarNode, meant: str) -> ConfigError:
        why = f"YAML 1.1 reads {node.value} as {meant}, and other readers do not"
        return self._refuse(node, why, f'write {meant}, or "{node.value}" in quotes for a text')

    def _mapping(self, node: yaml.MappingNode, at: Key) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        merges = [value for key, value in node.value if key.tag == _MERGE]
        lists = [value.value if isinstance(value, yaml.SequenceNode) else [value] for value in merges]
        # The first part wins, and the mapping's own keys win over all: what wins comes last, with its lines.
        for part in reversed([part for parts in lists for part in parts]):
            if not isinstance(part, yaml.MappingNode):
                raise self._refuse(part, "`<<` merges mappings, and this is not a mapping")
            merged |= self._mapping(part, at)
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._scalar(key_node)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise self._refuse(key_node, f"the key {key_node.value} is read as {key!r}", "quote it")
            if key in found:
                raise self._refuse(key_node, f"the key {key} is there twice", "remove one of the two")
            found[key] = self.value(value_node, (*at, key))
            self.lines[(*at, key)] = key_node.start_mark.line + 1
        return merged | found
