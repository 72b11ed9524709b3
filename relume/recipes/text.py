"""The text of recipe.yaml, and how two states of the parameters differ."""

from collections.abc import Iterator
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes each value in full wherever it occurs, and on one line where it fits."""

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


# How deep differences are shown; what is deeper is shown as a whole.
DEPTHS = {"pretrain": 4}
DEPTH = 2


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """A line for each value that differs, such as `curate.patch  128 -> 512`."""
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
