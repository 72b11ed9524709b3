"""The settings of the stages that make a served model: `export` and `package`."""

from typing import Annotated

from pydantic import Field, model_validator

from relume.serving.tile import halo_problem
from relume.settings import Settings

Pixels = Annotated[int, Field(gt=0)]


class ExportSettings(Settings):
    """How the model is served, and how exact its export must be.

    Attributes:
        threads: Of the CPU.
        tile: Side of a served tile in pixels.
        halo: Context around a tile, in pixels.
        min_psnr: Between PyTorch and ONNX Runtime, in dB.
        max_difference: Of 255; 1 is a value that was rounded to the other side.
        sizes: Height and width of the images on which parity is measured.
    """

    threads: int = Field(gt=0)
    tile: int = Field(gt=0)
    halo: int = Field(ge=0)
    min_psnr: float = Field(gt=0)
    max_difference: int = Field(ge=0, le=255)
    sizes: tuple[tuple[Pixels, Pixels], ...]

    @model_validator(mode="after")
    def _halo_fits(self) -> "ExportSettings":
        if why := halo_problem(self.tile, self.halo):
            raise ValueError(why)
        return self


class PackageSettings(Settings):
    """What the package is for.

    Attributes:
        product: The name by which clients ask for the served product; also that of the registered model.
    """

    product: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
