"""A collection of photographs in columns: what curation chooses by, in about 100 bytes for each of millions."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from relume.curation.quality import Quality
from relume.curation.records import Records
from relume.curation.scores import Scores
from relume.ingestion.ingest import Photograph, manifest_rows, video_of

FIGURES = tuple(field.name for kind in (Quality, Scores) for field in fields(kind))
_FIRST = len(fields(Quality))


class Collection:
    """The photographs of a manifest, by position in it.

    Args:
        manifest: The photographs.
        records: What was measured of them.
        by: Further scores that are needed.

    Attributes:
        sets: The names of the sets, sorted.
        id: uint64, the number that an image_id writes in hexadecimal.
        set: Position in `sets`.
        width, height: As ingested.
        colour: Whether the file has colours.
        paired: Whether it is the clean image of a pair.
        clean: The first 64 bits of the hash of the file.
        video: The number of the video that it is a frame of, -1 for none.
        figures: By name, float64.
        hash: uint64; 0 if it is rejected by its own figures.
        patches: How many it has.
    """

    def __init__(self, manifest: Iterable[Photograph], records: Records, by: Iterable[str] = ()):
        names = (*FIGURES[:_FIRST], *dict.fromkeys(name for name in by if name not in FIGURES[:_FIRST]))
        places = [FIGURES.index(name) for name in names]
        row = np.dtype(
            [
                *((name, np.uint64) for name in ("id", "clean", "hash")),
                *((name, np.int32) for name in ("video", "width", "height", "patches")),
                *(("set", np.uint16), ("reason", np.uint8), ("colour", bool), ("paired", bool)),
                ("figures", np.float64, len(names)),
            ]
        )
        sets: dict[str, int] = {}
        videos: dict[str, int] = {}
        self._reasons = [""]

        def rows() -> Iterator[tuple]:
            for photograph in manifest:
                reason, figures, found, patches = records.figures(photograph.image_id)
                video = video_of(photograph.address)
                yield (
                    *(int(photograph.image_id, 16), int(photograph.sha256[:16], 16), found),
                    videos.setdefault(video, len(videos)) if video else -1,
                    *(photograph.width, photograph.height, patches),
                    *(sets.setdefault(photograph.set, len(sets)), self._code(reason), photograph.channels >= 3),
                    *(bool(photograph.degraded), tuple(figures[p] if p < len(figures) else np.nan for p in places)),
                )

        table = np.fromiter(rows(), row)
        self.sets = sorted(sets)
        sorted_place = np.array([self.sets.index(name) for name in sets], np.uint16)
        self.set = sorted_place[table["set"]] if len(table) else table["set"]
        self.id, self.clean, self.hash, self.video = (table[name] for name in ("id", "clean", "hash", "video"))
        self.width, self.height, self.patches = (table[name] for name in ("width", "height", "patches"))
        self.colour, self.paired, self._reason = (table[name] for name in ("colour", "paired", "reason"))
        self.figures = {name: table["figures"][:, number] for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.id)

    def image_id(self, position: int) -> str:
        """The name of a photograph."""
        return f"{self.id[position]:016x}"

    def image_ids(self, positions: np.ndarray) -> Iterator[str]:
        """The names of photographs."""
        return (self.image_id(position) for position in positions.tolist())

    def left(self) -> np.ndarray:
        """The positions of the photographs that no rule has rejected."""
        return np.flatnonzero(self._reason == 0)

    def reject(self, positions: np.ndarray, reason: str) -> None:
        """Rejects photographs."""
        self._reason[positions] = self._code(reason)

    def is_left(self, position: int) -> bool:
        """Whether no rule has rejected a photograph."""
        return not self._reason[position]

    def reason(self, position: int) -> str:
        """Why a photograph is rejected; empty if it is not."""
        return self._reasons[self._reason[position]]

    def reasons(self, of_set: int | None = None) -> Counter[str]:
        """How many are rejected, of all or of a set by its number, by reason, in the order of the manifest."""
        of = self._reason if of_set is None else self._reason[self.set == of_set]
        codes, first, counts = np.unique(of, return_index=True, return_counts=True)
        order = np.argsort(first)
        return Counter({self._reasons[codes[at]]: int(counts[at]) for at in order.tolist() if codes[at]})

    def by_preference(self, positions: np.ndarray) -> np.ndarray:
        """Sorts positions, the photograph to keep of several first: a pair, then colour, then size, then sharpness."""
        pixels = self.width[positions].astype(np.int64) * self.height[positions]
        keys = (self.id, -self.figures["sharpness"])
        order = np.lexsort(
            (*(key[positions] for key in keys), -pixels, ~self.colour[positions], ~self.paired[positions])
        )
        return positions[order]

    def _code(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason)


def read_collection(ingested: str | Path, records: Records, by: Iterable[str] = ()) -> Collection:
    """The collection of an ingested folder."""
    return Collection(manifest_rows(ingested), records, by)
