"""The settings of the stage `evaluate`."""

from typing import Annotated

from pydantic import Field

from relume.settings import Settings

Sigma = Annotated[float, Field(gt=0, le=255)]


class Pairs(Settings):
    """Real noisy images, each with a clean one of the same scene.

    Attributes:
        folder: Absolute path of a folder with the subfolders `noisy` and `clean`, both images of a pair under one name.
        sha256: Of the folder, so that other pairs are another evaluation; a run with a wrong one names the right one.
    """

    folder: str
    sha256: str


class EvaluateSettings(Settings):
    """What is measured on the held-out photographs and on real pairs.

    Attributes:
        seed: Of the noise.
        threads: Of the CPU.
        sigmas: Noise levels, on the [0, 255] scale.
        bm3d: Whether BM3D is measured as well; it needs the extra of that name.
        pairs: Real pairs to measure the final model on; null for none.
    """

    seed: int = Field(ge=0)
    threads: int = Field(gt=0)
    sigmas: tuple[Sigma, ...] = Field(min_length=1)
    bm3d: bool = False
    pairs: Pairs | None = None
