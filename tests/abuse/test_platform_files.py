"""A sample of the damages to the files of the platform; `make abuse` does them all."""

import pytest

from tests.abuse.platform_files import attack
from tests.abuse.rows import Setting


@pytest.mark.slow
def test_no_damaged_file_ends_in_a_traceback_a_hang_or_silence(tmp_path):
    """Each kind of file is damaged in some ways; what reads it refuses by name, or names it and goes on."""
    rows = list(attack(Setting(folder=tmp_path)))
    assert not [(row.kind, sentence) for row in rows for sentence in row.wrong]
    assert len(rows) > 25
    assert all(
        row.refused
        for row in rows
        if not row.kind.startswith(("services/", "config.yaml", "params.yaml", "recipe.yaml"))
    )
