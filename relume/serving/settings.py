"""The settings of the stages that make a served model: `export` and `package`."""

from typing import Annotated

from pydantic import Field

from relume.settings import Settings

Pixels = Annotated[int, Field(gt=0)]


class ExportSettings(Settings):
    """How exact the export must be.

    Attributes:
        threads: Of the CPU.
        min_psnr: Between PyTorch and ONNX Runtime, in dB.
        max_difference: Of 255; 1 is a value that was rounded to the other side.
        sizes: Height and width of the images on which parity is measured.
    """

    threads: int = Field(gt=0)
    min_psnr: float = Field(gt=0)
    max_difference: int = Field(ge=0, le=255)
    sizes: tuple[tuple[Pixels, Pixels], ...]


class PackageSettings(Settings):
    """What the package is for.

    Attributes:
        product: The name by which clients ask for the served product; also that of the registered model.
    """

    product: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
