"""All parameters of the graph and of the release, checked as a whole before anything runs.

Each section's settings lie beside the code that they are for. A stage reads its own sections by
`relume.params_file.load_section`; importing this module would make it depend on the settings of all others.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from relume.curation.settings import CurateSettings, ValidateSettings
from relume.evaluation.settings import EvaluateSettings
from relume.ingestion.settings import IngestSettings
from relume.params_file import checked, read_values
from relume.recipes.recipe import Scale
from relume.serving.settings import ExportSettings, PackageSettings
from relume.settings import Settings
from relume.training.config import BaseModelSettings, TrainingSettings
from relume.training.stages import EnsembleHeadSettings, FinetuneSettings, MiningSettings

Sigma = Annotated[int, Field(gt=0, le=255)]


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

    bases: dict[str, BaseModelSettings] = Field(min_length=1)


class ParityLimits(Settings):
    """How far two ways of running the same model may differ, on 8-bit images.

    Attributes:
        max_difference: Largest difference of any value, in 8-bit levels.
        min_psnr: Smallest PSNR between the two results, in dB.
    """

    max_difference: int = Field(ge=0, le=255)
    min_psnr: float = Field(gt=0)


class ReleaseSettings(Settings):
    """What a candidate is measured on, and what it must reach before it may serve.

    Attributes:
        seed: Of the gate's noise.
        images: Held-out photographs that the gate uses at most.
        crop: Side in pixels of the centre crop that it uses of each.
        min_gain_over_noisy_db: By sigma, mean PSNR that the candidate must gain over its noisy input.
        min_gain_over_nlm_db: By sigma, mean PSNR over OpenCV's non-local means, when there is no champion.
        max_regression_db: Mean PSNR, at each sigma, that it may lose against the champion.
        max_image_regression_db: PSNR that it may lose on any one photograph.
        latency_ms_per_tile: Median time for one tile on this machine, in process.
        served_parity: ONNX Runtime in process against the Triton server.
    """

    seed: int = Field(ge=0)
    images: int = Field(ge=1)
    crop: int = Field(ge=32)
    min_gain_over_noisy_db: dict[Sigma, float] = Field(min_length=1)
    min_gain_over_nlm_db: dict[Sigma, float]
    max_regression_db: float = Field(ge=0)
    max_image_regression_db: float = Field(ge=0)
    latency_ms_per_tile: float = Field(gt=0)
    served_parity: ParityLimits


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
        export: How the model is served.
        package: What the package is for.
        release: What a candidate must reach before it may serve.
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
    export: ExportSettings
    package: PackageSettings
    release: ReleaseSettings


def load_params(root: Path = Path()) -> Params:
    """Reads and checks all parameters of a checkout.

    Raises:
        ConfigError: A file cannot be read, or values are refused; names each with its file and line.
    """
    values = read_values(root)
    return checked(Params, values.value, values)
