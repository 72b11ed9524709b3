"""The `release` section of params.yaml: what a candidate must show before it may serve."""

from pathlib import Path

from pydantic import Field

from components.step import load_params
from relume.settings import Settings


class ParityLimits(Settings):
    """How far two ways of running the same model may differ, on 8-bit images.

    Attributes:
        max_difference: Largest difference of any value, in 8-bit levels.
        min_psnr: Smallest PSNR between the two results, in dB.
    """

    max_difference: int = Field(ge=0, le=255)
    min_psnr: float = Field(gt=0)


class ReleaseSettings(Settings):
    """What a candidate is measured on and what it must reach.

    Attributes:
        product: Name that clients use; also the registered model.
        seed: Seed of the gate's noise.
        images: Held-out photographs that the gate uses at most.
        crop: Side in pixels of the centre crop that it uses of each.
        min_gain_over_noisy_db: By sigma, mean PSNR that the candidate must gain over its noisy input.
        min_gain_over_nlm_db: By sigma, mean PSNR over OpenCV's non-local means, when there is no champion.
        max_regression_db: Mean PSNR, at each sigma, that it may lose against the champion.
        max_image_regression_db: PSNR that it may lose on any one photograph.
        latency_ms_per_tile: Median time for one tile on this machine, in process.
        served_parity: ONNX Runtime in process against the Triton server.
    """

    product: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    seed: int = Field(ge=0)
    images: int = Field(ge=1)
    crop: int = Field(ge=32)
    min_gain_over_noisy_db: dict[int, float]
    min_gain_over_nlm_db: dict[int, float]
    max_regression_db: float = Field(ge=0)
    max_image_regression_db: float = Field(ge=0)
    latency_ms_per_tile: float = Field(gt=0)
    served_parity: ParityLimits


def load_settings(root: Path = Path()) -> ReleaseSettings:
    """The settings in `root`/params.yaml.

    Raises:
        ConfigError: The file or its `release` section is missing or wrong.
    """
    return load_params("release", ReleaseSettings, root / "params.yaml")
