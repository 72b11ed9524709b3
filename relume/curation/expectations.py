"""What the prepared data must hold, as Great Expectations expectations on seven tables.

| table | a row is | from |
|---|---|---|
| files | a listed file, with the reason if it was quarantined | manifest.csv and quarantine.csv |
| manifest | a photograph | manifest.csv |
| images | a curated photograph | images.csv |
| splits | a photograph that trains, validates or tests, with the sides of its scene, set and copies | all three |
| pairs | a pair that trains, validates or tests, with the sizes and difference of both sides | all, and images |
| scores | a curated photograph with its further scores, where a rule keeps the best by them | scores.parquet |
| patches | a training patch, with the size and side of its photograph | patches.parquet |

A failed `critical` expectation stops the run; a failed `warning` is only reported. The meta entry
`next_step` says what the user can do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relume.curation.earlier import Halves
from relume.curation.pair_table import COLUMNS as PAIR_COLUMNS
from relume.curation.pair_table import pair_table
from relume.curation.settings import ValidateSettings
from relume.curation.split_table import COLUMNS
from relume.errors import SourceError
from relume.reading import reading

_MANIFEST = ["image_id", "set", "address", "degraded", "width", "height", "channels", "bit_depth", "mode", "bytes"]
_MANIFEST += ["sha256", "shard"]
_PATCHES = ["patch_id", "image_id", "set", "split", "shard", "row", "y", "x", "size", "sharpness", "flat_fraction"]
_PATCHES += ["width", "height", "bottom", "right", "image_split", "photograph_share"]
_IMAGES = ["image_id", "set", "address", "group", "split", "width", "height", "sharpness", "noise_sigma"]
_IMAGES += ["flat_fraction", "cluster", "reason"]
_FIRST = ("sharpness", "noise_sigma", "flat_fraction")
_RANGES: dict[str, tuple[float, float | None]] = {
    "sharpness_native": (0, None),
    "niqe": (0, None),
    "niqe_native": (0, None),
    "blur": (0, 1),
    "clipped": (0, 1),
    "brisque": (-100, 200),
    "brisque_native": (-100, 200),
    "blockiness": (0, None),
    "jpeg_quality": (1, 100),
    "entropy": (0, 8),
}
_ADD = "add photographs with `relume data scan FOLDER`"
_DEVIATIONS = 5  # standard deviations: of a million sets that are split by chance one is farther from the fractions
_FRACTIONS = "run `dvc repro --force curate`; if it stays, choose another curate.seed or other fractions"
_MOVED = "the median left the middle half of the version before: see `relume data log` and `relume data diff`; "
_MOVED += "to stop such data, set validate.medians"
_PAIRS = "look at both images of the pair, remove it from its folder, and run `relume data scan`"
_DEFECT = "this is a defect of relume: run `dvc repro --force ingest curate`, and report it if it stays"


def load_tables(ingested: str | Path, curated: str | Path) -> dict[str, Any]:
    """Reads the prepared data into one pandas frame a table, with the columns that relate tables.

    Raises:
        SourceError: A folder is missing.
    """
    import pandas as pd

    ingested, curated = Path(ingested), Path(curated)
    for path in (ingested / "manifest.csv", curated / "images.csv"):
        if not path.is_file():
            raise SourceError("The data to validate does not exist", where=path, next_step="run `dvc repro validate`")
    manifest = _frame(ingested / "manifest.csv", ["address", "image_id", "sha256", "channels"], dtype={"image_id": str})
    quarantine = _frame(ingested / "quarantine.csv", ["address", "reason"])
    files = pd.concat([manifest[["address"]], quarantine[["address", "reason"]]], ignore_index=True)
    files["reason"] = files["reason"].astype(object) if "reason" in files else None

    columns = ["image_id", "set", "group", "split", "reason", "width", "height"]
    images = _frame(curated / "images.csv", columns, dtype={"image_id": str, "group": str})

    patches = _frame(curated / "patches.parquet", ["image_id", "patch_id", "x", "y", "size"])
    photographs = images[["image_id", "width", "height", "split"]].rename(columns={"split": "image_split"})
    patches = patches.merge(photographs, on="image_id", how="left")
    patches["bottom"], patches["right"] = patches["y"] + patches["size"], patches["x"] + patches["size"]
    patches["photograph_share"] = patches.groupby("image_id")["patch_id"].transform("count") / max(len(patches), 1)
    columns = [name for name in patches if name not in ("image_split", "photograph_share", "bottom", "right")]
    patches = patches[[*columns, "bottom", "right", "image_split", "photograph_share"]]
    tables = {"files": files, "manifest": manifest, "images": images, "patches": patches}
    if "degraded" in manifest and manifest["degraded"].notna().any():
        tables["pairs"] = pair_table(ingested, curated, images, patches)
    if (path := curated / "scores.parquet").is_file():
        tables["scores"] = _frame(path, ["image_id", "reason"])
    return tables


def _frame(path: Path, needed: list[str], **options: Any) -> Any:
    """Reads a table with pandas. What else is wrong with its columns, the expectations say."""
    import pandas as pd

    with reading(path, next_step=f"run `dvc repro --force {'ingest' if path.parent.name == 'ingested' else 'curate'}`"):
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, **options)
        if missing := [name for name in needed if name not in frame]:
            raise ValueError(f"it lacks the columns {', '.join(missing)}")
        return frame


def expectations(settings: ValidateSettings, earlier: Halves) -> Mapping[str, list[Any]]:
    """The expectations on each table.

    Args:
        settings: The bounds.
        earlier: Between which values the middle half of each score was in an earlier version of the data.
    """
    import great_expectations.expectations as gxe

    def critical(kind: Any, next_step: str = _DEFECT, **arguments: Any) -> Any:
        return kind(severity="critical", meta={"next_step": next_step}, **arguments)

    def warning(kind: Any, next_step: str, earlier: bool = False, **arguments: Any) -> Any:
        return kind(severity="warning", meta={"next_step": next_step, "earlier": earlier}, **arguments)

    columns, rows = gxe.ExpectTableColumnsToMatchOrderedList, gxe.ExpectTableRowCountToBeBetween
    between, one_of, matches = (
        gxe.ExpectColumnValuesToBeBetween,
        gxe.ExpectColumnValuesToBeInSet,
        gxe.ExpectColumnValuesToMatchRegex,
    )
    unique, filled = gxe.ExpectColumnValuesToBeUnique, gxe.ExpectColumnValuesToNotBeNull
    compound = gxe.ExpectCompoundColumnsToBeUnique
    equal, not_less = gxe.ExpectColumnPairValuesToBeEqual, gxe.ExpectColumnPairValuesAToBeGreaterThanB

    def medians(names: Sequence[str]) -> list[Any]:
        """That the distributions are still about where those of an earlier version of the data were."""
        step = "look at `relume data diff` and `relume data report`; if the new data is right, change validate.medians"
        return [
            critical(gxe.ExpectColumnMedianToBeBetween, step, column=name, min_value=low, max_value=high)
            for name, (low, high) in settings.medians.items()
            if name in names
        ] + [
            warning(gxe.ExpectColumnMedianToBeBetween, _MOVED, earlier=True, column=name, min_value=low, max_value=high)
            for name, (low, high) in earlier.items()
            if name in names
        ]

    return {
        "files": [
            warning(
                gxe.ExpectColumnValuesToBeNull,
                "see data/ingested/quarantine.csv and repair or remove those files",
                column="reason",
                mostly=1 - settings.max_quarantined,
            ),
        ],
        "manifest": [
            critical(columns, column_list=_MANIFEST),
            critical(
                rows,
                f"{_ADD}, or lower validate.min_photographs in params.yaml",
                min_value=settings.min_photographs,
            ),
            critical(unique, column="image_id"),
            critical(compound, column_list=["sha256", "degraded"]),  # several pairs may have one clean image
            critical(compound, column_list=["address", "degraded"]),
            critical(filled, column="set"),
            critical(filled, column="address"),
            critical(matches, column="image_id", regex="^[0-9a-f]{16}$"),
            critical(matches, column="sha256", regex="^[0-9a-f]{64}$"),
            critical(matches, column="shard", regex=r"^images-\d{5}\.tar$"),
            critical(between, column="width", min_value=1, max_value=1_000_000),
            critical(between, column="height", min_value=1, max_value=1_000_000),
            critical(between, column="bytes", min_value=1),
            critical(one_of, column="channels", value_set=[1, 2, 3, 4]),
            critical(one_of, column="bit_depth", value_set=[1, 2, 4, 8, 16]),
            warning(
                one_of,
                f"{_ADD} that are in colour: the product restores colour",
                column="channels",
                value_set=[3, 4],
                mostly=settings.min_colour,
            ),
        ],
        "images": [
            critical(columns, column_list=_IMAGES),
            critical(unique, column="image_id"),
            critical(one_of, column="split", value_set=["train", "validation", "test", "rejected"]),
            critical(between, column="sharpness", min_value=0),
            critical(between, column="noise_sigma", min_value=0, max_value=255),
            critical(between, column="flat_fraction", min_value=0, max_value=1),
            critical(between, column="cluster", min_value=-1),
            *medians(_FIRST),
        ],
        "splits": [
            critical(columns, column_list=COLUMNS),
            critical(
                gxe.ExpectColumnDistinctValuesToContainSet,
                _ADD,
                column="split",
                value_set=["train", "validation", "test"],
            ),
            critical(one_of, column="scene_sides", value_set=[1]),
            critical(one_of, column="copy_sides", value_set=[1]),
            critical(one_of, f"{_ADD} to that set", column="set_sides", value_set=[3]),
            critical(one_of, column="held_out_patches", value_set=[0]),
            critical(between, _FRACTIONS, column="test_deviation", max_value=_DEVIATIONS),
            critical(between, _FRACTIONS, column="held_out_deviation", max_value=_DEVIATIONS),
        ],
        "pairs": [
            critical(columns, column_list=PAIR_COLUMNS),
            critical(unique, column="image_id"),
            critical(equal, column_A="degraded_width", column_B="width"),
            critical(equal, column_A="degraded_height", column_B="height"),
            critical(between, _PAIRS, column="difference", min_value=0, strict_min=True),
            critical(between, _PAIRS, column="deviation", min_value=0, strict_min=True),
        ],
        "scores": [
            critical(unique, column="image_id"),
            critical(filled, column="reason"),
            *(critical(between, column=name, min_value=low, max_value=high) for name, (low, high) in _RANGES.items()),
            *medians(tuple(_RANGES)),
        ],
        "patches": [
            critical(columns, column_list=_PATCHES),
            critical(
                rows,
                f"{_ADD}, or lower validate.min_train_patches in params.yaml or curate.stride in recipe.yaml",
                min_value=settings.min_train_patches,
            ),
            critical(unique, column="patch_id"),
            critical(compound, column_list=["shard", "row"]),
            critical(one_of, column="split", value_set=["train"]),
            critical(filled, column="image_split"),
            critical(one_of, column="image_split", value_set=["train"]),
            critical(between, column="y", min_value=0),
            critical(between, column="x", min_value=0),
            critical(not_less, column_A="height", column_B="bottom", or_equal=True),
            critical(not_less, column_A="width", column_B="right", or_equal=True),
            critical(gxe.ExpectColumnUniqueValueCountToBeBetween, column="size", min_value=1, max_value=1),
            critical(between, column="sharpness", min_value=0),
            critical(between, column="flat_fraction", min_value=0, max_value=1),
            warning(
                gxe.ExpectColumnMaxToBeBetween,
                f"{_ADD} of other things: one photograph gives most of the patches",
                column="photograph_share",
                max_value=settings.max_patch_share,
            ),
        ],
    }
