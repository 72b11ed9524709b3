"""A sample of the damages to images; `make abuse` does them all."""

import pytest

from tests.abuse.images import UNDAMAGED, attack
from tests.abuse.rows import Setting


@pytest.mark.slow
def test_no_damaged_image_ends_a_step_or_takes_more_than_its_header_says(tmp_path):
    """Each is refused with its reason or read, alone and beside undamaged ones, which come out as they were."""
    rows = {row.kind: row for row in attack(Setting(folder=tmp_path))}
    assert not [(row.kind, sentence) for row in rows.values() for sentence in row.wrong]
    assert rows[UNDAMAGED].survived == rows[UNDAMAGED].tried > 30
    assert sum(row.refused for row in rows.values()) > 100
