"""The comparison of the two paths to a restored image."""

import numpy as np
import pytest

from flows.release.served_parity import compare_paths, parity_images, require_parity
from relume.errors import ParityError
from relume.inference.plan import Inference
from tests.flows.release.synthetic import make_photographs
from tests.flows.release.test_gate import settings

INFERENCE = Inference(tile=64, halo=8, overlap=4)


def one_image(height: int = 100, width: int = 150) -> dict[str, np.ndarray]:
    """An image of noise."""
    return {"noise": np.random.default_rng(0).integers(0, 200, (height, width, 3), np.uint8)}


def test_equal_paths():
    """Paths that give the same bytes differ by nothing and are let through."""
    differences = compare_paths(lambda x: x, lambda x: x.copy(), one_image(), INFERENCE)
    assert (differences[0].max_difference, differences[0].tile_borders) == (0, 0.0)
    require_parity(differences, settings())


def test_one_level_everywhere_is_refused_by_psnr():
    """One level on every value keeps the largest difference, but its PSNR is 20 log10 255 = 48.13 dB."""
    differences = compare_paths(lambda x: x, lambda x: x + 1, one_image(), INFERENCE)
    assert differences[0].max_difference == 1
    assert differences[0].psnr == pytest.approx(48.13, abs=0.01)
    assert differences[0].worst_tile == 1.0
    with pytest.raises(ParityError, match=r"48\.1 dB, must be ≥ 60"):
        require_parity(differences, settings())


def test_one_wrong_pixel_is_refused_and_its_image_named():
    """A single value that is 40 levels off refuses, although the PSNR hardly sees it."""

    def wrong(x: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[3, 4, 1] += 40
        return y

    pictures = {"fine": np.zeros((600, 600, 3), np.uint8), **one_image()}
    differences = compare_paths(lambda x: x, lambda x: wrong(x) if x.any() else x, pictures, INFERENCE)
    with pytest.raises(ParityError, match="1 of 2 images differ, the worst is noise"):
        require_parity(differences, settings())


def test_borders_are_where_tiles_meet():
    """An error confined to the band where the first two tiles fade into each other shows in `tile_borders` alone."""
    # Tiles of 64 with halo 8 and overlap 4 have a pitch of 44: on a width of 100 they start at 0 and 36.
    # Both count where the second is past its halo and the first before its own: columns 44 to 55.
    band = np.zeros((64, 100, 3), np.uint8)
    band[:, 44:56] = 2
    beside = np.zeros((64, 100, 3), np.uint8)
    beside[:, 57:69] = 2
    picture = {"wide": np.zeros((64, 100, 3), np.uint8)}
    (at_border,) = compare_paths(lambda x: x, lambda x: x + band, picture, INFERENCE)
    (elsewhere,) = compare_paths(lambda x: x, lambda x: x + beside, picture, INFERENCE)
    assert at_border.tile_borders == 2.0
    assert elsewhere.tile_borders == 0.0


def test_images_are_noisy_photographs_of_several_sizes(tmp_path):
    """The images cover one tile, several tiles and less than a tile, each with noise, and a hard one."""
    pictures = parity_images(make_photographs(tmp_path / "test"), settings(), tile=INFERENCE.tile)
    sizes = {picture.shape[:2] for picture in pictures.values()}
    assert sizes == {(64, 64), (109, 147), (38, 90), (64, 65)}
    assert {picture.dtype for picture in pictures.values()} == {np.dtype(np.uint8)}
    assert len(pictures) == 7
