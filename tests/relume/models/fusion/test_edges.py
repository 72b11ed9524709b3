"""Edge fusion: which pixels count as edges, and where they come from."""

import numpy as np
import pytest

from relume.models.fusion.edges import edges_of, fuse_edges, join_edges


@pytest.fixture
def results():
    """Two results with one common edge at column 20, and one more in the second at row 30."""
    restormer = np.full((48, 40, 3), 0.2, np.float32)
    restormer[:, 20:] = 0.8
    hat = restormer + 0.05
    hat[30:] += 0.5 * (hat[30:] < 0.5)
    return restormer, hat


def test_edges_lie_at_the_step():
    """A step of 150 levels gives one line of edge pixels at the step, a flat image none."""
    picture = np.full((20, 30, 3), 0.2)
    assert not edges_of(picture).any()
    picture[:, 15:] = 0.8
    columns = np.unique(np.nonzero(edges_of(picture))[1])
    assert len(columns) == 1
    assert columns[0] in (14, 15)


def test_gray_and_out_of_range_values():
    """A gray image has the edges of its RGB copy; values outside [0, 1] count as clipped."""
    gray = np.random.default_rng(0).random((30, 30, 1))
    assert np.array_equal(edges_of(gray), edges_of(np.repeat(gray, 3, axis=2)))
    assert not edges_of(np.where(gray > 0.5, 1.0, 3.0)).any()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("union", [0, 1, 1, 1]),
        ("restormer_only", [0, 1, 0, 0]),
        ("hat_only", [0, 0, 1, 0]),
        ("xor", [0, 1, 1, 0]),
    ],
)
def test_truth_table(mask, expected):
    """Each way of joining two edge maps has its truth table."""
    restormer, hat = np.array([[0, 1, 0, 1]], bool), np.array([[0, 0, 1, 1]], bool)
    assert join_edges(restormer, hat, mask).tolist() == [[bool(value) for value in expected]]


@pytest.mark.parametrize("mask", ["union", "restormer_only", "hat_only", "xor"])
def test_edge_pixels_come_from_hat_and_the_others_from_the_mean(results, mask):
    """Pixel by pixel the result is HAT's at an edge of the joined map, and the mean elsewhere."""
    restormer, hat = results
    edges = join_edges(edges_of(restormer), edges_of(hat), mask)
    assert edges.any() or mask == "restormer_only"
    expected = np.where(edges[:, :, None], hat, (restormer + hat) / 2)
    fused = fuse_edges(restormer, hat, mask=mask)
    assert fused.dtype == np.float32
    np.testing.assert_allclose(fused, expected, atol=1e-6)


def test_dilation_and_feather_widen_and_soften(results):
    """Dilation by k takes k more pixels to each side; feathering gives weights between the mean and HAT's."""
    restormer, hat = results
    share = (fuse_edges(restormer, hat, mask="xor", dilation=2) - (restormer + hat) / 2) / ((hat - restormer) / 2)
    hard = join_edges(edges_of(restormer), edges_of(hat), "xor")
    wide = np.zeros_like(hard)
    for y, x in zip(*np.nonzero(hard), strict=True):
        wide[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    np.testing.assert_allclose(share[:, :, 0], wide, atol=1e-4)
    soft = (fuse_edges(restormer, hat, feather=1.5) - (restormer + hat) / 2) / ((hat - restormer) / 2)
    assert float(soft.min()) > -1e-4
    assert ((soft > 0.05) & (soft < 0.95)).any()


def test_equal_results_stay_as_they_are():
    """Two equal results give that result, whatever its edges."""
    picture = np.random.default_rng(1).random((33, 21, 3)).astype(np.float32)
    for mask in ("union", "xor"):
        np.testing.assert_allclose(fuse_edges(picture, picture, mask=mask), picture, atol=1e-7)
