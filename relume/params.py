"""All parameters of the graph and of the release, checked as a whole before anything runs.

Each section's settings are beside the code that they are for. A stage reads its own sections by
`relume.params_file.load_section`; importing this module would make it depend on the settings of all others.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from relume.curation.settings import CurateSettings, ValidateSettings
from relume.errors import ConfigError
from relume.evaluation.settings import EvaluateSettings, Level
from relume.inference.plan import Inference
from relume.ingestion.settings import IngestSettings
from relume.monitoring.settings import MonitorSettings
from relume.params_file import RECIPE, checked, read_values
from relume.recipes.recipe import Scale
from relume.serving.settings import ExportSettings, PackageSettings
from relume.settings import Settings
from relume.training.config import BaseModelSettings, TrainingSettings
from relume.training.stages import EnsembleHeadSettings, FinetuneSettings, MiningSettings


def _base_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise ValueError(
            "the name becomes a folder and a stage; write letters, digits, - and _, a letter first, at most 64"
        )
    return name


RunnerName = Literal["subprocess", "docker", "kubernetes"]
BaseName = Annotated[str, AfterValidator(_base_name)]


class UsedRecipe(Settings):
    """Where the sections of the training come from. No stage reads it.

    Attributes:
        name: The recipe that was used last.
        scale: Its scale.
    """

    name: str
    scale: Scale


class PretrainSettings(Settings):
    """The base models.

    Attributes:
        bases: A stage `pretrain@NAME` trains each.
    """

    bases: dict[BaseName, BaseModelSettings] = Field(min_length=1)


class ParityLimits(Settings):
    """How far two ways of running the same model may differ, on 8-bit images.

    Attributes:
        max_difference: Largest difference of any value, of 255.
        min_psnr: Smallest PSNR between the two results, in dB.
    """

    max_difference: int = Field(ge=0, le=255)
    min_psnr: float = Field(gt=0)


Precision = Literal["f32", "fp16", "bf16"]


class PrecisionLimits(Settings):
    """How far a backend's result may be from that of float32, on 8-bit images.

    Attributes:
        min_psnr: Smallest PSNR between the two results, in dB.
        difference: Levels of 255 by which nearly all pixels may differ at most.
        within: Share of the pixels that must.
        mean_error: Largest mean error of a colour, of either sign, in levels.
        pattern: By how many levels the mean difference at tile borders, and in flat areas, may be above that elsewhere.
    """

    min_psnr: float = Field(gt=0)
    difference: int = Field(ge=0, le=255)
    within: float = Field(gt=0, le=1)
    mean_error: float = Field(default=0.1, gt=0)
    pattern: float = Field(default=0.05, ge=0)


PRECISION_LIMITS: dict[Precision, PrecisionLimits] = {
    "f32": PrecisionLimits(min_psnr=60, difference=1, within=1),
    "fp16": PrecisionLimits(min_psnr=60, difference=2, within=0.999),
    "bf16": PrecisionLimits(min_psnr=50, difference=2, within=0.999),
}
"""The limits of each precision where params.yaml says nothing of it."""


class RolloutSettings(Settings):
    """How a candidate that passed the gate comes to all clients, and what ends that.

    Attributes:
        shadow: Share of the images, in percent, that it restores as well as the champion, whose result clients get;
            0 leaves this out.
        canary: Share of the images, in percent, that it restores for clients after that; 0 leaves this out.
        hold_minutes: Length of each of the two.
        look_seconds: Time between two looks at what it did.
        min_requests: Images that it has to have tried before its time and its results are judged.
        max_failed: Largest share of the images that it may fail to restore; the champion restores these.
        max_latency_ratio: Median time over the champion's.
        min_agreement_db: Median PSNR between its results and the champion's.
    """

    shadow: float = Field(default=10.0, ge=0, le=100)
    canary: float = Field(default=5.0, ge=0, le=100)
    hold_minutes: float = Field(default=15.0, ge=0)
    look_seconds: float = Field(default=5.0, gt=0)
    min_requests: int = Field(default=20, ge=1)
    max_failed: float = Field(default=0.02, ge=0, le=1)
    max_latency_ratio: float = Field(default=2.0, gt=0)
    min_agreement_db: float = 25.0


class ReleaseSettings(Settings):
    """What a candidate is measured on, and what it must reach before it may serve.

    Attributes:
        seed: Of what is random in the gate's inputs.
        images: Held-out photographs that the gate uses at most.
        crop: Side in pixels of the centre crop that it uses of each; that of a tile where the tile is larger.
        min_gain_over_input_db: By protocol and level, mean PSNR that the candidate must gain over its degraded input;
            between two levels on the line through both, beyond them as at the nearest.
        min_gain_over_pairs_db: Mean PSNR that it must gain over the degraded images of held-out pairs, where there are
            any.
        min_gain_over_nlm_db: Mean PSNR over OpenCV's non-local means at the strongest noise that is measured, when
            there is no champion and they are the baseline of the task.
        max_regression_db: Mean PSNR, at each level, that it may lose against the champion.
        max_image_regression_db: PSNR that it may lose on any one photograph.
        latency_ms_per_tile: Median time for one tile, served on this machine.
        max_latency_ratio: Median time for a pixel over the champion's, both served by turns on this machine.
        memory_mb: Peak memory of a process that restores one tile in process, on this machine.
        served_parity: The backend in process against the Triton server.
        backend: What computes a release: `onnxruntime`, `openvino_f32` or `openvino_bf16` in Triton's python backend,
            the fastest of these on this machine for `auto`; `triton_onnxruntime` or `triton_tensorrt` in Triton's
            onnxruntime backend, which the embedded server does not have, nor that of `tensorrt_plan`, an engine that
            `relume export` made on this machine. It takes effect with the next release.
        precision_parity: By precision, the limits of a backend in process against ONNX Runtime.
        rollout: How the candidate comes to all clients; at once when null.
    """

    seed: int = Field(ge=0)
    images: int = Field(ge=1)
    crop: int = Field(ge=32)
    min_gain_over_input_db: dict[str, Annotated[dict[Level, float], Field(min_length=1)]]
    min_gain_over_pairs_db: float = 0.0
    min_gain_over_nlm_db: float
    max_regression_db: float = Field(ge=0)
    max_image_regression_db: float = Field(ge=0)
    latency_ms_per_tile: float = Field(gt=0)
    max_latency_ratio: float = Field(gt=0)
    memory_mb: float = Field(default=4000.0, gt=0)
    served_parity: ParityLimits
    backend: Literal[
        "auto",
        "onnxruntime",
        "openvino_f32",
        "openvino_bf16",
        "triton_onnxruntime",
        "triton_tensorrt",
        "tensorrt_plan",
    ] = "onnxruntime"
    precision_parity: dict[Precision, PrecisionLimits] = PRECISION_LIMITS
    rollout: RolloutSettings | None = None

    @field_validator("precision_parity")
    @classmethod
    def _each_has_limits(cls, stated: dict[Precision, PrecisionLimits]) -> dict[Precision, PrecisionLimits]:
        return PRECISION_LIMITS | stated


class GarbageSettings(Settings):
    """What nothing refers to any more, and when it is removed.

    Attributes:
        runs: The newest pipeline runs, whose logs and commits stay.
        days: Nothing that was written since then is removed, whatever refers to it.
        remove: Whether the deployment `garbage_collect` removes what it finds; it only lists it otherwise.
    """

    runs: int = Field(default=20, ge=1)
    days: float = Field(default=30.0, ge=0)
    remove: bool = False


class WatchSettings(Settings):
    """What makes a retraining begin beside its schedule.

    Attributes:
        photographs: New or changed photographs below the S3 prefixes of the list in use, at least.
    """

    photographs: int = Field(default=1, ge=1)


class SourceTerms(Settings):
    """The terms of a source of photographs.

    Attributes:
        name: Of the licence or terms, such as CC-BY-4.0.
        commercial: Whether they allow models for commercial use.
    """

    name: str = Field(min_length=1)
    commercial: bool


class LicenceSettings(Settings):
    """What the photographs may be used for.

    Attributes:
        commercial: Whether the product is for commercial use. Then a release is refused unless the terms of every
            source that it was trained on are stated and allow it.
        sources: Terms by source as sources.json has it, by its place, or by the name of its set.
    """

    commercial: bool = False
    sources: dict[str, SourceTerms] = Field(default={})


class Params(Settings):
    """Every section.

    Attributes:
        recipe: The recipe that was used last.
        ingest: Which files are taken in.
        curate: How photographs are chosen, split and cut.
        validate_: What the prepared data must hold.
        training: What all training stages share.
        pretrain: The base models.
        ensemble_head: The training of a fusion over the base models.
        mine_hard: How the training patches are ranked.
        finetune_hard: The fine-tune on the hard patches.
        evaluate: What is measured on the held-out photographs.
        inference: How the model restores an image: what is measured, gated, exported and served.
        export: How exact the export must be.
        package: What the package is for.
        release: What a candidate must reach before it may serve.
        monitor: When a change of what production sends or gets counts.
        licences: What the photographs may be used for.
        watch: When new photographs start a retraining.
        garbage: What of old runs and results is kept.
        runner: What runs the stages of a pipeline run: processes of this machine, containers of Docker or Podman, or
            Jobs of a Kubernetes cluster.
    """

    recipe: UsedRecipe | None = None
    ingest: IngestSettings
    curate: CurateSettings
    validate_: ValidateSettings = Field(alias="validate")  # a method of pydantic's models has the plain name
    training: TrainingSettings
    pretrain: PretrainSettings
    ensemble_head: EnsembleHeadSettings
    mine_hard: MiningSettings
    finetune_hard: FinetuneSettings
    evaluate: EvaluateSettings
    inference: Inference
    export: ExportSettings
    package: PackageSettings
    release: ReleaseSettings
    monitor: MonitorSettings = MonitorSettings()
    licences: LicenceSettings = LicenceSettings()
    watch: WatchSettings = WatchSettings()
    garbage: GarbageSettings = GarbageSettings()
    runner: RunnerName = "subprocess"

    @field_validator("release")
    @classmethod
    def _gate_has_its_limits(cls, release: ReleaseSettings, info: ValidationInfo) -> ReleaseSettings:
        evaluate: EvaluateSettings | None = info.data.get("evaluate")
        if evaluate is None:  # it is refused itself
            return release
        for degradation, _ in evaluate.measured():
            if (protocol := degradation.protocols[0]) not in release.min_gain_over_input_db:
                raise ValueError(
                    f"min_gain_over_input_db has no limit for {protocol}, which the task {evaluate.task} is judged on;"
                    f" add {protocol}: {{LEVEL: DB}}"
                )
        return release


def load_params(root: Path = Path()) -> Params:
    """Reads and checks all parameters of a checkout.

    Raises:
        ConfigError: No recipe is in use, a file cannot be read, or values are refused; names each with its file and
            line.
    """
    if not (root / RECIPE).is_file():
        raise ConfigError(
            "No recipe is in use",
            where=root / RECIPE,
            why="the file does not exist, and it says what is trained",
            next_step="run `relume recipes use ensemble --scale demo`, or use another one of `relume recipes list`",
        )
    values = read_values(root)
    return checked(Params, values.value, values)


def garbage_settings(root: Path) -> GarbageSettings:
    """The section `garbage` of a checkout alone: a mistake in another one must not fill the disk.

    Raises:
        ConfigError: A file cannot be read, or values are refused.
    """
    values = read_values(root)
    return checked(GarbageSettings, values.value.get("garbage", {}), values, at=("garbage",))
