"""What photographs may be used for."""

import json

import pytest

from flows.release.licences import LicenceError, licences_of, require_allowed
from relume.errors import BrokenFileError
from relume.params import LicenceSettings

LISTING = json.dumps(
    {
        "sources": ["own=file:///photos", "polyu=polyu:file:///polyu", "s3://bucket/raw", "s3://bucket/raw/deep"],
        "files": [
            {"address": f"{place}/{name}.png", "bytes": 1, "hash": "x"}
            for place, count in (("file:///photos", 3), ("s3://bucket/raw", 1), ("s3://bucket/raw/deep", 2))
            for name in range(count)
        ],
    }
)
OWN = {"name": "my own", "commercial": True}
RESEARCH = {"name": "research only", "commercial": False}


def settings(commercial, **sources):
    return LicenceSettings(commercial=commercial, sources=sources)


def test_terms_are_found_by_set_place_or_source():
    """With the number of photographs of each, the nearest source of two that contain one another."""
    stated = {"own": OWN, "s3://bucket/raw": OWN, "polyu=polyu:file:///polyu": RESEARCH}
    rows = licences_of(LISTING, settings(False, **stated))
    assert [(row.photographs, row.licence, row.commercial) for row in rows] == [
        (3, "my own", True),
        (0, "research only", False),
        (1, "my own", True),
        (2, None, None),
    ]


def test_non_commercial_photographs_block_a_commercial_product():
    """As do those whose terms nobody stated; each is named. A product that is not commercial is none of this."""
    stated = settings(True, own=OWN, polyu=RESEARCH, **{"s3://bucket/raw": OWN})
    with pytest.raises(LicenceError, match=r"polyu:.*\(research only\); .*deep \(its terms are not stated\)") as error:
        require_allowed(licences_of(LISTING, stated), stated)
    assert error.value.exit_code == 2
    assert "own=" not in str(error.value)
    free = stated.model_copy(update={"commercial": False})
    require_allowed(licences_of(LISTING, free), free)
    allowed = settings(True, own=OWN, polyu=OWN, **{"s3://bucket/raw": OWN, "s3://bucket/raw/deep": OWN})
    require_allowed(licences_of(LISTING, allowed), allowed)


def test_without_a_list_a_commercial_product_is_refused():
    """Nothing says what it was trained on; a damaged list is an error for every product."""
    nothing = '{"sources": [], "files": []}'
    with pytest.raises(LicenceError, match="nothing says what it was trained on"):
        require_allowed(licences_of(nothing, settings(True)), settings(True))
    with pytest.raises(BrokenFileError):
        licences_of("{", settings(False))
