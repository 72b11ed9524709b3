"""A sample of the full and read-only disks; `make abuse` does them all."""

import pytest

from tests.abuse.disks import attack
from tests.abuse.rows import Setting


@pytest.mark.slow
def test_no_full_or_read_only_disk_ends_in_a_traceback_or_half_a_file(tmp_path):
    """Each command names the disk's trouble and the place, and what stood there stands; or it has room for its work."""
    rows = list(attack(Setting(folder=tmp_path)))
    assert not [(row.kind, sentence) for row in rows for sentence in row.wrong]
    assert sum(row.refused for row in rows if ", full " in row.kind) >= 6
