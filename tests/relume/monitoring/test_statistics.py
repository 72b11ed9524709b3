"""The numbers of a request, against images whose numbers are known."""

import numpy as np
import pytest

from relume.inference.plan import Inference
from relume.monitoring.statistics import measure_request

PLAN = Inference(tile=128, halo=16, overlap=8)


def flat(height=600, width=500, value=100):
    return np.full((height, width, 3), value, np.uint8)


def noisy(sigma, height=600, width=500, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, (height, width, 3))
    return np.clip(np.rint(128 + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [5, 20])
def test_noise_and_what_is_removed(sigma):
    """Of noise that is all taken away, both are its standard deviation in the luma of ITU-R BT.601."""
    before = noisy(sigma)
    found = measure_request(before, flat(value=128), PLAN, seconds=1.5)
    in_luma = sigma * np.linalg.norm([0.299, 0.587, 0.114])
    assert found.removed == pytest.approx(in_luma, rel=0.02)
    assert found.noise == pytest.approx(in_luma, rel=0.1)
    assert found.seconds == pytest.approx(1.5 / 0.3)
    assert abs(found.seams) < 0.25


def test_clipped_pixels_are_counted():
    """A pixel counts once, whichever channels are black or white."""
    before = flat()
    before[:60, :, 0] = 255
    before[:30, :, 1] = 0
    assert measure_request(before, before, PLAN, seconds=1).clipped == pytest.approx(0.1)


@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_that_disagree_are_seen(transposed):
    """A step of 6 levels at one of the six borders, blended over the overlap, is a seam of 1 level in the mean; a step
    elsewhere is none at all."""
    before = noisy(4)

    def with_step(place):
        levels = np.interp(np.arange(600), [place - 1, place + PLAN.overlap], [0, 6])
        after = before + np.rint(levels)[:, None, None].astype(np.uint8)
        return (before.swapaxes(0, 1), after.swapaxes(0, 1)) if transposed else (before, after)

    borders = [88 * number + PLAN.halo for number in range(1, 6)]
    at_border = measure_request(*with_step(borders[2]), PLAN, seconds=1).seams
    assert at_border == pytest.approx(1, rel=0.1)
    assert abs(measure_request(*with_step(borders[2] + 44), PLAN, seconds=1).seams) < 0.1


def test_depths_give_the_same_numbers():
    """16 bits and floating point are measured as the 8-bit image that they show."""
    before, after = noisy(8), flat(value=128)
    as_8 = measure_request(before, after, PLAN, seconds=1)
    assert measure_request(before.astype(np.uint16) * 257, after.astype(np.uint16) * 257, PLAN, seconds=1) == as_8
    as_float = measure_request(
        before.astype(np.float32) / np.float32(255), after.astype(np.float32) / np.float32(255), PLAN, seconds=1
    )
    assert as_float == as_8


def test_only_the_centre_is_measured():
    """What is far from the centre of a large image changes nothing, so that the time is bounded."""
    before = noisy(10, 1500, 1400)
    changed = before.copy()
    changed[:200] = 0
    one, other = (measure_request(image, image, PLAN, seconds=1) for image in (before, changed))
    assert one == other


def test_an_image_without_room_for_an_estimate():
    """There are no numbers of an image of 33 pixels."""
    assert measure_request(flat(33, 500), flat(33, 500), PLAN, seconds=1) is None
    assert measure_request(flat(34, 34), flat(34, 34), PLAN, seconds=1) is not None


@pytest.mark.parametrize("height", [100, 600])
def test_an_enlarged_image_is_measured_in_the_pixels_that_were_sent(height):
    """Doubled pixels change nothing, in the centre of a large image as in a small one; what is taken away is found."""
    before, twice = noisy(10, height), PLAN.model_copy(update={"scale": 2})
    same = measure_request(before, before, PLAN, seconds=1)
    doubled = before.repeat(2, axis=0).repeat(2, axis=1)
    assert measure_request(before, doubled, twice, seconds=1) == same
    smooth = measure_request(before, flat(2 * height, 1000, value=128), twice, seconds=1)
    assert smooth.removed == measure_request(before, flat(height, value=128), PLAN, seconds=1).removed > 5
