"""dvc.lock: what every stage read and wrote. Only the driver writes it."""

import io
import os
from pathlib import Path
from typing import Any, Literal

from relume import files
from relume.errors import UserError
from relume.reading import read_text, reading

_AGAIN = "remove it and run `relume pipeline run`, which writes it again; DVC keeps the results"


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
        lock = YAML(typ="safe").load(text) or {}
    except (YAMLError, ValueError, RecursionError) as error:
        raise LockFileError(
            "dvc.lock is not valid YAML",
            where=where,
            why=error,
            next_step=_AGAIN,
        ) from None
    if not isinstance(lock, dict) or not isinstance(lock.get("stages", {}), dict):
        raise LockFileError("dvc.lock lists no stages", where=where, next_step=_AGAIN)
    return lock


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


def entries_of(text: str) -> dict[str, str]:
    """What `entry_of` gives for each stage of a dvc.lock, which may be empty."""
    return {stage: _dump({stage: entry}) for stage, entry in _load(text, "dvc.lock").get("stages", {}).items()}


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


def hashes_of(kind: Literal["deps", "outs"], text: str) -> list[tuple[str, str]]:
    """The path and the hash of every dep or out of all stages.

    Args:
        kind: Which of the two.
        text: The whole dvc.lock, may be empty.

    Raises:
        LockFileError: It is no valid YAML.
        BrokenFileError: An entry is not as DVC writes it.
    """
    with reading("dvc.lock", next_step=_AGAIN):
        stages = _load(text, "dvc.lock").get("stages", {}).values()
        return [(entry["path"], entry["md5"]) for stage in stages for entry in stage.get(kind, [])]


def read_lock(root: Path) -> str:
    """The text of the checkout's dvc.lock, empty when there is none.

    Raises:
        BrokenFileError: It cannot be read, or is not UTF-8.
    """
    path = root / "dvc.lock"
    return read_text(path, next_step=_AGAIN) if os.path.lexists(path) else ""


def write_lock(root: Path, text: str) -> None:
    """Writes the checkout's dvc.lock atomically; an equal file is left alone."""
    if read_lock(root) != text:
        files.write_text(root / "dvc.lock", text)
