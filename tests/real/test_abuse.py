"""A sample of the attacks on servers and running commands; `make abuse` does them all."""

import pytest

from tests.abuse import kills, packages, requests
from tests.abuse.rows import Setting

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", [packages, requests, kills], ids=lambda family: family.FAMILY)
def test_the_platform_withstands_a_sample(family, tmp_path):
    """Broken packages and hostile requests are refused beside what serves; a killed release is repaired."""
    rows = list(family.attack(Setting(folder=tmp_path)))
    assert not [(row.kind, sentence) for row in rows for sentence in row.wrong]
    assert sum(row.refused + row.survived for row in rows) == sum(row.tried for row in rows) > 0
