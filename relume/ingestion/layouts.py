"""How data sets of pairs lay out their files: which degraded image belongs to which clean one.

| layout | degraded | clean |
|---|---|---|
| polyu | `noisy/NAME`, or `NAME_real` | `clean/NAME`, or `NAME_mean` |
| sidd | `SCENE/0001_NOISY_SRGB_010` | `SCENE/0001_GT_SRGB_010` |
| gopro | `SCENE/blur/NAME` | `SCENE/sharp/NAME` |
| rain100 | `rain/NAME`, `rain-001`, or `rain/X2/norain-001x2` | `clean/NAME`, or `norain-001` |
| sots | `hazy/0001_0.8_0.2`, or `hazy/part1/...`, several for one clean image | `clear/0001`, or `gt/0001` |
| folders | `degraded/NAME`, `noisy/NAME`, `blur/NAME` or `rain/NAME` | `clean/NAME` or `sharp/NAME` |
| csv | the first column of a table | the second one |
| `dark/*\\|light/*` | what fits the pattern before the bar | what fits the other; each `*` is the same text in both |

Suffixes may differ, and names are compared in any case. The folders may be at any depth.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from relume.errors import SourceError

Kind = Literal["noise", "blur", "rain", "haze", ""]
FOLDERS: dict[Kind, tuple[str, str]] = {
    "noise": ("noisy", "clean"),
    "blur": ("blur", "sharp"),
    "rain": ("rain", "clean"),
}
"""The subfolders of degraded and clean images of one name, by what degrades them."""

UNPAIRED = ("missing_partner", "ambiguous_pair", "identical_pair")
"""Why files of a set of pairs are no pair, as the quarantine names it."""


@dataclass(frozen=True)
class Pattern:
    """Names of pairs. A pair is two files whose groups, without those that do not take part, are equal.

    Attributes:
        kind: What degrades the images; empty where the layout does not say it.
        degraded: Regular expression of a degraded file, without suffix.
        clean: Of a clean one.
        several: Whether a clean image may have several degraded ones.
    """

    kind: Kind
    degraded: str
    clean: str
    several: bool = False


def _subfolders(kind: Kind, degraded: str, clean: str) -> Pattern:
    return Pattern(kind, rf"(.*/)?{degraded}/([^/]+)", rf"(.*/)?{clean}/([^/]+)")


_BY_FOLDER = {kind: _subfolders(kind, *names) for kind, names in FOLDERS.items()}
LAYOUTS: dict[str, tuple[Pattern, ...]] = {
    "polyu": (_BY_FOLDER["noise"], Pattern("noise", r"(.*)_real", r"(.*)_mean")),
    "sidd": (Pattern("noise", r"(.*)_noisy_(.*)", r"(.*)_gt_(.*)"),),
    "gopro": (_BY_FOLDER["blur"],),
    "rain100": (
        Pattern(
            "rain",
            r"(.*?/)??(?:(?:rainy?/)?rain-|rain/(?:X2/)?norain-)(\d+)(?:x2)?",
            r"(.*?/)??(?:(?:norain|clean|gt)/)?norain-(\d+)",
        ),
        _BY_FOLDER["rain"],
    ),
    "sots": (
        Pattern(
            "haze",
            r"(.*/)?(?:hazy|haze)/(?:[^/]+/)?([^/_]+)_[^/]*",
            r"(.*/)?(?:clear|gt)/(?:[^/]+/)?([^/_]+)",
            several=True,
        ),
    ),
    "folders": (_subfolders("", "(?:degraded|noisy|blur|rain)", "(?:clean|sharp)"),),
}
TABLE = "csv"
NAMES = (*LAYOUTS, TABLE)
OWN = r"[^:|]*\*[^:|]*\|[^:|]*\*[^:|]*"
"""Regular expression of a layout of the user's own, such as `dark/*|light/*`."""


@dataclass(frozen=True)
class Pair:
    """Two files by name."""

    degraded: str
    clean: str
    kind: Kind = ""


@dataclass(frozen=True)
class Unpaired:
    """A file that belongs to no pair.

    Attributes:
        name: Of the file.
        reason: `missing_partner` or `ambiguous_pair`.
        problem: In words.
    """

    name: str
    reason: str
    problem: str


def patterns(layout: str) -> tuple[Pattern, ...]:
    """The patterns of a key of `LAYOUTS`, or of a layout of the user's own.

    Raises:
        SourceError: The two patterns of a user's own have not as many `*`.
    """
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    degraded, clean = layout.split("|")
    if degraded.count("*") != clean.count("*"):
        raise SourceError(
            "The patterns of the pairs do not fit each other",
            where=layout,
            why=f"one has {degraded.count('*')} `*` and the other {clean.count('*')}; each is the same text in both",
            next_step="give both as many `*`, such as 'dark/*|light/*:FOLDER'",
        )
    degraded, clean = ("(.*)".join(map(re.escape, side.split("*"))) for side in (degraded, clean))
    return (Pattern("", degraded, clean),)


def find_pairs(layout: str, names: Iterable[str]) -> tuple[list[Pair], list[Unpaired]]:
    """Pairs files by their names. One that fits both sides is of the side whose pattern says more.

    Args:
        layout: A key of `LAYOUTS`, or one of the user's own.
        names: Paths with slashes, relative to the folder of the set.

    Returns:
        The pairs in the order of their clean and degraded names; and the files that look like one side of a pair and
        have no partner, or more than one. Files that look like neither side are in none of both.
    """
    kinds = patterns(layout)
    sides: dict[tuple[int, tuple[str, ...]], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name in sorted(names):
        stem = name.rpartition(".")[0]
        for number, pattern in enumerate(kinds):
            found = [re.fullmatch(side, stem, re.IGNORECASE) for side in (pattern.degraded, pattern.clean)]
            if match := found[0] or found[1]:
                side = int(found[1] is not None and (not found[0] or len(pattern.clean) > len(pattern.degraded)))
                key = tuple((part or "").lower() for part in (found[side] or match).groups())
                sides[number, key][side].append(name)
                break
    pairs: list[Pair] = []
    alone: list[Unpaired] = []
    for (number, _), (degraded, clean) in sides.items():
        pattern = kinds[number]
        if not degraded or not clean:
            missing = "degraded" if clean else "clean"
            alone += [Unpaired(name, "missing_partner", f"its {missing} image is missing") for name in degraded + clean]
        elif len(clean) > 1 or (len(degraded) > 1 and not pattern.several):
            why = f"it could be a pair in several ways: {', '.join(degraded)} with {', '.join(clean)}"
            alone += [Unpaired(name, "ambiguous_pair", why) for name in degraded + clean]
        else:
            pairs += [Pair(name, clean[0], pattern.kind or _kind_of(name)) for name in degraded]
    return sorted(pairs, key=lambda pair: (pair.clean, pair.degraded)), sorted(alone, key=lambda file: file.name)


def _kind_of(degraded: str) -> Kind:
    """What degrades an image, where the name of its folder says it."""
    folder = degraded.rpartition("/")[0].rpartition("/")[2].lower()
    return next((kind for kind, (name, _) in FOLDERS.items() if name == folder), "")


def read_pairs(table: bytes, where: object) -> list[Pair]:
    """The pairs of a CSV table of two columns, the degraded and the clean files; a header is not needed.

    Raises:
        SourceError: A row has not two columns, or there is none.
    """
    rows = [row for row in csv.reader(io.StringIO(table.decode("utf-8", "replace"))) if row]
    if rows and [name.strip().lower() for name in rows[0]] == ["degraded", "clean"]:
        rows = rows[1:]
    if wrong := [number for number, row in enumerate(rows, start=1) if len(row) != 2]:
        why = f"row {wrong[0]} has {len(rows[wrong[0] - 1])} columns"
    elif not rows:
        why = "it has no rows"
    else:
        named = {(degraded.strip(), clean.strip()) for degraded, clean in rows}
        pairs = [Pair(degraded, clean, _kind_of(degraded)) for degraded, clean in named]
        return sorted(pairs, key=lambda pair: (pair.clean, pair.degraded))
    raise SourceError(
        "The table of pairs is not valid",
        where=where,
        why=why,
        next_step="write a row `degraded,clean` for each pair, with paths relative to the table",
    )
