"""The table of where each practice works, against the recipes and what the tests of all recipes can leave out."""

from pathlib import Path

from relume.inference.plan import Inference, Tiling
from relume.recipes.practices import PLACES, PRACTICES, where_table
from relume.recipes.recipe import names, resolve

FOLDER = Path(__file__).parents[3] / "recipes"
ROWS = {
    cells[0]: cells[1:] for cells in (line.strip("| \n").split(" | ") for line in where_table(FOLDER).splitlines()[2:])
}


def having(name):
    return set(ROWS[name][0].replace("`", "").split(", "))


def test_each_practice_is_of_the_recipes_whose_sources_have_it():
    """As the publications say; no practice is of no recipe, and none of a challenge's team is without one."""
    assert having("edges of one base model") == {"buptmm"}
    assert having("local statistics (TLC)") == {"buptmm", "nafnet_gopro"}
    assert having("biases alone, on clipped noise") == {"alwaysu"}
    assert having("a fusion of networks that is trained") == {"ensemble", "snucv", "srcb"}
    assert having("masks of the attention") == having("masks of the input") == {"masked"}
    assert having("eight orientations") == {"alwaysu", "pixel_purifiers", "restormer_data", "snucv", "tcler"}
    assert having("several windows, or tiles for each base model") == {"snucv", "tcler"}
    assert {name for name in names(FOLDER) if name.startswith("dynet")} == having("degraded and masked areas")
    assert all(having(name) <= set(names(FOLDER)) for name in ROWS)
    teams = {"srcb", "snucv", "buptmm", "hmidenoise", "pixel_purifiers", "alwaysu", "tcler"}
    assert teams <= set().union(*map(having, ROWS))


def test_every_option_of_a_plan_is_a_practice_that_is_served():
    """What a recipe sets of a plan, but for its tiles and their blend, is found in it, and works from evaluation on."""
    tiles = {*Tiling.model_fields, "weight"} - {"further_windows"}
    for name in names(FOLDER):
        sections = resolve(name, "full", FOLDER)
        plan = Inference.model_validate(sections["inference"])
        alone = sections | {"inference": Inference(tile=plan.tile, halo=0, overlap=0).model_dump()}
        chosen = {key for key, value in plan if key not in tiles and value != Inference.model_fields[key].default}
        gone = [each for each in PRACTICES if each.found(sections) and not each.found(alone)]
        assert len(gone) == len(chosen - {"members"} | ({"further_windows"} if "members" in chosen else set()))
        assert all(set(PLACES[1:]) <= set(each.works) for each in gone)


def test_what_works_not_everywhere_says_why():
    """A practice that is only trained, or only served, has its reason."""
    for practice in PRACTICES:
        assert practice.reason or practice.works == PLACES
