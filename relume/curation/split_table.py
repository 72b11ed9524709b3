"""The split as a table to be checked: what the sides of a set, a scene and a file are, counted anew from the tables."""

import math
from typing import Any

from relume.curation.settings import CurateSettings

COLUMNS = ["image_id", "set", "split", "scene_sides", "copy_sides", "set_sides", "test_deviation"]
COLUMNS += ["held_out_deviation", "held_out_patches"]


def split_table(manifest: Any, images: Any, patches: Any, settings: CurateSettings) -> Any:
    """One row for each photograph that is on a side.

    Args:
        manifest: The frame of manifest.csv, with `image_id`, `sha256` and `channels`.
        images: That of images.csv.
        patches: That of patches.parquet.
        settings: By which it was split.

    Returns:
        A frame of `COLUMNS`. `scene_sides` and `copy_sides` are on how many sides the photograph's scene, and the
        bytes of its file, are; `set_sides` how many sides the scenes of its set are on. `test_deviation` and
        `held_out_deviation` are how far the number of scenes of its set that test, and that test or validate, is from
        what the fractions and least numbers ask for, in standard deviations of a draw by chance.
        `held_out_patches` is how many training patches it gave although it is held out.
    """
    found = images.merge(
        manifest[["image_id", "sha256", "channels"]].drop_duplicates("image_id"), on="image_id", how="left"
    )
    # A scene of several sets counts for the first of their names, of which no photograph needs to be left when it is
    # held out: one of the scene stands for it.
    counted = found[(found["split"] != "rejected") | (found["reason"] == "same_scene")]
    scenes = counted.groupby("group").agg(set=("set", "min"), colour=("channels", lambda values: (values >= 3).any()))
    used = found[found["split"] != "rejected"].copy()
    used["scene_sides"] = used.groupby("group")["split"].transform("nunique")
    used["copy_sides"] = used.groupby("sha256")["split"].transform("nunique")
    used.loc[used["sha256"].isna(), "copy_sides"] = 1  # the manifest does not have it, of which `images` complains
    scenes["split"] = used.groupby("group")["split"].first()
    sets = scenes.groupby("set")
    used["home_set"] = used["group"].map(scenes["set"])
    used["set_sides"] = used["home_set"].map(sets["split"].nunique())
    deviations = {name: _deviations(members, settings) for name, members in sets}
    for place, name in enumerate(("test_deviation", "held_out_deviation")):
        used[name] = used["home_set"].map({key: values[place] for key, values in deviations.items()})
    given = patches.groupby("image_id").size()
    held_out = used["split"] != "train"
    used["held_out_patches"] = used["image_id"].map(given).fillna(0).astype(int).where(held_out, 0)
    return used[COLUMNS].reset_index(drop=True)


def _deviations(scenes: Any, settings: CurateSettings) -> tuple[float, float]:
    """Of the scenes of a set that test, and of those that test or validate."""
    least = settings.min_test + settings.min_validation
    colour = int(scenes["colour"].sum())
    eligible = colour if colour > least else len(scenes)
    fraction = settings.test_fraction + settings.validation_fraction
    test = min(max(settings.min_test, eligible * settings.test_fraction), eligible - 1 - settings.min_validation)
    both = min(max(test + settings.min_validation, eligible * fraction), eligible - 1)
    # Neither the least numbers nor the place left to train make the spread of a draw larger.
    spread = max(math.sqrt(eligible * share * (1 - share)) for share in (settings.test_fraction, fraction))
    count = scenes["split"].value_counts()
    tests = count.get("test", 0)
    return abs(tests - test) / spread, abs(tests + count.get("validation", 0) - both) / spread
