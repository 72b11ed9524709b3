"""params.yaml as a text of sections: some are replaced, of some a few keys, and the rest stays to the letter."""

import io
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

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


class _Block(NamedTuple):
    """Lines of params.yaml: the comment above a section and its text; no name before the first and after the last."""

    name: str | None
    comment: str
    body: str


def with_sections(text: str, sections: dict[str, Any]) -> str:
    """The text of params.yaml with these sections: merged ones keep their other keys and comments.

    Raises:
        ConfigError: A merged section lacks a key that is to be set, or the text is not YAML of which sections can be
            replaced while the others keep their meaning.
    """
    blocks = _blocks(text)
    for name, value in sections.items():
        place = next((number for number, block in enumerate(blocks) if block.name == name), None)
        if name in MERGED:
            body = _with_keys(name, "" if place is None else blocks[place].body, value)
        else:
            body = dump({name: value})
        if place is None:
            blocks.insert(_place(blocks, name), _Block(name, "", body))
        else:
            blocks[place] = blocks[place]._replace(body=body)
    result = ""
    for part in (part for block in blocks for part in (block.comment, block.body) if part):
        result += part if not result or result.endswith("\n") else f"\n{part}"
    _require_meaning(text, result, sections)
    return result


def _blocks(text: str) -> list[_Block]:
    """The sections in their order, between what stands before the first, such as `---`, and after the last."""
    sections = _starts(text)
    header, comment = _without_comment(text[: sections[0][1]] if sections else text)
    blocks = [_Block(None, "", header)]
    for (name, start), (_, end) in pairwise([*sections, ("", len(text))]):
        body, below = _without_comment(text[start:end])
        blocks.append(_Block(name, comment, body))
        comment = below
    return [*blocks, _Block(None, comment, "")]


def _starts(text: str) -> list[tuple[str, int]]:
    """The name of each section, and where in the text it starts."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _unfit(error) from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise _unfit("it is no list of sections, each from the start of a line")
    found = []
    for key, _ in root.value:
        if key.start_mark.column:
            raise _unfit(f"a section does not start at the start of line {key.start_mark.line + 1}")
        found.append((str(key.value), key.start_mark.index))
    names = [name for name, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _unfit(f"{', '.join(twice)} is there twice")
    return found


def _without_comment(text: str) -> tuple[str, str]:
    """The text without the comment and blank lines at its end, and these: they belong to what follows."""
    end = re.search(r"(?:^(?:#.*)?\n)*(?:^#.*)?\Z", text, re.MULTILINE)
    assert end is not None
    return text[: end.start()], text[end.start() :]


def _place(blocks: list[_Block], name: str) -> int:
    """Where a new section goes: before the one that follows it in the order of what recipes own, or else at the end."""
    order = ("recipe", *OWNED)
    places = {block.name: number for number, block in enumerate(blocks)}
    return next((places[name] for name in order[order.index(name) + 1 :] if name in places), len(blocks) - 1)


def _require_meaning(before: str, after: str, sections: dict[str, Any]) -> None:
    """Refuses a text that does not mean the one before it with these sections."""
    try:
        given, found = yaml.safe_load(before) or {}, yaml.safe_load(after)
    except yaml.YAMLError as error:
        raise _unfit(error) from None
    wanted = given | {name: given[name] | value if name in MERGED else value for name, value in sections.items()}
    # By their writing: not-a-number does not equal itself, and 1 equals true.
    differ = [name for name in wanted | found if repr(wanted.get(name)) != repr(found.get(name))]
    if differ:
        raise _unfit(f"{', '.join(map(str, differ))} would mean something else")


def _unfit(why: object) -> ConfigError:
    return ConfigError(
        "Sections of params.yaml cannot be replaced, and it stays as it is",
        where="params.yaml",
        why=why,
        next_step="write each section once, from the start of a line and without anchors that another one uses, and end"
        " params.yaml with a newline",
    )


def _with_keys(section: str, body: str, values: dict[str, Any]) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    editor = YAML()
    editor.width = 120
    editor.preserve_quotes = True
    editor.indent(mapping=2, sequence=4, offset=2)
    try:
        document = editor.load(body) or {section: {}}
    except YAMLError as error:
        raise _unfit(error) from None
    for key, value in values.items():
        if not isinstance(document[section], dict) or key not in document[section]:
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
