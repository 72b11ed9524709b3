"""The settings of `curate`, one frozen model that refuses unknown keys."""

from typing import Literal

from pydantic import Field, model_validator

from relume.settings import Settings

ScoreName = Literal[
    "sharpness", "sharpness_native", "niqe", "niqe_native", "brisque", "brisque_native", "blur", "noise_sigma",
    "flat_fraction", "clipped", "blockiness", "jpeg_quality", "entropy",
]  # fmt: skip


class KeepBest(Settings):
    """The rule by which only the best photographs of each set are kept.

    Attributes:
        fraction: Share of the photographs that counts as the best.
        by: The scores, see docs/data.md.
        joint: `each` keeps those that are among the best by each score; of three scores that do not go together these
            are much fewer than the share. `mean_rank` keeps the share that has the best mean of its ranks.
    """

    fraction: float = Field(gt=0, le=1)
    by: tuple[ScoreName, ...] = Field(min_length=1)
    joint: Literal["each", "mean_rank"] = "each"


class Encoder(Settings):
    """An image encoder by which photographs are compared.

    Attributes:
        file: Absolute path of its ONNX file, which takes float32 (N, 3, side, side) and gives (N, D).
        sha256: Of the file, so that another encoder is another curation.
        mean: Of red, green and blue in [0, 1], which it expects to be taken off; those of CLIP by default.
        std: By which it expects them to be divided then.
    """

    file: str
    sha256: str
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


class CurateSettings(Settings):
    """How photographs are chosen, split and cut.

    Attributes:
        seed: Of the split, the clusters and the choice of patches.
        max_side: Photographs with a longer side are shrunk to this many pixels first, by averaging: photographs at full
            size carry noise of their own, which a network would learn to keep. None leaves them as they are; pairs are
            never shrunk, because what degrades them would be another.
        patch: Side of a training patch, in pixels.
        stride: Distance between neighbouring patches, in pixels; below `patch` they overlap.
        flush: Whether a last patch of each row and column, flush with the border, covers what the grid leaves over.
            With `false` and a stride of `patch` no pixel is in two patches.
        min_sharpness: Photographs below this variance of the Laplacian, at a size of at most 1024 pixels a side, are
            rejected as `blurred`.
        max_noise_sigma: Photographs whose luma holds more noise are rejected as `noisy`, on 0 to 255.
        keep: The rule for which of the others are kept; null for all. With a rule, `data/curated/scores.parquet` has
            the scores of all.
        scenes: How photographs of one scene are found: by `keypoints`, which finds crops and other views too and is
            made for thousands of photographs, or by `hashes`, which finds copies of any size and orientation among
            millions.
        embedding: An image encoder by whose vectors photographs are clustered and covered; null for a built-in
            descriptor of structure and colour.
        cover: Share of the photographs of each set that is kept, so that every other is near one of them; null for all.
        max_flat_fraction: Patches with a larger share of structureless area are left out.
        patches_per_cluster: At most so many training patches come from one cluster of similar photographs;
            null for all.
        clusters: Number of clusters of each set.
        validation_fraction: Share of the colour scenes that validate.
        test_fraction: Share of the colour scenes that test.
        min_validation: Scenes of each set for validation at least.
        min_test: Scenes of each set for the test at least.
        held_out_side: Larger held-out photographs are cut to their centre of this side, in pixels,
            so that the time of an evaluation does not depend on the camera.
        shard_megabytes: Size of a shard of patches.
    """

    seed: int = Field(ge=0, lt=2**31)
    max_side: int | None = Field(default=None, ge=64)
    patch: int = Field(ge=32)
    stride: int = Field(ge=8)
    flush: bool = True
    min_sharpness: float = Field(ge=0)
    max_noise_sigma: float = Field(gt=0)
    keep: KeepBest | None = None
    scenes: Literal["keypoints", "hashes"] = "keypoints"
    embedding: Encoder | None = None
    cover: float | None = Field(default=None, gt=0, le=1)
    max_flat_fraction: float = Field(ge=0, le=1)
    patches_per_cluster: int | None = Field(ge=1)
    clusters: int = Field(ge=1)
    validation_fraction: float = Field(gt=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    min_validation: int = Field(ge=1)
    min_test: int = Field(ge=1)
    held_out_side: int = Field(ge=64)
    shard_megabytes: float = Field(gt=0)

    @model_validator(mode="after")
    def _something_is_left_to_train(self) -> "CurateSettings":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction must stay below 1")
        return self


class ValidateSettings(Settings):
    """What the prepared data must hold.

    Attributes:
        min_photographs: Photographs in the manifest, at least.
        min_train_patches: Training patches, at least.
        max_quarantined: Share of the listed files that may be quarantined without a warning.
        min_colour: Share of the photographs that should be in colour, else a warning.
        max_patch_share: Share of the training patches that one photograph may give without a warning.
        medians: Lowest and highest median of scores over all photographs, by the name of the score; outside of them the
            run stops. `relume data show VERSION --bounds 0.2` prints those of a data version.
    """

    min_photographs: int = Field(ge=1)
    min_train_patches: int = Field(ge=1)
    max_quarantined: float = Field(ge=0, le=1)
    min_colour: float = Field(ge=0, le=1)
    max_patch_share: float = Field(gt=0, le=1)
    medians: dict[ScoreName, tuple[float, float]] = Field(default_factory=dict)
