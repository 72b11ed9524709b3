"""The table of practices, against the recipes as they are written."""

from pathlib import Path

from relume.recipes.recipe import names
from relume.recipes.table import practices_table

FOLDER = Path(__file__).parents[3] / "recipes"


def test_every_recipe_has_a_row_of_what_it_says():
    """Its trainings, its levels, its windows and what they cost, its product, its deviations."""
    rows = {line.split("`")[1]: line for line in practices_table(FOLDER).splitlines()[2:]}
    assert list(rows) == names(FOLDER)
    assert {row.count(" | ") for row in rows.values()} == {4}
    for text in (
        "mambairv2 in 2 phases of side 128 to 160; xformer in 6 phases of side 128 to 384",
        "fusion `snucv` in 6 phases",
        "| sigma 50 | as `denoise_50` in tiles of 256 pixels, halo 0, overlap 48 and of 384 pixels",
        "8 orientations; 546 runs a megapixel",
        "| Restormer's mixup of images is left out. |",
    ):
        assert text in rows["snucv"]
    assert "quality 10, 30, 50, 80" in rows["hypernet_dejpeg"]
    assert "the hardest 30% in 1 phase of side 256" in rows["pixel_purifiers"]
