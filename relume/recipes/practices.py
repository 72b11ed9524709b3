"""Which practices the recipes have, and where each of them works, as a Markdown table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relume.recipes.recipe import names, resolve

PLACES = ("training", "evaluation", "gate", "export", "served")
_TRAINED = PLACES[:1]
_RESTORED = PLACES[1:]
_WEIGHTS = "a way to train: what comes after has its weights"
_FINISHED = "made of finished images, so nothing of it is trained"


@dataclass(frozen=True)
class Practice:
    """Something that published systems do.

    Attributes:
        name: What.
        found: Whether the resolved sections of a recipe have it.
        works: The places of `PLACES` where it does.
        reason: Why not in the others.
    """

    name: str
    found: Callable[[Mapping[str, Any]], Any]
    works: tuple[str, ...]
    reason: str


def _phases(sections: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    stages = [*sections["pretrain"]["bases"].values(), sections["ensemble_head"], sections["finetune_hard"]]
    return [phase for stage in stages for phase in stage["phases"]]


def _bases(sections: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(sections["pretrain"]["bases"].values())


def _methods(sections: Mapping[str, Any]) -> set[str]:
    return {base.get("method", {}).get("kind", "plain") for base in _bases(sections)}


def _grows(sections: Mapping[str, Any]) -> bool:
    return any(len({phase["patch"] for phase in base["phases"]}) > 1 for base in _bases(sections))


def _fusion(sections: Mapping[str, Any]) -> str:
    return (sections["ensemble_head"]["fusion"] or {}).get("architecture", "")


def _architectures(sections: Mapping[str, Any]) -> set[str]:
    return {base["architecture"] for base in _bases(sections)}


PRACTICES = (
    Practice("growing crops", _grows, _TRAINED, _WEIGHTS),
    Practice("sets of their own in phases", lambda s: any(p.get("data") for p in _phases(s)), _TRAINED, _WEIGHTS),
    Practice(
        "the best photographs by several scores, and diverse ones",
        lambda s: s["curate"]["keep"] or s["curate"]["cover"],
        _TRAINED,
        _WEIGHTS,
    ),
    Practice(
        "patches that do not overlap, without a ragged last one", lambda s: not s["curate"]["flush"], _TRAINED, _WEIGHTS
    ),
    Practice(
        "parts of the network trained alone",
        lambda s: any("train" in phase for phase in _phases(s)),
        _TRAINED,
        _WEIGHTS,
    ),
    Practice("the hardest patches last", lambda s: s["mine_hard"]["fraction"] < 1, _TRAINED, _WEIGHTS),
    Practice(
        "degraded and masked areas",
        lambda s: any(
            step["kind"] == "degraded_areas"
            for phase in _phases(s)
            for step in phase.get("degradation", {"steps": []})["steps"]
        ),
        _TRAINED,
        _WEIGHTS,
    ),
    Practice(
        "networks that share weights, one of them chosen after the pre-training",
        lambda s: "alternate_reuse" in _methods(s),
        PLACES,
        "",
    ),
    Practice(
        "the main networks of all levels in every step", lambda s: "every_level" in _methods(s), _TRAINED, _WEIGHTS
    ),
    Practice("biases alone, on clipped noise", lambda s: s["finetune_hard"].get("adapt") == "biases", PLACES, ""),
    Practice("masks of the input", lambda s: "masked" in _architectures(s), _TRAINED, "an image is restored whole"),
    Practice("masks of the attention", lambda s: "masked" in _architectures(s), PLACES, ""),
    Practice(
        "local statistics (TLC)",
        lambda s: any(name.endswith("_local") for name in _architectures(s)),
        _RESTORED,
        "no training crop is larger than their windows",
    ),
    Practice(
        "a fusion of networks that is trained",
        lambda s: _fusion(s) not in ("", "weighted_average") or "src_b" in _architectures(s),
        PLACES,
        "",
    ),
    Practice("the mean of base models", lambda s: _fusion(s) == "weighted_average", _RESTORED, "its weights are given"),
    Practice("edges of one base model", lambda s: s["inference"].get("fusion"), _RESTORED, _FINISHED),
    Practice("eight orientations", lambda s: s["inference"]["orientations"] > 1, _RESTORED, _FINISHED),
    Practice(
        "several windows, or tiles for each base model",
        lambda s: s["inference"].get("further_windows") or s["inference"].get("members"),
        _RESTORED,
        _FINISHED + "; Triton's own onnxruntime and tensorrt backends have one size of tile and refuse it",
    ),
    Practice("a level that is given", lambda s: s["training"]["degradation"].get("level"), PLACES, ""),
    Practice(
        "a level that is estimated",
        lambda s: s["inference"].get("estimator"),
        PLACES,
        "as several windows on Triton's own backends",
    ),
    Practice(
        "several conditions",
        lambda s: s["training"]["degradation"].get("conditions"),
        PLACES,
        "a served model has one level, that of the noise; the others are fixed when it is exported",
    ),
    Practice("an enlarged image", lambda s: s["inference"].get("scale", 1) > 1, PLACES, ""),
)
"""In the order of the steps."""


def where_table(folder: Path) -> str:
    """A row for each practice of the recipes at their published scale, `full`, with the recipes that have it.

    Args:
        folder: Of the recipes.
    """
    resolved = {name: resolve(name, "full", folder) for name in names(folder)}
    rows = [("practice", "recipes", *PLACES, "where not, and why"), ("---",) * (len(PLACES) + 3)]
    for practice in PRACTICES:
        having = ", ".join(f"`{name}`" for name, sections in resolved.items() if practice.found(sections))
        marks = ("yes" if place in practice.works else "–" for place in PLACES)
        rows.append((practice.name, having, *marks, practice.reason))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
