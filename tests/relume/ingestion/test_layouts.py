"""The layouts of pairs: which files belong together by their names."""

import pytest

from relume.errors import SourceError
from relume.ingestion.layouts import Pair, find_pairs, read_pairs


@pytest.mark.parametrize(
    ("layout", "degraded", "clean", "kind"),
    [
        ("polyu", "noisy/Canon_desk_1.jpg", "clean/Canon_desk_1.png", "noise"),
        ("polyu", "CroppedImages/Canon_desk_1_real.JPG", "CroppedImages/Canon_desk_1_mean.JPG", "noise"),
        ("sidd", "Data/0001_001_S6/0001_NOISY_SRGB_010.PNG", "Data/0001_001_S6/0001_GT_SRGB_010.PNG", "noise"),
        ("gopro", "train/GOPR0372_07_00/blur/000047.png", "train/GOPR0372_07_00/sharp/000047.png", "blur"),
        ("rain100", "rain/1.png", "clean/1.png", "rain"),
        ("rain100", "rainy/rain-001.png", "norain-001.png", "rain"),
        ("rain100", "test/rainy/rain-1.png", "test/gt/norain-1.png", "rain"),
        ("rain100", "Light/rain/X2/norain-001x2.png", "Light/norain/norain-001.png", "rain"),
        ("sots", "outdoor/hazy/0001_0.8_0.2.jpg", "outdoor/gt/0001.png", "haze"),
        ("sots", "indoor/hazy/1400_1.png", "indoor/gt/1400.png", "haze"),
        ("sots", "ITS/train/hazy/1_1_0.90179.png", "ITS/train/clear/1.png", "haze"),
        ("sots", "OTS/hazy/part1/0005_0.8_0.04.jpg", "OTS/clear/0005.jpg", "haze"),
        ("sots", "OTS/haze/OTS/0005_0.8_0.04.jpg", "OTS/clear/clear_images/0005.jpg", "haze"),
        ("folders", "set/degraded/1.png", "set/clean/1.png", ""),
        ("folders", "blur/1.png", "sharp/1.png", "blur"),
        ("folders", "set/Noisy/1.png", "set/clean/1.png", "noise"),
        ("rain/*|dry/*", "rain/7.png", "dry/7.jpg", "rain"),
        ("input/*|target/*", "input/7.png", "target/7.jpg", ""),
        ("*_dark_*|*_light_*", "b/1_dark_a.png", "b/1_light_a.png", ""),
    ],
)
def test_files_of_the_published_sets_are_paired(layout, degraded, clean, kind):
    """The names that the sets are published with are one pair; other files beside them are left alone."""
    assert find_pairs(layout, [clean, "blur_gamma/9.png", degraded]) == ([Pair(degraded, clean, kind)], [])


def test_equal_names_in_two_scenes_are_two_pairs():
    """The scene belongs to the name of a pair: frame 1 of one scene is not the sharp one of another."""
    names = [f"{scene}/{side}/1.png" for scene in "ab" for side in ("blur", "sharp")]
    assert find_pairs("gopro", names)[0] == [Pair(f"{s}/blur/1.png", f"{s}/sharp/1.png", "blur") for s in "ab"]


def test_several_hazy_images_share_a_clean_one():
    """Each hazy image of SOTS is a pair of its own with the same clean image; elsewhere that is ambiguous."""
    pairs, alone = find_pairs("sots", ["hazy/1_2.png", "hazy/1_1.png", "gt/1.png"])
    assert pairs == [Pair(f"hazy/1_{n}.png", "gt/1.png", "haze") for n in (1, 2)]
    assert not alone
    pairs, alone = find_pairs("polyu", ["noisy/1.png", "noisy/1.jpg", "clean/1.png"])
    assert not pairs
    assert {file.name: file.reason for file in alone} == dict.fromkeys(
        ("noisy/1.png", "noisy/1.jpg", "clean/1.png"), "ambiguous_pair"
    )


def test_a_missing_partner_is_named():
    """A file of either side alone is reported with what is missing."""
    pairs, alone = find_pairs("gopro", ["blur/1.png", "sharp/1.png", "blur/2.png", "sharp/3.png"])
    assert [pair.clean for pair in pairs] == ["sharp/1.png"]
    assert {file.name: (file.reason, file.problem) for file in alone} == {
        "blur/2.png": ("missing_partner", "its clean image is missing"),
        "sharp/3.png": ("missing_partner", "its degraded image is missing"),
    }


def test_a_table_names_pairs():
    """A row is a pair, a header is not; a row of another length is refused by its number."""
    table = b"degraded,clean\r\nin/b.png,out/b.png\nin/a.png,out/a.png\n\n"
    assert read_pairs(table, "t.csv") == [Pair(f"in/{n}.png", f"out/{n}.png") for n in "ab"]
    assert read_pairs(b"set/blur/a.png,b.png\n", "t.csv") == [Pair("set/blur/a.png", "b.png", "blur")]
    with pytest.raises(SourceError, match="row 2 has 1 columns"):
        read_pairs(b"a.png,b.png\nc.png\n", "t.csv")
    with pytest.raises(SourceError, match="no rows"):
        read_pairs(b"", "t.csv")


def test_a_pattern_takes_its_letters_as_they_are():
    """A point is no wildcard, and what fits no pattern is in no pair; only a partner under the same text is one."""
    pairs, alone = find_pairs("a.b/*|c/*", ["a.b/1.png", "axb/2.png", "c/1.png", "c/3.png"])
    assert pairs == [Pair("a.b/1.png", "c/1.png")]
    assert [file.name for file in alone] == ["c/3.png"]


def test_a_file_that_fits_both_patterns_is_of_the_side_that_says_more():
    """Where one side has the bare name, what has the other's ending is of that other side."""
    assert find_pairs("*|*_gt", ["x.1.png", "x.1_gt.png"]) == ([Pair("x.1.png", "x.1_gt.png")], [])
    assert find_pairs("*_in|*", ["1_in.png", "1.png"]) == ([Pair("1_in.png", "1.png")], [])


def test_patterns_that_do_not_fit_are_refused():
    """Both sides need as many `*`, or nobody could say which texts are to be equal."""
    with pytest.raises(SourceError, match="one has 2 `\\*` and the other 1"):
        find_pairs("*/dark/*|light/*", ["a/dark/1.png"])
