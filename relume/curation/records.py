"""What was measured of photographs, on disk: a curation reads it as often as it needs, and the next one measures new
ones alone."""

import contextlib
import hashlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from relume.code_version import code_version
from relume.curation.duplicates import THUMBNAIL, Fingerprint
from relume.curation.measuring import Measured
from relume.curation.patches import PATCH_BYTES, Patches
from relume.curation.settings import CurateSettings
from relume.reading import reading

# Settings that decide what is measured of a photograph; all others choose among what was.
_RULE = (
    *("max_side", "patch", "stride", "flush", "min_sharpness", "max_noise_sigma", "max_flat_fraction"),
    *("scenes", "embedding"),
)
_PACKAGES = ("relume.curation", "relume.images", "relume.ingestion")
_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "onnxruntime")
_COMMIT_SECONDS = 5.0  # of measurements are lost at most by a kill
_FILES = 3  # of other settings or code that stay beside the one in use
_TABLE = """create table if not exists photographs (
    id integer primary key, reason text, figures blob, hash integer, keypoints blob, descriptor blob, patches blob)"""
_POINT = np.dtype([("place", np.float32, 2), ("descriptor", np.uint8, 128)])


class Records:
    """Measured photographs in an SQLite file.

    Args:
        path: The file, which is made when it is not there, and anew when it is no such file.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            self._open()
        except sqlite3.DatabaseError:
            path.unlink()
            self._open()
        self._committed = time.monotonic()

    def _open(self) -> None:
        self._base = sqlite3.connect(self._path, timeout=60)
        with contextlib.suppress(sqlite3.OperationalError):  # another run has it open: as it was left
            self._base.execute("pragma journal_mode=wal")
        self._base.execute("pragma synchronous=normal")
        self._base.execute(_TABLE)

    def close(self) -> None:
        """Writes what is left."""
        self._base.commit()
        self._base.close()

    def __contains__(self, image_id: str) -> bool:
        return self._row("1", image_id) is not None

    def add(self, item: Measured) -> None:
        """Keeps what was measured of a photograph."""
        found, keypoints, number = item.fingerprint, None, None
        if isinstance(found, Fingerprint):
            points = np.empty(len(found.points), _POINT)
            points["place"], points["descriptor"] = found.points, found.descriptors
            keypoints = found.thumbnail.astype(np.float32).tobytes() + points.tobytes()
        elif found is not None:
            number = found - 2**63  # SQLite's integers have a sign
        self._base.execute(
            "insert or replace into photographs values (?, ?, ?, ?, ?, ?, ?)",
            (
                _number(item.image_id),
                item.reason,
                np.array(list(item.figures.values()), np.float64).tobytes(),
                number,
                keypoints,
                None if item.descriptor is None else item.descriptor.astype(np.float32).tobytes(),
                item.patches.tobytes(),
            ),
        )
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self._base.commit()
            self._committed = time.monotonic()

    def figures(self, image_id: str) -> tuple[str, np.ndarray, int, int]:
        """Why a photograph is rejected, its figures in the order of `Quality` and `Scores`, its hash, its patches."""
        reason, figures, found, patches = self._get("reason, figures, hash, length(patches)", image_id)
        return reason, np.frombuffer(figures), 0 if found is None else found + 2**63, patches // PATCH_BYTES

    def patches(self, image_id: str) -> Patches:
        """The patches of a photograph."""
        return Patches.frombytes(image_id, self._get("patches", image_id)[0])

    def descriptors(self, image_ids: Iterable[str], count: int) -> np.ndarray:
        """(count, D) float32 of photographs that are not rejected."""
        vectors: np.ndarray | None = None
        for number, image_id in enumerate(image_ids):
            vector = np.frombuffer(self._get("descriptor", image_id)[0], np.float32)
            if vectors is None:
                vectors = np.empty((count, len(vector)), np.float32)
            vectors[number] = vector
        return np.empty((0, 1), np.float32) if vectors is None else vectors

    def fingerprint(self, image_id: str) -> Fingerprint:
        """What keypoints are compared by."""
        data = self._get("keypoints", image_id)[0]
        points = np.frombuffer(data, _POINT, offset=4 * THUMBNAIL)
        return Fingerprint(
            thumbnail=np.frombuffer(data, np.float32, THUMBNAIL),
            points=points["place"].copy(),
            descriptors=points["descriptor"].copy(),
        )

    def _get(self, columns: str, image_id: str) -> tuple:
        row = self._row(columns, image_id)
        assert row is not None
        return row

    def _row(self, columns: str, image_id: str) -> tuple | None:
        with reading(self._path, next_step=f"remove {self._path}, and run it again"):
            return self._base.execute(
                f"select {columns} from photographs where id = ?", (_number(image_id),)
            ).fetchone()


@contextlib.contextmanager
def opened_records(cache: Path | None, settings: CurateSettings) -> Iterator[Records]:
    """The records of the settings and of this code, kept in a folder or, for None, for one curation."""
    with tempfile.TemporaryDirectory(prefix="relume-curate-") as temporary:
        folder = Path(temporary) if cache is None else cache
        folder.mkdir(parents=True, exist_ok=True)
        records = Records(folder / f"{_rule(settings)}.sqlite")
        try:
            yield records
        finally:
            records.close()
        for old in sorted(folder.glob("*.sqlite"), key=lambda path: path.stat().st_mtime)[: -_FILES - 1]:
            old.unlink(missing_ok=True)


def curation_code() -> str:
    """Which code measures and cuts photographs."""
    return code_version(_PACKAGES, _LIBRARIES)


def _rule(settings: CurateSettings) -> str:
    values = settings.model_dump(mode="json", include=set(_RULE)) | {"scores": settings.keep is not None}
    return hashlib.sha256(json.dumps([values, curation_code()], sort_keys=True).encode()).hexdigest()[:24]


def _number(image_id: str) -> int:
    return int(image_id, 16) - 2**63
