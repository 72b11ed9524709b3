"""Which container image made what dvc.lock names: the lock itself is the same wherever stages run."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from flows.lock import entries_of
from flows.runners import StageResult
from relume.files import write_text
from relume.reading import read_text


def remember_images(home: Path, results: Iterable[StageResult]) -> None:
    """Keeps the image of each stage that ran in a container.

    Args:
        home: RELUME_HOME; the hash of each image goes into a file of `container_images`.
        results: What the stages of a run ended with.
    """
    for result in results:
        if result.image:
            write_text(_file(home, result.entry), result.image)


def images_of(home: Path, lock: str) -> dict[str, str]:
    """The hash of the image that each stage of a dvc.lock last ran in, without those that ran in none.

    Args:
        home: RELUME_HOME.
        lock: The text of the dvc.lock, may be empty.
    """
    files = {stage: _file(home, entry) for stage, entry in entries_of(lock).items()}
    return {stage: read_text(file, next_step="remove it") for stage, file in files.items() if file.is_file()}


def _file(home: Path, entry: str) -> Path:
    """The file of a stage's entry; a stage that reads or writes anything else has another one."""
    return home / "container_images" / hashlib.sha256(entry.encode()).hexdigest()
