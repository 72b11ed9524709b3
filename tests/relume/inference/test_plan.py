"""How a model restores: what fits together, and smaller tiles for smaller photographs."""

import pytest
from pydantic import ValidationError

from relume.inference.plan import Inference, before_format_3
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
    ],
)
def test_the_runs_of_a_megapixel_are_those_that_are_counted(inference):
    """On an image of 400 megapixels, each of whose tiles is restored in every orientation."""
    counted = inference.orientations * count_tiles(20_000, 20_000, inference) / 400
    assert inference.runs_per_megapixel == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(("orientations", "dtype"), [(1, "uint8"), (2, "float32"), (8, "float32")])
def test_tiles_are_float_where_a_mean_is_taken(orientations, dtype):
    """Else they are the 8 bits that cost least."""
    assert Inference(tile=64, halo=8, overlap=4, orientations=orientations).dtype == dtype
