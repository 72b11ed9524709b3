"""The settings of the stage `evaluate`."""

from typing import Annotated

from pydantic import Field, model_validator

from relume.serving.tile import halo_problem
from relume.settings import Settings

Sigma = Annotated[float, Field(gt=0, le=255)]


class EvaluateSettings(Settings):
    """What is measured on the held-out photographs.

    Attributes:
        seed: Of the noise.
        threads: Of the CPU.
        sigmas: Noise levels, on the [0, 255] scale.
        tile: Side of a tile in pixels; that of `export`.
        halo: Context around a tile, in pixels.
        bm3d: Whether BM3D is measured as well; it needs the extra of that name.
    """

    seed: int = Field(ge=0)
    threads: int = Field(gt=0)
    sigmas: tuple[Sigma, ...] = Field(min_length=1)
    tile: int = Field(gt=0)
    halo: int = Field(ge=0)
    bm3d: bool = False

    @model_validator(mode="after")
    def _halo_fits(self) -> "EvaluateSettings":
        if why := halo_problem(self.tile, self.halo):
            raise ValueError(why)
        return self
