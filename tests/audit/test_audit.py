"""What the audit makes of terms and of pip-audit's reports."""

import json

import pytest

from tests.audit import terms
from tests.audit.advisories import read

# As pip-audit 2.10.1 prints them.
COMPARED = {"name": "six", "version": "1.17.0", "vulns": []}
FAULT = {"id": "PYSEC-2023-1", "fix_versions": ["2.1"], "aliases": ["CVE-2023-1"], "description": "A fault"}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1.0)"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([COMPARED], 0, "1 package compared, 0 known faults"),
        ([COMPARED, COMPARED | {"vulns": [FAULT]}], 1, "six 1.17.0: PYSEC-2023-1, without it: 2.1"),
        ([COMPARED, SKIPPED], 3, "not compared, for the index has no advisories of them: own"),
        ([COMPARED | {"vulns": [FAULT | {"fix_versions": []}]}, SKIPPED], 1, "without it: none"),
    ],
)
def test_what_was_not_compared_is_not_taken_for_sound(packages, code, said):
    """pip-audit itself ends with 0 where it left packages out."""
    found = read(json.dumps({"dependencies": packages, "fixes": []}))
    assert found.exit_code == code
    assert said in str(found)


def test_the_terms_of_all_that_is_needed_are_known():
    """Permissive, of files alone, or read by a person; and no name is on that list for nothing."""
    needed = terms.needed(terms.DISTRIBUTED)
    assert {"torch", "mlflow", "prefect", "dvc", "kubernetes", "psycopg2-binary"} <= needed.keys()
    assert terms.unclear(needed) == {}
    assert terms.READ.keys() <= needed.keys()


def test_other_terms_are_found():
    """The reader of JPEG XL, of an extra that users choose, is under the GPL."""
    assert terms.unclear(terms.needed("relume[formats]")) == {"pillow-jxl-plugin": "GPL-3.0-or-later"}
