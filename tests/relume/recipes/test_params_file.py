"""params.yaml is edited by sections: the others keep their meaning and their letters, or nothing is written."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.errors import ConfigError
from relume.recipes.params_file import with_sections

SECTIONS = {"recipe": {"name": "nafnet"}, "training": {"seed": 2}, "mine_hard": {"draws": 3}, "curate": {"patch": 64}}
# What recipes give, in several writings.
TRAINING = st.sampled_from(["training: {seed: 1}\n", "'training':\n  seed: 1\n", "training: # all\n\n  seed: 1\n"])
CURATE = st.sampled_from(['"curate": {patch: 8, stride: 4}\n', "curate:\n  patch: 8  # pixels\n\n  stride: 4\n"])
OWN_KEYS = ["my-own", "'my own'", '"a: b"', "7", "a.b", "größe", "trainings", "null", "2024-01-01", "a b"]
OWN_VALUES = [
    "{seed: 1}\n",
    "\n  seed: 1 # mine\n  # below\n",
    "\n- one\n- two\n",
    "\n",
    "|\n  training: 1\n\n  text\n",
    '"one\n\n  two"\n',
    "[1,\n# within\n2]\n",
    ".nan\n",
    "!!str 3\n",
    "{training: {seed: 3}}\n",
]
COMMENTS = st.sampled_from(["", "# about\n", "\n", "\n# one\n\n# two\n"])


@st.composite
def params(draw):
    """A text of params.yaml: its header, its parts in any order, and those that no recipe gives."""
    keys = draw(st.lists(st.sampled_from(OWN_KEYS), max_size=4, unique=True))
    own = [draw(COMMENTS) + f"{key}: " + draw(st.sampled_from(OWN_VALUES)) for key in keys]
    others = [draw(COMMENTS) + draw(CURATE)] + ([draw(COMMENTS) + draw(TRAINING)] if draw(st.booleans()) else [])
    parts = draw(st.permutations([*own, *others]))
    header = draw(st.sampled_from(["", "---\n", "# knobs\n--- # of all\n", "%YAML 1.1\n---\n"]))
    end = draw(st.sampled_from(["", "# the end\n", "# the end"]))
    return header, [part for part in parts if part in own], header + "".join(parts) + end


@settings(deadline=None)
@given(params(), st.booleans())
def test_other_sections_stay_to_the_letter(drawn, cut):
    """Whatever stands around them: recipes' sections mean what was asked for, all others are as they were."""
    header, own, text = drawn
    text = text.removesuffix("\n") if cut else text
    before, after = yaml.safe_load(text), with_sections(text, SECTIONS)
    found = yaml.safe_load(after)
    assert after.startswith(header)
    place = 0
    for part in own:  # in their order, with the comments above them
        assert part.rstrip("\n") in after[place:]
        place = after.index(part.rstrip("\n"), place)
    wanted = before | SECTIONS | {"curate": before["curate"] | SECTIONS["curate"]}
    assert {name: repr(value) for name, value in found.items()} == {n: repr(value) for n, value in wanted.items()}
    assert with_sections(after, SECTIONS) == after


@pytest.mark.parametrize("key", ["my-own", "'my own'", '"my own"', "my.own"])
def test_a_section_of_any_name_outlives_the_owned_one_above_it(key):
    """A key that is no word is a section too."""
    after = with_sections(f"training: {{seed: 1}}\n{key}: {{a: 1}}\n", {"training": {"seed": 2}})
    assert after == f"training: {{seed: 2}}\n{key}: {{a: 1}}\n"


def test_a_document_may_be_marked():
    """A new first section goes after the marker, and the comment stays with its own."""
    after = with_sections("%YAML 1.1\n---\n# shared\ntraining: {seed: 1}\n", {"recipe": {"name": "x"}})
    assert after == "%YAML 1.1\n---\nrecipe: {name: x}\n# shared\ntraining: {seed: 1}\n"


@pytest.mark.parametrize("text", ["other: {a: 1}", "other: {a: 1}\n"])
def test_an_appended_section_has_its_own_line(text):
    """With or without a newline at the end of the file."""
    assert with_sections(text, {"training": {"seed": 2}}) == "other: {a: 1}\ntraining: {seed: 2}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: &all {seed: 1}\nmine: *all\n", "undefined alias 'all'"),
        ("mine: &all {patch: 8}\ncurate: {<<: *all}\n", "undefined alias"),
        ("mine: |+\n  text\n\ntraining: {seed: 1}\n", "mine would mean something else"),
        ("training: {seed: 1}\nmine: 1\ntraining: {seed: 3}\n", "training is there twice"),
        ("  training: {seed: 1}\n  mine: 1\n", "start of line 1"),
        ("? training\n: {seed: 1}\n", "start of line 1"),
        ("{training: {seed: 1}, mine: 1}\n", "no list of sections"),
        ("- training\n", "no list of sections"),
        ("training: {seed: 1}\n---\nmine: 1\n", "expected a single document"),
        ("mine: 1\n...\n", "document"),
        ("training: {seed: 1\n", "expected ','"),
        ("training: {seed: 1}\n[1, 2]: 3\n", "unhashable"),
        ("mine: |\n  text", "mine would mean(.|\n)*with a newline"),
        ("curate: 3\n", r"curate\.patch"),
        ("", r"curate\.patch"),
    ],
)
def test_what_cannot_be_kept_is_refused(text, said):
    """A text whose other sections would change their meaning, or that has no sections to replace."""
    with pytest.raises(ConfigError, match=said):
        with_sections(text, SECTIONS if "curate" in text or not text else {"recipe": {"name": "x"}, "training": {}})
