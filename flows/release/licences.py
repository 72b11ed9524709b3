"""Under which terms the photographs of a package are, and whether its product may be used commercially.

The user states both: `licences` in params.yaml names the terms of each source, because no photograph does so reliably.
"""

import dataclasses
import json
from collections import Counter

from relume.errors import UserError
from relume.ingestion.lists import LIST
from relume.ingestion.sources import Source, single_files
from relume.params import LicenceSettings
from relume.reading import reading


class LicenceError(UserError):
    """A product for commercial use was trained on photographs whose terms do not allow it, or are not stated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceLicence:
    """The terms of one source of photographs.

    Attributes:
        source: As the list of photographs has it.
        photographs: How many files are of it, those that test and the degraded ones of pairs among them.
        licence: Its terms; None where they are not stated.
        commercial: Whether they allow commercial use; None where they are not stated.
    """

    source: str
    photographs: int
    licence: str | None
    commercial: bool | None


def licences_of(listing: str, settings: LicenceSettings) -> list[SourceLicence]:
    """The terms of each source of a list of photographs.

    Args:
        listing: The text of sources.json.
        settings: What the user states, by a source, its place or the name of its set.

    Raises:
        BrokenFileError: It is no such list.
    """
    with reading(LIST, next_step="run `relume data scan`"):
        listed = json.loads(listing)
        sources = {str(source): Source.of(str(source)) for source in listed["sources"]}
        addresses = [str(entry["address"]) for entry in single_files(listed)]
    counts: Counter[str] = Counter()
    for address in addresses:
        # The longest place that an address begins with is the source that it is of.
        of = [text for text, source in sources.items() if address.startswith(source.place)]
        counts[max(of, key=lambda text: len(sources[text].place), default="")] += 1
    rows = []
    for text, source in sources.items():
        stated = next(
            (settings.sources[key] for key in (text, source.place, source.set) if key in settings.sources), None
        )
        rows.append(
            SourceLicence(
                source=text,
                photographs=counts[text],
                licence=stated.name if stated else None,
                commercial=stated.commercial if stated else None,
            )
        )
    return rows


def require_allowed(rows: list[SourceLicence], settings: LicenceSettings) -> None:
    """Refuses a product for commercial use whose photographs do not allow it.

    Raises:
        LicenceError: Names each source that does not, with its terms.
    """
    refused = [row for row in rows if not row.commercial]
    if not settings.commercial or (rows and not refused):
        return
    why = "; ".join(f"{row.source} ({row.licence or 'its terms are not stated'})" for row in refused)
    raise LicenceError(
        "The product is for commercial use, and was trained on photographs that do not allow it; nothing was changed",
        why=why or "nothing says what it was trained on",
        next_step="train without them: relume data scan SOURCE...; or state the terms of a source, or that the product"
        " is not for commercial use, in the section `licences` of params.yaml",
    )
