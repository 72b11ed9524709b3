"""params.yaml as a text of sections: some are replaced, of some a few keys, and the rest stays to the letter."""

import io
import re
from collections.abc import Iterator
from typing import Any

import yaml

from relume.errors import ConfigError

# Sections that a recipe gives whole, and sections of which it gives the keys that `defaults.yaml` gives.
OWNED = ("training", "pretrain", "ensemble_head", "mine_hard", "finetune_hard")
MERGED = ("curate", "evaluate", "export")


class _Dumper(yaml.SafeDumper):
    """Writes each value in full wherever it stands, and on one line where it fits."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def serialize(self, node: yaml.Node) -> None:
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = False
        super().serialize(node)

    def represent_data(self, data: Any) -> yaml.Node:
        node = super().represent_data(data)
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = len(one_line(data)) <= 100
        return node


def dump(value: Any) -> str:
    """YAML in the order of the keys, with mappings and lists on one line where they fit."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


def one_line(value: Any) -> str:
    """YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def with_sections(text: str, sections: dict[str, Any]) -> str:
    """The text of params.yaml with these sections: merged ones keep their other keys and comments.

    Raises:
        ConfigError: A merged section lacks a key that is to be set.
    """
    blocks = _blocks(text)
    for name, value in sections.items():
        if name in MERGED:
            comment, body = blocks.get(name, ("", ""))
            blocks[name] = comment, _with_keys(name, body, value)
        elif name in blocks:
            blocks[name] = blocks[name][0], dump({name: value})
        else:
            blocks = _inserted(blocks, name, dump({name: value}))
    return "".join(comment + body for comment, body in blocks.values())


def _blocks(text: str) -> dict[str, tuple[str, str]]:
    """The top-level sections: for each the comment above it and its text. What follows the last is under ""."""
    blocks: dict[str, tuple[str, str]] = {}
    comment, section = "", ""
    for line in text.splitlines(keepends=True):
        if key := re.match(r"(\w+):", line):
            section = key[1]
            blocks[section], comment = (comment, line), ""
        elif line.startswith(("#", "\n")):
            comment += line
        else:
            above, body = blocks[section]
            blocks[section], comment = (above, body + comment + line), ""
    return blocks | {"": (comment, "")}


def _inserted(blocks: dict[str, tuple[str, str]], name: str, body: str) -> dict[str, tuple[str, str]]:
    """A new section, before the one that follows it in the order of what recipes own, or else at the end."""
    order = ("recipe", *OWNED)
    place = next((section for section in order[order.index(name) + 1 :] if section in blocks), "")
    found: dict[str, tuple[str, str]] = {}
    for section, block in blocks.items():
        found |= {name: ("", body), section: block} if section == place else {section: block}
    return found


def _with_keys(section: str, body: str, values: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.width = 120
    editor.preserve_quotes = True
    editor.indent(mapping=2, sequence=4, offset=2)
    document = editor.load(body) or {section: {}}
    for key, value in values.items():
        if key not in document[section]:
            raise ConfigError(
                "A recipe sets a key that params.yaml does not have",
                where=f"{section}.{key}",
                next_step="add it to params.yaml, or take it out of recipes/defaults.yaml and all recipes",
            )
        if document[section][key] != value:
            document[section][key] = value
    stream = io.StringIO()
    editor.dump(document, stream)
    return stream.getvalue()


# How far differences are told apart; what lies deeper is shown as a whole.
DEPTHS = {"pretrain": 4}
DEPTH = 2


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """A line for each part of params.yaml that differs, such as `curate.patch  128 -> 512`."""
    for section in dict.fromkeys([*before, *after]):
        yield from _differences(before.get(section), after.get(section), section, DEPTHS.get(section, DEPTH))


def _differences(before: Any, after: Any, key: str, depth: int) -> Iterator[str]:
    if before == after:
        return
    if depth > 1 and isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}", depth - 1)
    else:
        yield f"{key}  {_short(before)} -> {_short(after)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else one_line(value)
    return text if len(text) <= 50 else f"{text[:47]}..."
