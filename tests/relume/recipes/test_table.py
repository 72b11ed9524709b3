"""The table of practices, against the recipes as they are written."""

from pathlib import Path

from relume.recipes.recipe import names
from relume.recipes.table import practices_table

FOLDER = Path(__file__).parents[3] / "recipes"


def test_every_recipe_has_a_row_of_what_it_says():
    """Its source, its trainings and on what, its levels, its windows and their cost, its product, its deviations."""
    rows = {line.split("`")[1]: line for line in practices_table(FOLDER).splitlines()[2:]}
    assert list(rows) == names(FOLDER)
    assert {row.count(" | ") for row in rows.values()} == {4}
    for text in (
        "mambairv2 in 2 phases of side 128 to 160; xformer in 6 phases of side 128 to 384",
        "fusion `snucv` in 6 phases",
        "`snucv`: Team SNUCV, NTIRE 2025",
        "of side 128 to 384. On Gaussian noise, sigma 50 | clipped: sigma 50 | as `denoise_50` in tiles of 256 pixels",
        "halo 0, overlap 48 and of 384 pixels",
        "8 orientations; 546 runs a megapixel",
        "| Restormer's mixup of images is left out, since it mixes crops of a batch,",
    ):
        assert text in rows["snucv"]
    assert "jpeg: quality 10, 30, 50, 80" in rows["hypernet_dejpeg"]
    assert "On bicubic down by 2 | sr: scale 2 | as `sr2` in tiles" in rows["sr2"]
    assert "2 times as large; 32 runs a megapixel" in rows["sr2"]
    assert "side 128 on degraded and masked areas; all patches in 1 phase of side 128 on one of" in rows["dynet"]
    assert "salt-and-pepper: density 0.002" in rows["masked"]
    assert "the hardest 30% in 1 phase of side 256" in rows["pixel_purifiers"]
