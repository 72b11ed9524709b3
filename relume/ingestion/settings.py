"""The settings of `ingest`."""

from pydantic import Field

from relume.settings import Settings


class VideoSettings(Settings):
    """Which frames of a video become photographs.

    Attributes:
        every_seconds: A frame is looked at each time when so many seconds have passed since the one before.
        min_difference: It is taken when so many of the 63 bits of its perceptual hash differ from those of the frame
            that was taken last, so that a scene that stands still is taken once; 0 takes each that is looked at.
    """

    every_seconds: float = Field(default=1.0, gt=0)
    min_difference: int = Field(default=6, ge=0, le=63)


class IngestSettings(Settings):
    """Which files are taken in, and how they are stored.

    Attributes:
        max_megapixels: Larger images are quarantined as decompression bombs.
        min_side: Images with a shorter side, in pixels, are quarantined.
        shard_megabytes: Size of a shard of photographs.
        max_pair_shift: Pairs whose images are shifted by more, in pixels, are quarantined; null for none. The shifts
            in PolyU, GoPro and Rain100H are within 0.6; where the middle of a blur's path is not the moment of the
            sharp image, a pixel or two are not an error.
        video: Which frames of a video become photographs.
    """

    max_megapixels: float = Field(gt=0)
    min_side: int = Field(ge=1)
    shard_megabytes: float = Field(gt=0)
    max_pair_shift: float | None = Field(default=2.0, gt=0)
    video: VideoSettings = VideoSettings()
