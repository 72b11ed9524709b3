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
from collections.abc import Mapping

from relume.curation.settings import CurateSettings
from relume.errors import SourceError


def place(name: str, seed: int) -> float:
    """The place of a scene, from 0 up to 1, spread evenly."""
    return int(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()[:13], 16) / 16**13


def split_scenes(
    scenes: Mapping[str, bool],
    settings: CurateSettings,
    *,
    of_set: str | None = None,
    rejected: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Divides the scenes of a set.

    Args:
        scenes: For each scene's name whether it is in colour.
        settings: Seed, fractions and least numbers.
        of_set: Name of the set, where there are several.
        rejected: How many photographs were rejected before, by reason, for the message when too few are left.

    Returns:
        For each name `test`, `validation` or `train`.

    Raises:
        SourceError: There are too few scenes to hold some out and train on others.
    """
    held_out = settings.min_test + settings.min_validation
    if len(scenes) <= held_out:
        raise SourceError(
            "There are too few different photographs",
            where=of_set and f"set {of_set}",
            why=f"{len(scenes)} scenes are left after curation; {held_out} are held out and training needs one"
            + (f"; rejected were {', '.join(f'{n} {reason}' for reason, n in rejected.items())}" if rejected else ""),
            next_step="add photographs, change the limits of curate, or lower curate.min_test in params.yaml",
        )
    colour = [name for name, in_colour in scenes.items() if in_colour]
    eligible = sorted(colour if len(colour) > held_out else scenes, key=lambda name: place(name, settings.seed))
    places = [place(name, settings.seed) for name in eligible]
    test = max(settings.min_test, sum(value < settings.test_fraction for value in places))
    test = min(test, len(eligible) - 1 - settings.min_validation)
    end = max(
        test + settings.min_validation, sum(v < settings.test_fraction + settings.validation_fraction for v in places)
    )
    end = min(end, len(eligible) - 1)
    sides = dict.fromkeys(scenes, "train")
    sides.update(dict.fromkeys(eligible[:test], "test"))
    sides.update(dict.fromkeys(eligible[test:end], "validation"))
    return sides
