"""python -m components.validate: data/ingested, data/curated -> data/validation and the Data Docs."""

from dataclasses import asdict

from components.step import run_component
from relume.curation.earlier import EarlierVersions
from relume.curation.settings import CurateSettings, ValidateSettings
from relume.curation.validate import check, describe, failing_sheets, validate
from relume.files import atomic_folder, write_json
from relume.home import relume_home
from relume.params_file import load_section


def main() -> None:
    """Writes validation.json and the Data Docs, prints warnings, and fails on what is critical."""
    settings = load_section("validate", ValidateSettings)
    docs = relume_home() / "validation" / "data_docs"
    split = load_section("curate", CurateSettings)
    earlier = EarlierVersions(relume_home() / "validation" / "earlier.json")
    outcomes = validate("data/ingested", "data/curated", settings, split=split, docs=docs, earlier=earlier)
    with atomic_folder("data/validation") as folder:
        # Later stages depend on this file, and so on this version of the data alone.
        rows = [asdict(outcome) for outcome in outcomes if not outcome.earlier]
        for row in rows:
            del row["image_ids"], row["earlier"]  # for the sheets alone
        write_json(folder / "validation.json", rows)
    for outcome in outcomes:
        if outcome.severity == "warning" and not outcome.success:
            print(f"warning: {outcome.table} {outcome.column}: {describe(outcome)}\n  next: {outcome.next_step}")
    held = sum(outcome.success for outcome in outcomes)
    print(f"validate: {held} of {len(outcomes)} expectations are met; Data Docs: {docs / 'index.html'}")
    for sheet in failing_sheets(outcomes, "data/ingested", relume_home() / "validation" / "failed"):
        print(f"validate: the photographs that do not meet an expectation: {sheet}")
    check(outcomes)


run_component(main)
