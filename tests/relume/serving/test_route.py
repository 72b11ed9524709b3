"""Which release restores an image while a candidate is tried."""

import pytest

from relume.serving.route import Route, route_of

IDS = [f"image-{number}" for number in range(20_000)]


@pytest.mark.parametrize("percent", [0, 0.5, 5, 50, 100])
def test_shares_are_those_that_were_asked_for(percent):
    """Of 20,000 images, within four standard deviations; canary and shadow are drawn apart."""
    route = Route(champion="a", candidate="b", canary=percent, shadow=percent)
    spread = 4 * (percent / 100 * (1 - percent / 100) / len(IDS)) ** 0.5
    canary = {name for name in IDS if route.release(name) == "b"}
    shadow = {name for name in IDS if route.shadow_of(name) == "b"}
    assert len(canary) / len(IDS) == pytest.approx(percent / 100, abs=spread)
    assert len(shadow) / len(IDS) == pytest.approx(percent / 100, abs=spread)
    both = len(canary & shadow) / len(IDS)
    assert both == pytest.approx((percent / 100) ** 2, abs=0.02)


def test_an_image_stays_where_it_is():
    """With its id alone; and one of a small canary is in every larger one, so that no image goes back and forth."""
    small, large = (Route(champion="a", candidate="b", canary=percent) for percent in (5, 20))
    chosen = [name for name in IDS if small.release(name) == "b"]
    assert chosen == [name for name in IDS if small.release(name) == "b"]
    assert {large.release(name) for name in chosen} == {"b"}


def test_the_champion_serves_all_others():
    """Images without an id, and all of them when nothing is tried."""
    assert Route(champion="a", candidate="b", canary=100).release(None) == "a"
    alone = Route(champion="a")
    assert (alone.release("image-1"), alone.shadow_of("image-1")) == ("a", None)


@pytest.mark.parametrize(
    "route",
    [
        Route(champion="a"),
        Route(champion="a", candidate="b", canary=2.5, shadow=10),
        Route(champion="a", candidate="b"),
    ],
)
def test_what_is_written_is_read(route):
    """As parameters of a configuration."""
    assert route_of("a", route.parameters()) == route
