"""python -m tests.audit: known faults and terms of what relume needs; `make audit`.

Ends with 1 where something is wrong, and with 3 where the advisories could not be compared with.
"""

import sys

from tests.audit import advisories, terms


def main() -> None:
    """Prints both."""
    needed = terms.needed(terms.DISTRIBUTED)
    unclear = terms.unclear(needed)
    print(f"terms: {len(needed)} packages, {len(unclear)} whose terms are not known to be usable")
    for name, stated in unclear.items():
        print(f"  {name}: {stated}")
    try:
        found = advisories.audit(advisories.PINNED.read_text(encoding="utf-8"))
    except ConnectionError as error:
        print(f"faults: the advisories cannot be reached, so nothing is known of any package\n  {error}")
        sys.exit(1 if unclear else 3)
    print(f"faults: {found}")
    sys.exit(1 if unclear else found.exit_code)


if __name__ == "__main__":
    main()
