"""Scenes divided into training, validation and test, so that a scene is on one side only.

Every scene has a place from 0 to 1, a hash of its name and the seed. The lowest places test, the next
validate, the others train, so photographs that are added do not move those that were there. There are
three exceptions, all of small collections or joined scenes: the least numbers of held-out scenes can
reach beyond the fractions, and then a new scene can take the last place among them; a collection that
grows from mostly gray to colour gets other held-out scenes; and a photograph that joins two scenes, or
sorts before the others of its scene, gives the scene a new name.

Held-out scenes are colour where there are enough of them, because the product restores colour and
metrics of gray photographs are not comparable.
"""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from relume.curation.settings import CurateSettings
from relume.errors import SourceError

SIDES = ("train", "validation", "test")


def place(name: str, seed: int) -> float:
    """The place of a scene, from 0 up to 1, spread evenly."""
    return int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 16**13


def split_scenes(
    names: Iterable[str],
    in_colour: np.ndarray,
    settings: CurateSettings,
    *,
    of_set: str | None = None,
    rejected: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Divides the scenes of a set.

    Args:
        names: Of the scenes.
        in_colour: (N,) whether each is in colour.
        settings: Seed, fractions and least numbers.
        of_set: Name of the set, where there are several.
        rejected: How many photographs were rejected before, by reason, for the message when too few are left.

    Returns:
        (N,) for each a position in SIDES.

    Raises:
        SourceError: There are too few scenes to hold some out and train on others.
    """
    held_out = settings.min_test + settings.min_validation
    if len(in_colour) <= held_out:
        raise SourceError(
            "There are too few different photographs",
            where=of_set and f"set {of_set}",
            why=f"{len(in_colour)} scenes are left after curation; {held_out} are held out and training needs one"
            + (f"; rejected were {', '.join(f'{n} {reason}' for reason, n in rejected.items())}" if rejected else ""),
            next_step="add photographs, change the limits of curate, or lower curate.min_test in params.yaml",
        )
    places = np.fromiter((place(name, settings.seed) for name in names), np.float64, len(in_colour))
    eligible = np.flatnonzero(in_colour) if in_colour.sum() > held_out else np.arange(len(in_colour))
    eligible = eligible[np.argsort(places[eligible], kind="stable")]
    test = max(settings.min_test, int((places[eligible] < settings.test_fraction).sum()))
    test = min(test, len(eligible) - 1 - settings.min_validation)
    both = int((places[eligible] < settings.test_fraction + settings.validation_fraction).sum())
    end = min(max(test + settings.min_validation, both), len(eligible) - 1)
    sides = np.full(len(in_colour), SIDES.index("train"), np.int8)
    sides[eligible[:test]] = SIDES.index("test")
    sides[eligible[test:end]] = SIDES.index("validation")
    return sides
