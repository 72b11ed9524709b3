"""Recipes: how each published system is trained, as data, and the one door by which a recipe reaches the graph.

A recipe is a file of the folder `recipes`. It is resolved into the sections of params.yaml that it owns, by merging
four layers, each over the one before: what all recipes share (`defaults.yaml`), that at this scale, the recipe, the
recipe at this scale. Mappings are merged, everything else is replaced. `relume.recipe_check` builds what it names.
"""

import difflib
import io
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from relume import files
from relume.errors import ConfigError

FOLDER = Path("recipes")
DEFAULTS = "defaults"
Scale = Literal["demo", "cpu", "gpu", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)
# Sections that a recipe gives whole, and sections of which it gives the keys that `defaults.yaml` gives.
OWNED = ("training", "pretrain", "ensemble_head", "mine_hard", "finetune_hard")
MERGED = ("curate", "evaluate", "export")


class Layers(BaseModel):
    """Sections of params.yaml, for all scales and for each.

    Attributes:
        common: Sections by name.
        scales: For each scale, what is merged over `common`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    common: dict[Literal[OWNED + MERGED], dict[str, Any]]  # type: ignore[valid-type]
    scales: dict[Scale, dict[Literal[OWNED + MERGED], dict[str, Any]]]  # type: ignore[valid-type]


class Ambiguity(BaseModel):
    """What a publication leaves open.

    Attributes:
        topic: What is open.
        default: What the recipe does.
        alternatives: What it could do instead; named in the terms of params.yaml where that is all it takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    default: str
    alternatives: tuple[str, ...]


class Recipe(Layers):
    """How one system is trained.

    Attributes:
        name: Of the file, without suffix.
        title: One line.
        source: Where it was published.
        task: What it restores.
        family: Name under which several recipes go together.
        ambiguities: What the publication leaves open.
        deviations: What is done otherwise than published, at every scale.
    """

    name: str
    title: str
    source: str
    task: Literal["denoise", "dejpeg", "super-resolution", "all-in-one"]
    family: str | None = None
    ambiguities: tuple[Ambiguity, ...]
    deviations: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_every_scale(self) -> "Recipe":
        if missing := [scale for scale in SCALES if scale not in self.scales]:
            raise ValueError(f"scales lacks {', '.join(missing)}")
        return self


def names(folder: Path = FOLDER) -> list[str]:
    """All recipes, sorted.

    Raises:
        ConfigError: There is no such folder.
    """
    if not (folder / f"{DEFAULTS}.yaml").is_file():
        raise ConfigError("No recipes", where=folder, next_step="go to the top of a relume checkout")
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != DEFAULTS)


def load(name: str, folder: Path = FOLDER) -> Recipe:
    """Reads one recipe.

    Raises:
        ConfigError: There is none of that name, or the file is not a recipe.
    """
    known = names(folder)
    if name not in known:
        raise _unknown("recipe", name, known)
    return _read(folder / f"{name}.yaml", Recipe, name=name)


def find(wanted: Sequence[str], folder: Path = FOLDER) -> list[Recipe]:
    """The recipes of these names or families, all when there are none.

    Raises:
        ConfigError: A name is neither.
    """
    recipes = [load(name, folder) for name in names(folder)]
    known = {recipe.name for recipe in recipes} | {recipe.family for recipe in recipes if recipe.family}
    for name in wanted:
        if name not in known:
            raise _unknown("recipe", name, sorted(known))
    return [recipe for recipe in recipes if not wanted or {recipe.name, recipe.family} & set(wanted)]


def resolve(name: str, scale: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The sections of params.yaml that a recipe gives, as plain values.

    Raises:
        ConfigError: Recipe or scale are unknown.
    """
    recipe, defaults = load(name, folder), _read(folder / f"{DEFAULTS}.yaml", Layers)
    if scale not in SCALES:
        raise _unknown("scale", scale, SCALES)
    sections: dict[str, Any] = {}
    for layers in (defaults, recipe):
        for layer in (layers.common, layers.scales.get(scale, {})):
            sections = merged(sections, layer)
    return {section: sections[section] for section in (*MERGED, *OWNED)}


def merged(value: Any, over: Any) -> Any:
    """`over` put over `value`: mappings are merged, key by key, all else is replaced."""
    if isinstance(value, dict) and isinstance(over, dict):
        return value | {key: merged(value.get(key), entry) for key, entry in over.items()}
    return over


def shared_keys(folder: Path = FOLDER) -> dict[str, set[str]]:
    """Of each merged section, the keys that every recipe gives, so that none is left over from another recipe."""
    common = _read(folder / f"{DEFAULTS}.yaml", Layers).common
    return {section: set(common[section]) for section in MERGED}


L = TypeVar("L", bound=Layers)


def _read(path: Path, model: type[L], **more: Any) -> L:
    try:
        return model.model_validate(yaml.safe_load(path.read_text()) | more)
    except yaml.YAMLError as error:
        raise ConfigError("Not valid YAML", where=path, why=error, next_step=f"mend {path}") from None
    except ValidationError as error:
        raise ConfigError("Not a recipe", where=path, why=reasons(error), next_step=f"mend {path}") from None


def reasons(error: ValidationError) -> str:
    """What a model refuses, each with its key."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in found)


def _unknown(kind: str, name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known)
    return ConfigError(
        f"Unknown {kind}",
        where=name,
        why=f"did you mean {' or '.join(near)}?" if near else None,
        next_step=f"choose one of: {', '.join(known)}",
    )


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


def use(name: str, scale: str, params: Path = Path("params.yaml"), folder: Path = FOLDER) -> list[str]:
    """Writes a recipe into params.yaml, atomically.

    Sections that the recipe does not give stay as they are, to the letter. The section `recipe` says what was used.

    Returns:
        A line for each changed value.

    Raises:
        ConfigError: Recipe or scale are unknown, or params.yaml lacks a key that the recipe sets.
    """
    if not params.is_file():
        raise ConfigError("No parameters", where=params, next_step="go to the top of a relume checkout")
    resolved = {"recipe": {"name": name, "scale": scale}} | resolve(name, scale, folder)
    before = params.read_text()
    after = with_sections(before, resolved)
    changes = list(differences(yaml.safe_load(before), yaml.safe_load(after)))
    files.write_text(params, after)
    return changes


def remove_other_bases(params: Path = Path("params.yaml"), folder: Path = Path("models/bases")) -> list[Path]:
    """Removes base models that params.yaml does not name, which the stages after them would take for theirs.

    They are outs of stages that the graph no longer has: DVC keeps them in its cache, but does not take them away.

    Returns:
        The folders that are gone.
    """
    bases = yaml.safe_load(params.read_text())["pretrain"]["bases"]
    others = sorted(path for path in folder.glob("*") if path.is_dir() and path.name not in bases)
    for path in others:
        shutil.rmtree(path)
    return others


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
                next_step=f"add it to params.yaml, or take it out of recipes/{DEFAULTS}.yaml and all recipes",
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
