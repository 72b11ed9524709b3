"""The prepared data held against its expectations, with Great Expectations and its Data Docs."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relume.curation.earlier import EarlierVersions, middle_halves
from relume.curation.expectations import expectations, load_tables
from relume.curation.settings import CurateSettings, ValidateSettings
from relume.curation.split_table import split_table
from relume.errors import BrokenFileError, DataValidationError
from relume.files import atomic_folder
from relume.pages import make_offline

_ROWS = "partial_unexpected_index_list"  # of Great Expectations: the first of the rows that failed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one expectation ended.

    Attributes:
        table: `files`, `manifest`, `images`, `splits`, `pairs`, `scores` or `patches`.
        name: The expectation, as Great Expectations names it.
        column: The column or columns, empty for a whole table.
        severity: `critical` or `warning`.
        success: Whether it held.
        expected: Its bounds.
        observed: What was found.
        next_step: What the user can do if it did not hold.
        image_ids: Of some photographs for which it did not hold, where it is about single rows.
        earlier: Whether it compares with an earlier version of the data, and so depends on more than this one.
    """

    table: str
    name: str
    column: str
    severity: str
    success: bool
    expected: dict[str, Any]
    observed: str
    next_step: str
    image_ids: tuple[str, ...] = ()
    earlier: bool = False


def validate(
    ingested: str | Path,
    curated: str | Path,
    settings: ValidateSettings,
    *,
    split: CurateSettings,
    docs: str | Path,
    earlier: EarlierVersions | None = None,
) -> list[Outcome]:
    """Runs every expectation and writes the Data Docs.

    Args:
        ingested: The ingested folder.
        curated: The curated folder.
        settings: The bounds.
        split: By which the photographs were divided.
        docs: Folder of the Data Docs, replaced as a whole; start at `index.html`.
        earlier: Where the medians are kept, to be compared with those of the version before and, if all critical
            expectations are met, recorded.

    Returns:
        All outcomes, in the order of the expectations. It does not raise for those that
        failed: see `check`.
    """
    # Read when Great Expectations is imported.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    tables = load_tables(ingested, curated)
    tables["splits"] = split_table(tables["manifest"], tables["images"], tables["patches"], split)
    suites = expectations(settings, earlier.before(Path(curated)) if earlier else {})
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    source = context.data_sources.add_pandas("relume")
    outcomes = []
    for table, suite_expectations in suites.items():
        if table not in tables:
            continue
        named = ["image_id"] if "image_id" in tables[table] else None
        shown: Any = {"result_format": "SUMMARY", "unexpected_index_column_names": named} if named else "BASIC"
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=suite_expectations))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
        result = definition.run(batch_parameters={"dataframe": tables[table]}, result_format=shown)
        outcomes += [_outcome(table, item) for item in result.results]
    with atomic_folder(docs) as folder:
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        site: Any = {
            "class_name": "SiteBuilder",
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "store_backend": backend,
        }
        for name in list(context.get_site_names()):
            context.delete_data_docs_site(name)
        context.add_data_docs_site(site_name="relume", site_config=site)
        context.build_data_docs(site_names=["relume"])
        make_offline(folder)
    if earlier and all(outcome.success for outcome in outcomes if outcome.severity == "critical"):
        earlier.passed(Path(curated), middle_halves(tables))
    return outcomes


def check(outcomes: Sequence[Outcome]) -> None:
    """Raises for critical expectations that did not hold.

    Raises:
        DataValidationError: Names each, what was observed and what to do.
    """
    failed = [outcome for outcome in outcomes if outcome.severity == "critical" and not outcome.success]
    if failed:
        raise DataValidationError(
            "The prepared data does not meet critical expectations",
            where=", ".join(dict.fromkeys(f"{outcome.table}.{outcome.column}".rstrip(".") for outcome in failed)),
            why="; ".join(describe(outcome) for outcome in failed),
            next_step="; ".join(dict.fromkeys(outcome.next_step for outcome in failed)),
        )


def failing_sheets(outcomes: Sequence[Outcome], ingested: str | Path, folder: Path) -> list[Path]:
    """Draws the photographs for which expectations did not hold, as far as they can be read.

    Args:
        outcomes: Of `validate`.
        ingested: The ingested folder.
        folder: Replaced as a whole: a contact sheet `TABLE-COLUMN-EXPECTATION.png` for each such expectation.

    Returns:
        The sheets.
    """
    from relume.curation.sheets import contact_sheet, file_name, thumbnail
    from relume.images import save_image
    from relume.ingestion.ingest import Photographs

    failed = [outcome for outcome in outcomes if not outcome.success and outcome.image_ids]
    sheets: list[Path] = []
    with atomic_folder(folder) as temporary, contextlib.suppress(BrokenFileError):
        photographs = Photographs(ingested) if failed else None
        for outcome in failed:
            assert photographs is not None
            wanted = [item for item in photographs.manifest if item.image_id in outcome.image_ids]
            shown = [thumbnail(photographs.pixels(item), file_name(item.address)) for item in wanted]
            if shown:
                name = f"{outcome.table}-{outcome.column}-{outcome.name}.png".replace(", ", "-")
                save_image(temporary / name, contact_sheet(shown))
                sheets.append(folder / name)
    return sheets


def describe(outcome: Outcome) -> str:
    """One line: the expectation, its bounds and what was observed."""
    bounds = ", ".join(f"{name}={value}" for name, value in outcome.expected.items())
    return f"{outcome.name}({bounds}): {outcome.observed}"


def _outcome(table: str, item: Any) -> Outcome:
    configuration = item.expectation_config
    arguments = dict(configuration.kwargs)
    arguments.pop("batch_id", None)
    columns = [str(arguments.pop(name)) for name in ("column", "column_A", "column_B") if name in arguments]
    return Outcome(
        table=table,
        name=configuration.type,
        column=", ".join(columns),
        severity=str(getattr(configuration.severity, "value", configuration.severity)),
        success=bool(item.success),
        expected=arguments,
        observed=_observed(item),
        next_step=configuration.meta["next_step"],
        earlier=configuration.meta.get("earlier", False),
        image_ids=tuple(dict.fromkeys(str(row["image_id"]) for row in item.result.get(_ROWS, ()) if "image_id" in row)),
    )


def _observed(item: Any) -> str:
    found = item.result
    if "observed_value" in found:
        return str(found["observed_value"])
    if "unexpected_count" not in found:  # the column is missing, or cannot be compared
        return "; ".join(sorted({problem["exception_message"] for problem in item.exception_info.values()}))
    text = f"{found['unexpected_count']} of {found['element_count']} unexpected"
    return f"{text}, such as {found['partial_unexpected_list'][:3]}" if found["unexpected_count"] else text
