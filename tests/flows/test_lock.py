import pytest

from flows.lock import LockFileError, entry_of, merge

LOCK = """\
schema: '2.0'
stages:
  late:
    cmd: python -m components.late
    params:
      params.yaml:
        rate: 1e-06
        most: 1e+20
        sigmas:
          15: 2.5
        word: yes
  gone:
    cmd: python -m components.gone
  early:
    cmd: python -m components.early
"""


def test_entries_keep_their_values_and_form():
    """What is taken out of a lock file and merged into another is there as it was, integer keys and floats included."""
    merged = merge("", [entry_of(LOCK, "late")], ["late"])
    assert merged == LOCK[: LOCK.index("  gone")]


def test_stages_stand_in_the_order_of_the_graph():
    """Merging sorts in graph order; an entry whose stage is no longer in the graph stands last."""
    merged = merge(LOCK, [], ["early", "late"])
    assert merged.index("  early:") < merged.index("  late:") < merged.index("  gone:")


def test_a_new_entry_takes_the_place_of_the_old():
    """The entry of a stage that ran again replaces the one it had."""
    merged = merge(LOCK, ["early:\n  cmd: new\n"], ["early", "late", "gone"])
    assert "cmd: new" in merged
    assert "components.early" not in merged


def test_a_broken_lock_file_is_named():
    """YAML that does not parse is a LockFileError with the way back."""
    with pytest.raises(LockFileError, match=r"remove it and run `relume pipeline run`"):
        merge("stages: [", [], [])
