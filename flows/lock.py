"""dvc.lock: what every stage read and wrote. Only the driver writes it."""

import io
from pathlib import Path
from typing import Any

from relume import files
from relume.errors import UserError


class LockFileError(UserError):
    """dvc.lock cannot be read."""


def _dump(value: Any) -> str:
    from ruamel.yaml import YAML

    # The settings of DVC's own writer, so that the file is the one that `dvc repro` would leave.
    yaml = YAML()
    yaml.default_flow_style = False
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _load(text: str, where: object) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text) or {}
    except YAMLError as error:
        raise LockFileError(
            "dvc.lock is not valid YAML",
            where=where,
            why=error,
            next_step="remove it and run `relume pipeline run`, which writes it again; DVC keeps the results",
        ) from None


def entry_of(text: str, stage: str) -> str:
    """The entry of one stage of a dvc.lock.

    Args:
        text: The whole dvc.lock.
        stage: Name of the stage, which must be in it.

    Returns:
        YAML text `{stage: entry}`. Text, so that it passes through JSON unchanged: YAML knows integer
        keys and dates, JSON does not.
    """
    return _dump({stage: _load(text, "dvc.lock")["stages"][stage]})


def merge(text: str, entries: list[str], order: list[str]) -> str:
    """Puts the entries of stages into a dvc.lock.

    Args:
        text: The dvc.lock to start from, may be empty.
        entries: What `entry_of` gave for the stages that ran.
        order: Names of all stages in the order of the graph.

    Returns:
        The whole file, stages in that order; those that are no longer in the graph come last, as DVC keeps them.
    """
    lock = _load(text, "dvc.lock") or {"schema": "2.0"}
    stages = dict(lock.get("stages", {}))
    for entry in entries:
        stages.update(_load(entry, "a stage's entry"))
    names = [name for name in order if name in stages] + [name for name in stages if name not in order]
    lock["stages"] = {name: stages[name] for name in names}
    return _dump(lock)


def read_lock(root: Path) -> str:
    """The text of the checkout's dvc.lock, empty when there is none."""
    path = root / "dvc.lock"
    return path.read_text() if path.is_file() else ""


def write_lock(root: Path, text: str) -> None:
    """Writes the checkout's dvc.lock atomically; an equal file is left alone."""
    if read_lock(root) != text:
        files.write_text(root / "dvc.lock", text)
