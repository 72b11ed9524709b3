"""How a model restores: what fits together, and smaller tiles for smaller photographs."""

import pytest
from pydantic import ValidationError

from relume.inference.plan import EdgeFusion, Inference, Tiling, Window, before_format_3
from relume.inference.tiling import count_tiles, cover_axis
from relume.models.registry import build, variants
from relume.training.rules import crop_multiple


@pytest.mark.parametrize(
    "values",
    [
        {"tile": 25, "halo": -1, "overlap": 0},
        {"tile": 25, "halo": 12, "overlap": 1},
        {"tile": 25, "halo": 0, "overlap": 25},
        {"tile": 25, "halo": 10, "overlap": 5},
        {"tile": 0, "halo": 0, "overlap": 0},
        {"tile": 25, "halo": 1, "overlap": 1, "weight": "hann"},
    ],
)
def test_what_leaves_nothing_of_a_tile_is_refused(values):
    """At the latest where the pitch is 0."""
    with pytest.raises(ValidationError):
        Inference(**values)


def test_the_least_pitch():
    """One pixel from tile to tile still covers an image."""
    assert cover_axis(30, Inference(tile=25, halo=10, overlap=4)).starts == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("halo", "overlap"), [(0, 0), (1, 1), (8, 4), (25, 13), (32, 16)])
def test_older_served_models_overlapped_by_half_of_their_halo(halo, overlap):
    """Rounded up, blended linearly."""
    assert before_format_3(256, halo) == Inference(tile=256, halo=halo, overlap=overlap, weight="linear")


@pytest.mark.parametrize(
    ("size", "tile", "halo", "overlap"),
    [
        ((400, 400), 192, 16, 8),
        ((192, 500), 192, 16, 8),
        ((191, 500), 176, 16, 8),
        ((100, 60), 48, 16, 8),
        ((40, 40), 32, 0, 0),
        ((9, 9), 192, 16, 8),
    ],
)
def test_a_tile_within_a_photograph(size, tile, halo, overlap):
    """Cut to a multiple of 16 pixels, without halo and overlap where these leave no room."""
    expected = Inference(tile=tile, halo=halo, overlap=overlap, weight="cosine")
    assert Inference(tile=192, halo=16, overlap=8, weight="cosine").within(*size) == expected


@pytest.mark.parametrize("name", [name for name in variants() if name.endswith("-demo")])
def test_a_cut_tile_suits_every_family(name):
    """No network needs more than a multiple of 16."""
    assert 16 % crop_multiple(build(variants()[name].architecture, variants()[name].arguments)) == 0


@pytest.mark.parametrize(
    "inference",
    [
        Inference(tile=192, halo=16, overlap=8),
        Inference(tile=256, halo=0, overlap=50, orientations=8),
        Inference(tile=64, halo=0, overlap=12, further_windows=(Window(tile=96, halo=4, overlap=16),)),
        Inference(tile=64, halo=8, overlap=4, passes=3, orientations=2),
    ],
)
def test_the_runs_of_a_megapixel_are_those_that_are_counted(inference):
    """On an image of 400 megapixels, each of whose tiles is restored in every orientation; by their pixels."""
    tiles = sum(count_tiles(20_000, 20_000, window) * window.tile**2 for window in inference.windows)
    counted = inference.orientations * inference.passes * tiles / inference.tile**2 / 400
    assert inference.runs_per_megapixel == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(("orientations", "dtype"), [(1, "uint8"), (2, "float32"), (8, "float32")])
def test_tiles_are_float_where_a_mean_is_taken(orientations, dtype):
    """Else they are the 8 bits that cost least."""
    assert Inference(tile=64, halo=8, overlap=4, orientations=orientations).dtype == dtype


def test_what_has_one_window_is_written_as_ever():
    """What serving.json, the packages and their hashes held before there were several."""
    plan = Inference(tile=64, halo=8, overlap=4)
    assert list(plan.model_dump()) == ["tile", "halo", "overlap", "weight", "orientations"]


def test_several_windows():
    """They share weight and orientations; tiles are float, each size is one graph, and all are cut to an image."""
    further = [{"tile": 96, "halo": 0, "overlap": 16}, {"tile": 64, "halo": 8, "overlap": 4}]
    plan = Inference(tile=64, halo=0, overlap=12, weight="cosine", further_windows=further)
    assert plan.windows == tuple(
        Inference(weight="cosine", **each) for each in [{"tile": 64, "halo": 0, "overlap": 12}, *further]
    )
    assert (plan.tiles, plan.dtype) == ((64, 96), "float32")
    assert Inference.model_validate_json(plan.model_dump_json(), strict=True) == plan
    assert plan.within(70, 90).tiles == (64,)
    with pytest.raises(ValidationError, match="nothing is left of a tile"):
        Inference(tile=64, halo=0, overlap=12, further_windows=({"tile": 32, "halo": 16, "overlap": 0},))


OWN = {"mamba": Tiling(tile=96, halo=0, overlap=16), "prompt": None, "other": None}


def test_members_with_their_own_tiles():
    """Those without are one part, the sum of whose places and the others' is all; a run counts by the share of each."""
    plan = Inference(tile=64, halo=0, overlap=16, members=OWN, orientations=2)
    together, mamba = plan.parts
    assert [(part.name, part.places, part.results, part.plan.tiles) for part in (together, mamba)] == [
        ("", (1, 2), 1, (64,)),
        ("mamba", (0,), 1, (96,)),
    ]
    assert (plan.graphs, plan.tiles, plan.dtype) == ((("", 64), ("mamba", 96)), (64, 96), "float32")
    assert plan.of_base("mamba").tiles == (96,)
    assert plan.of_base("prompt").tiles == (64,)
    tiles = 2 / 3 * (1000 / 48) ** 2 + 1 / 3 * (1000 / 80) ** 2 * (96 / 64) ** 2
    assert plan.runs_per_megapixel == pytest.approx(2 * tiles)
    assert Inference.model_validate_json(plan.model_dump_json(), strict=True) == plan
    assert plan.within(70, 70).tiles == (64,)
    assert "; mamba of 96 pixels, halo 0, overlap 16" in str(plan)


@pytest.mark.parametrize(
    ("members", "fusion"),
    [
        ({"a": None, "b": None}, None),
        ({"a": Tiling(tile=96, halo=0, overlap=16)}, None),
        ({"a": Tiling(tile=96, halo=0, overlap=16), "b": None}, EdgeFusion(smooth="a", detail="c")),
    ],
)
def test_members_that_do_not_fit_are_refused(members, fusion):
    """Where none has tiles of its own, or none those of the plan, or a fusion takes others."""
    with pytest.raises(ValidationError, match="members names"):
        Inference(tile=64, halo=0, overlap=16, members=members, fusion=fusion)
