"""Recipes: how each published system is trained, as data, and how a recipe becomes recipe.yaml.

A recipe is a file of the folder `recipes`. It is resolved into recipe.yaml, which is beside params.yaml, by merging
four layers, each over the one before: what all recipes share (`defaults.yaml`), that at this scale, the recipe, the
recipe at this scale. Mappings are merged, everything else is replaced. A recipe that is `like` another one is that one
with its own file merged over it. `relume.recipes.check` builds what it names.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import model_validator

from relume import files, strict_yaml
from relume.errors import ConfigError
from relume.evaluation.tasks import TASKS, TaskName
from relume.nearest import did_you_mean
from relume.params_file import PARAMS, RECIPE, checked, joined
from relume.recipes.text import differences, dump
from relume.settings import Settings, settings_of

FOLDER = Path("recipes")
DEFAULTS = "defaults"
# Sections that a recipe gives whole, and sections of which it gives the keys that `defaults.yaml` gives.
OWNED = ("inference", "training", "pretrain", "ensemble_head", "mine_hard", "finetune_hard")
MERGED = ("curate", "evaluate")
HEADER = """\
# yaml-language-server: $schema=docs/params.schema.json
# Written by `relume recipes use`, which replaces this whole file and updates dvc.yaml. A key is here or in
# params.yaml, never in both. A change made here lasts until the next `use`; to keep it, add a recipe to recipes/.
"""
Scale = Literal["demo", "cpu", "gpu", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)


class Layers(Settings):
    """Sections of recipe.yaml, for all scales and for each.

    Attributes:
        common: Sections by name.
        scales: For each scale, what is merged over `common`.
    """

    common: dict[Literal[OWNED + MERGED], dict[str, Any]]  # type: ignore[valid-type]
    scales: dict[Scale, dict[Literal[OWNED + MERGED], dict[str, Any]]]  # type: ignore[valid-type]


class Ambiguity(Settings):
    """What a publication leaves open.

    Attributes:
        topic: What is open.
        default: What the recipe does.
        alternatives: What it could do instead; a key of recipe.yaml with its value where that is enough.
    """

    topic: str
    default: str
    alternatives: tuple[str, ...]


class Recipe(Layers):
    """How one system is trained.

    Attributes:
        name: Of the file, without suffix.
        title: One line.
        source: Where it was published.
        task: What the model is for: what is measured, what the gate asks, and the product's name.
        product: Another name for its product, where it is made for less than the task's own, or takes a level.
        family: Name under which several recipes go together.
        ambiguities: What the publication leaves open.
        deviations: What differs from the publication, at every scale.
    """

    name: str
    title: str
    source: str
    task: TaskName
    product: str | None = None
    family: str | None = None
    ambiguities: tuple[Ambiguity, ...]
    deviations: tuple[str, ...] = ()

    @property
    def product_name(self) -> str:
        """What its package serves, so long as `package.product` of recipe.yaml is not changed."""
        return self.product or TASKS[self.task].product

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
    if not os.path.lexists(folder / f"{DEFAULTS}.yaml"):
        raise ConfigError(
            "The folder of recipes does not exist",
            where=folder,
            next_step="change to the top folder of a relume checkout",
        )
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != DEFAULTS)


def load(name: str, folder: Path = FOLDER) -> Recipe:
    """Reads one recipe.

    Raises:
        ConfigError: There is none of that name, or the file is not a recipe.
    """
    known = names(folder)
    if name not in known:
        raise _unknown("recipe", name, known)
    path = folder / f"{name}.yaml"
    value = _value(path)
    if (like := value.pop("like", None)) is not None:
        others = [other for other in known if "like" not in _value(folder / f"{other}.yaml")]
        if like not in others:
            raise _unknown(f"recipe that {path} is like", str(like), others)
        value = merged(_value(folder / f"{like}.yaml"), value)
    return settings_of(value | {"name": name}, Recipe, path)


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
    """The sections that a recipe gives, as plain values; its task gives `evaluate.task` and `package.product`.

    Raises:
        ConfigError: Recipe or scale are unknown, or a section is missing.
    """
    recipe, defaults = load(name, folder), _read(folder / f"{DEFAULTS}.yaml", Layers)
    if scale not in SCALES:
        raise _unknown("scale", scale, SCALES)
    sections: dict[str, Any] = {}
    for layers in (defaults, recipe):
        for layer in (layers.common, layers.scales.get(scale, {})):
            sections = merged(sections, layer)
    missing = [section for section in (*MERGED, *OWNED) if section not in sections]
    if "pretrain" in sections and not isinstance(sections["pretrain"].get("bases"), dict):
        missing.append("pretrain.bases")
    if missing:
        path = folder / f"{name}.yaml"
        why = f"neither it nor {DEFAULTS}.yaml gives {', '.join(missing)}"
        raise ConfigError(
            "The recipe is incomplete", where=f"{path} at {scale}", why=why, next_step=f"add it to {path}"
        )
    sections["evaluate"] = {"task": recipe.task} | sections["evaluate"]
    sections["package"] = {"product": recipe.product_name}
    return {section: sections[section] for section in (*MERGED, *OWNED, "package")}


def merged(value: Any, over: Any) -> Any:
    """`over` put over `value`: mappings are merged, key by key, all else is replaced."""
    if isinstance(value, dict) and isinstance(over, dict):
        return value | {key: merged(value.get(key), entry) for key, entry in over.items()}
    return over


def shared_keys(folder: Path = FOLDER) -> dict[str, set[str]]:
    """Of each merged section, the keys that every recipe gives, so that none is left over from another recipe."""
    common = _read(folder / f"{DEFAULTS}.yaml", Layers).common
    return {section: set(common.get(section, ())) for section in MERGED}


L = TypeVar("L", bound=Layers)


def _read(path: Path, model: type[L]) -> L:
    return settings_of(_value(path), model, path)


def _value(path: Path) -> dict[str, Any]:
    value = strict_yaml.read(path).value
    if not value:
        raise ConfigError("The file is not a recipe", where=path, why="it has no keys", next_step=f"correct {path}")
    return value


def _unknown(kind: str, name: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"The {kind} is unknown",
        where=name,
        why=did_you_mean(name, known),
        next_step=f"choose one of: {', '.join(known)}",
    )


def use(name: str, scale: str, root: Path = Path(), folder: Path = FOLDER) -> list[str]:
    """Writes recipe.yaml as a whole, atomically. Its section `recipe` says what was used.

    Returns:
        A line for each changed value.

    Raises:
        ConfigError: Recipe or scale are unknown, a key of it is in params.yaml as well, or the parameters of both
            files together are refused; recipe.yaml stays as it was.
    """
    from relume.params import Params

    path = root / RECIPE
    text = HEADER + dump({"recipe": {"name": name, "scale": scale}} | resolve(name, scale, folder))
    before = strict_yaml.read(path).value if path.is_file() else {}
    after = strict_yaml.parse(text.encode(), path)
    values = joined({PARAMS: strict_yaml.read(root / PARAMS), RECIPE: after})
    checked(Params, values.value, values)
    files.write_text(path, text)
    return list(differences(before, after.value))


def remove_other_bases(root: Path = Path()) -> list[Path]:
    """Removes base models that recipe.yaml does not name, which the stages after them would take for theirs.

    They are outs of stages that the graph no longer has: DVC keeps them in its cache, but does not remove them.

    Returns:
        The folders that are gone.
    """
    bases = strict_yaml.read(root / RECIPE).value["pretrain"]["bases"]
    others = sorted(path for path in (root / "models/bases").glob("*") if path.is_dir() and path.name not in bases)
    for path in others:
        shutil.rmtree(path)
    return others
