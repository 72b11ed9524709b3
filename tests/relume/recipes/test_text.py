"""The text of recipe.yaml, and what is said of its changes."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from relume.recipes.text import differences, dump

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=30,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_is_written_is_read_back(value):
    """In the order of its keys."""
    read = yaml.safe_load(dump(value))
    assert (read, list(read)) == (value, list(value))


def test_a_value_stands_in_full_wherever_it_is_used():
    """There are no references, and what fits stands on one line."""
    shared = {"kind": "noise", "sigma": [0, 55]}
    assert dump({"a": {"b": shared, "c": [shared, shared]}}) == (
        "a: {b: {kind: noise, sigma: [0, 55]}, c: [{kind: noise, sigma: [0, 55]}, {kind: noise, sigma: [0, 55]}]}\n"
    )
    assert dump({"a": {"phases": [{"steps": number} for number in range(9)]}}).startswith(
        "a:\n  phases:\n    - {steps: 0}\n"
    )


def test_differences_are_a_line_each():
    """Deep in the base models, coarse elsewhere; what is new comes from nothing."""
    before = {"curate": {"patch": 128}, "pretrain": {"bases": {"a": {"loss": "l1", "optimizer": {"lr": 1.0}}}}}
    after = {"curate": {"patch": 512}, "pretrain": {"bases": {"a": {"loss": "l1", "optimizer": {"lr": 2.0}}}}, "x": 1}
    assert list(differences(before, after)) == [
        "curate.patch  128 -> 512",
        "pretrain.bases.a.optimizer  {lr: 1.0} -> {lr: 2.0}",
        "x  nothing -> 1",
    ]
