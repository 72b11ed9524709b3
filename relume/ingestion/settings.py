"""The settings of `ingest`."""

from pydantic import Field

from relume.settings import Settings


class IngestSettings(Settings):
    """Which files are taken in, and how they are stored.

    Attributes:
        max_megapixels: Larger images are quarantined as decompression bombs.
        min_side: Images with a shorter side, in pixels, are quarantined.
        shard_megabytes: Size of a shard of photographs.
    """

    max_megapixels: float = Field(gt=0)
    min_side: int = Field(ge=1)
    shard_megabytes: float = Field(gt=0)
