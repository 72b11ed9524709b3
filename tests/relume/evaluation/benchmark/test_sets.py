"""Sets are found where the user says, and what is wrong with one is said."""

import numpy as np
import pytest

from relume.errors import SourceError
from relume.evaluation.benchmark.protocols import PROTOCOLS
from relume.evaluation.benchmark.sets import SETS, open_set
from relume.images import save_image


def write(path, value, size=(12, 14)):
    """An image of one value."""
    save_image(path, np.full((*size, 3), value, np.uint8))


def test_a_set_that_is_not_there_says_where_it_was_looked_for(tmp_path):
    """The message names the path below the folder, and how to name another one."""
    with pytest.raises(SourceError, match="RELUME_DATA") as caught:
        open_set("cbsd68", tmp_path)
    assert str(tmp_path / "cbsd68") in str(caught.value)


def test_without_a_folder_it_says_how_to_name_one():
    """A benchmark set needs --data or the variable."""
    with pytest.raises(SourceError, match="--data"):
        open_set("cbsd68", None)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    """What is neither a set nor a folder is refused with the names that there are."""
    with pytest.raises(SourceError, match="kodak24"):
        open_set("kodak", tmp_path)


def test_a_known_set_has_its_facts(tmp_path):
    """Found in any case of its name; a gray set is read as one channel, and files that are no images are left out."""
    write(tmp_path / "Set12" / "02.png", 20)
    write(tmp_path / "Set12" / "01.webp", 10)
    (tmp_path / "Set12" / "LICENSE.txt").write_text("terms")
    images = open_set("set12", tmp_path)
    examples = list(images.examples())
    assert [(example.image_id, example.clean.shape) for example in examples] == [
        ("01", (12, 14, 1)),
        ("02", (12, 14, 1)),
    ]
    assert [example.image_id for example in images.examples(1)] == ["01"]


def test_own_images_are_clean_ones(tmp_path):
    """A folder of images is a set of its name, for the product's protocol."""
    write(tmp_path / "holiday" / "sea.jpg", 99)
    images = open_set(str(tmp_path / "holiday"), None)
    assert (images.name, images.protocol, images.pairs) == ("holiday", "awgn-clipped", None)
    assert next(images.examples()).degraded is None


def test_own_pairs(tmp_path):
    """The subfolders noisy and clean make pairs by file name, whatever the suffix."""
    write(tmp_path / "clean" / "a.png", 100)
    write(tmp_path / "noisy" / "a.webp", 110)
    images = open_set(str(tmp_path), None)
    (example,) = images.examples()
    assert images.protocol == "paired"
    assert example.clean.mean() == 100
    assert example.degraded.mean() == pytest.approx(110, abs=1)


def test_an_incomplete_pair_is_refused(tmp_path):
    """A clean image without its degraded one, and one of another size."""
    write(tmp_path / "clean" / "a.png", 100)
    (tmp_path / "noisy").mkdir()
    with pytest.raises(SourceError, match="missing"):
        list(open_set(str(tmp_path), None).examples())
    write(tmp_path / "noisy" / "a.png", 100, size=(12, 15))
    with pytest.raises(SourceError, match="15x12"):
        list(open_set(str(tmp_path), None).examples())


@pytest.mark.parametrize("name", ["x", "x.1", "[x]", "x*"])
def test_pairs_are_those_of_the_same_whole_name(tmp_path, name):
    """Dots, brackets and stars are part of a name, and a name that goes on is another one."""
    write(tmp_path / "clean" / f"{name}.png", 100)
    write(tmp_path / "noisy" / f"{name}.0.png", 50)
    with pytest.raises(SourceError, match="missing"):
        list(open_set(str(tmp_path), None).examples())
    write(tmp_path / "noisy" / f"{name}.webp", 110)
    (example,) = open_set(str(tmp_path), None).examples()
    assert example.degraded.mean() == pytest.approx(110, abs=1)


@pytest.mark.parametrize("folder", ["noisy", "clean"])
def test_two_images_of_one_name_are_refused(tmp_path, folder):
    """Neither which of them makes the pair nor whose figure it is could be told; both are named."""
    for path in ("noisy/a.png", "clean/a.png", f"{folder}/a.JPG"):
        write(tmp_path / path, 100)
    with pytest.raises(SourceError, match=r"a\.JPG and a\.png"):
        list(open_set(str(tmp_path), None).examples())
    with pytest.raises(SourceError, match="Two images have the same name"):
        list(open_set(str(tmp_path / folder), None).examples())


def test_an_empty_set_is_refused(tmp_path):
    """A folder without images, and one of pairs without its parts."""
    (tmp_path / "cbsd68").mkdir()
    with pytest.raises(SourceError, match="suffix"):
        open_set("cbsd68", tmp_path)
    (tmp_path / "polyu_dev" / "noisy").mkdir(parents=True)
    with pytest.raises(SourceError, match="no folder clean"):
        open_set("polyu_dev", tmp_path)


def test_every_set_is_made_for_a_protocol_that_exists():
    """And those made of pairs are for the pairs."""
    assert {entry.protocol for entry in SETS.values()} <= set(PROTOCOLS)
    assert all((entry.pairs is None) == (entry.protocol != "paired") for entry in SETS.values())
