"""The steps that a degradation is made of, distinguished by `kind`; each number is a range [low, high] to draw from.

The draw is uniform and new for each image, where a step does not say otherwise.
"""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from relume.degradations.camera import Demosaic
from relume.degradations.compression import Subsampling
from relume.settings import Settings, Share


def _within(low: float, high: float = math.inf) -> AfterValidator:
    def check(value: tuple[float, float]) -> tuple[float, float]:
        if not low <= value[0] <= value[1] <= high:
            raise ValueError(f"must be [low, high] with {low:g} <= low <= high" + (f" <= {high:g}" * (high < math.inf)))
        return value

    return AfterValidator(check)


Sigma = Annotated[tuple[float, float], _within(0, 255)]
Quality = Annotated[tuple[int, int], _within(1, 100)]
Unit = Annotated[tuple[float, float], _within(0, 1)]
Positive = Annotated[tuple[float, float], _within(1e-6)]
NotNegative = Annotated[tuple[float, float], _within(0)]
Spread = Annotated[tuple[float, float], _within(0.1, 32)]
Degrees = Annotated[tuple[float, float], _within(-360, 360)]


class BaseStep(Settings):
    """What all steps share.

    Attributes:
        probability: That an image goes through this step.
    """

    title: ClassVar[str]
    shown: ClassVar[tuple[str, ...]] = ()  # ranges that `describe` names

    probability: Annotated[float, Field(gt=0, le=1)] = 1.0

    def describe(self) -> str:
        """Such as "Gaussian noise, sigma 0 to 55"."""
        ranges = [(name, getattr(self, name)) for name in self.shown]
        text = [self.title, *(f"{name.replace('_', ' ')} {_range(*value)}" for name, value in ranges)]
        return ", ".join(text) + ("" if self.probability == 1 else f", on {self.probability:.0%} of the images")


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


class NoiseStep(BaseStep):
    """What all noises share.

    Attributes:
        clipped: Share of the images whose noise is clipped and rounded, as an 8-bit file holds it.
    """

    clipped: Share = 0.5


class GaussianNoise(NoiseStep):
    """White Gaussian noise; `sigma` on the [0, 255] scale.

    Attributes:
        sigma: Standard deviation, 0 to 255.
    """

    title = "Gaussian noise"
    shown = ("sigma",)

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    sigma: Sigma


class BetaGaussianNoise(GaussianNoise):
    """White Gaussian noise whose `sigma` is not drawn evenly but by a beta distribution over its range.

    Attributes:
        sigma: Standard deviation, 0 to 255.
        beta: The two shapes of the distribution; [1, 1] is the even one, a first shape below 1 prefers weak noise.
    """

    kind: Literal["beta_gaussian_noise"] = "beta_gaussian_noise"  # type: ignore[assignment]
    beta: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class PoissonGaussianNoise(NoiseStep):
    """Shot and read noise; `gain` is the brightness of one electron, `sigma` on the [0, 255] scale.

    Attributes:
        gain: Brightness of one electron, 0 to 1.
        sigma: Standard deviation of the read noise, 0 to 255.
    """

    title = "Poisson-Gaussian noise"
    shown = ("gain", "sigma")

    kind: Literal["poisson_gaussian_noise"] = "poisson_gaussian_noise"
    gain: Unit
    sigma: Sigma


class PoissonNoise(NoiseStep):
    """Poisson noise whose photon count follows from the image's gray levels.

    Attributes:
        strength: Factor of the noise; 2 in the tests of masked image training.
    """

    title = "Poisson noise"
    shown = ("strength",)

    kind: Literal["poisson_noise"] = "poisson_noise"
    strength: NotNegative = (2.0, 2.0)


class SpeckleNoise(NoiseStep):
    """Multiplicative uniform noise of a `variance`.

    Attributes:
        variance: Of the factor, 0 to 1.
    """

    title = "speckle noise"
    shown = ("variance",)

    kind: Literal["speckle_noise"] = "speckle_noise"
    variance: Unit


class RenderingNoise(NoiseStep):
    """Noise of few `rays` for each pixel of a rendered image; see `add_rendering_noise`.

    Attributes:
        rays: For each pixel, a whole number.
        found: Probability that a ray finds the light, 0.001 to 1.
    """

    title = "rendering noise"
    shown = ("rays",)

    kind: Literal["rendering_noise"] = "rendering_noise"
    rays: Annotated[tuple[int, int], _within(1, 65536)]
    found: Annotated[tuple[float, float], _within(0.001, 1)] = (0.1, 0.1)


class SaltAndPepper(NoiseStep):
    """A share `density` of the values replaced by 0 or 1.

    Attributes:
        density: Share of the values that are replaced, 0 to 1.
    """

    title = "salt and pepper"
    shown = ("density",)

    kind: Literal["salt_and_pepper"] = "salt_and_pepper"
    density: Unit


class CorrelatedNoise(NoiseStep):
    """Gaussian noise filtered with a Gaussian of standard deviation `width` pixels; `sigma` on [0, 255].

    Attributes:
        sigma: Standard deviation after filtering, 0 to 255.
        width: Standard deviation of the filter in pixels, 0 to 16.
    """

    title = "correlated Gaussian noise"
    shown = ("sigma", "width")

    kind: Literal["correlated_noise"] = "correlated_noise"
    sigma: Sigma
    width: Annotated[tuple[float, float], _within(0, 16)]


class CameraNoise(NoiseStep):
    """Noise of a sensor, developed with the image; see `add_camera_noise`.

    Attributes:
        electrons: Photo-electrons at saturation, drawn evenly on a logarithmic scale as in Brooks et al., CVPR 2019.
        read_noise: Standard deviation in electrons.
        red_gain: White balance of red.
        blue_gain: White balance of blue.
        bits: Of the converter.
        demosaic: How the missing colours are filled in.
    """

    title = "camera noise"
    shown = ("electrons", "read_noise")

    kind: Literal["camera_noise"] = "camera_noise"
    electrons: Annotated[tuple[float, float], _within(1)]
    read_noise: NotNegative
    red_gain: Positive = (1.9, 2.4)
    blue_gain: Positive = (1.5, 1.9)
    bits: Annotated[int, Field(ge=8, le=16)] = 14
    demosaic: Demosaic = "edge_aware"


class DevelopedNoise(NoiseStep):
    """Noise as it is in developed photographs, correlated, separate for luma and chroma; see `add_developed_noise`.

    Attributes:
        sigma: Of the luma noise at middle gray on the [0, 255] scale, drawn evenly on a logarithmic scale.
        spread: Of the luma noise, in pixels.
        wide_spread: Of its wider part, in pixels.
        wide_share: Share of the wider part in the variance.
        chroma: Of the chroma noise, in units of sigma.
        chroma_spread: Of the chroma noise, in pixels.
        signal: How much the noise depends on the brightness.
    """

    title = "noise of developed photographs"
    shown = ("sigma",)

    kind: Literal["developed_noise"] = "developed_noise"
    sigma: Annotated[tuple[float, float], _within(0.01, 255)]
    spread: Spread = (0.4, 1.0)
    wide_spread: Spread = (1.5, 5.0)
    wide_share: Unit = (0.0, 0.35)
    chroma: NotNegative = (0.15, 0.8)
    chroma_spread: Spread = (0.8, 3.5)
    signal: Unit = (0.0, 1.0)


class CameraDenoising(BaseStep):
    """The smoothing of a camera before it saves; see `denoise_in_camera`.

    Attributes:
        luma: Share of the smoothed luma.
        chroma: Share of the smoothed chroma.
        tolerance: Differences that are smoothed, of 255.
        spread: Of the chroma's filter, in pixels.
    """

    title = "in-camera denoising"
    shown = ("luma", "chroma")

    kind: Literal["camera_denoising"] = "camera_denoising"
    luma: Unit
    chroma: Unit
    tolerance: Annotated[tuple[float, float], _within(0.1, 255)] = (4.0, 25.0)
    spread: Spread = (0.8, 3.0)


class CameraSharpening(BaseStep):
    """The sharpening of a camera before it saves; see `sharpen_in_camera`.

    Attributes:
        amount: Share of the detail that is added; 0 leaves the image as it is.
        radius: Standard deviation of the blur in pixels.
    """

    title = "in-camera sharpening"
    shown = ("amount",)

    kind: Literal["camera_sharpening"] = "camera_sharpening"
    amount: NotNegative
    radius: Spread = (0.6, 1.5)


class Jpeg(BaseStep):
    """JPEG of a whole `quality`, 1 to 100. Two such steps are double JPEG.

    Attributes:
        quality: libjpeg's.
        subsampling: Of the colour, drawn evenly of these.
        shifted: Share of the images whose 8 x 8 blocks start anywhere instead of at the upper left corner, as in a
            crop of a larger photograph.
    """

    title = "JPEG"
    shown = ("quality",)

    kind: Literal["jpeg"] = "jpeg"
    quality: Quality
    subsampling: Annotated[tuple[Subsampling, ...], Field(min_length=1)] = ("4:2:0",)
    shifted: Share = 0.0


class GaussianBlur(BaseStep):
    """Blur of `sigma_x` and `sigma_y` pixels along axes rotated by `angle` degrees; round without `sigma_y`.

    Attributes:
        sigma_x: Standard deviation along the first axis in pixels, 0.05 to 32.
        sigma_y: Along the second axis; as `sigma_x` when null.
        angle: Of the first axis in degrees.
    """

    title = "Gaussian blur"
    shown = ("sigma_x",)

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    sigma_x: Annotated[tuple[float, float], _within(0.05, 32)]
    sigma_y: Annotated[tuple[float, float], _within(0.05, 32)] | None = None
    angle: Degrees = (0.0, 180.0)


class MotionBlur(BaseStep):
    """Camera shake along a path of `length` pixels that turns by `shake` radians, in a kernel of side `size`.

    Attributes:
        size: Side of the kernel in pixels, odd.
        length: Of the path in pixels.
        shake: How much the path turns, in radians.
    """

    title = "motion blur"
    shown = ("length",)

    kind: Literal["motion_blur"] = "motion_blur"
    size: Annotated[int, Field(ge=3, le=127)]
    length: Positive
    shake: NotNegative = (0.0, 3.0)

    @model_validator(mode="after")
    def _has_a_middle(self) -> Self:
        if self.size % 2 == 0:
            raise ValueError("size must be odd")
        return self


class Bicubic(BaseStep):
    """Bicubic down by `scale` and up again to the same size.

    Attributes:
        scale: Factor by which the image is shrunk and enlarged, 1 to 16.
    """

    title = "bicubic down and up"
    shown = ("scale",)

    kind: Literal["bicubic"] = "bicubic"
    scale: Annotated[tuple[float, float], _within(1, 16)]


class Shrink(BaseStep):
    """Bicubic down by a whole `scale`, as an 8-bit file holds it: the image of a network that enlarges.

    Attributes:
        scale: Factor by which the image is shrunk.
    """

    title = "bicubic down"

    kind: Literal["shrink"] = "shrink"
    scale: Literal[2, 3, 4]

    def describe(self) -> str:
        return f"{self.title} by {self.scale}"


class Rain(BaseStep):
    """Streaks: `density` per pixel, `length` and `width` in pixels, `angle` from the vertical in degrees.

    Attributes:
        density: Streaks per pixel, 0 to 1.
        length: Of a streak in pixels.
        angle: From the vertical in degrees.
        width: Of a streak in pixels.
    """

    title = "rain"
    shown = ("density",)

    kind: Literal["rain"] = "rain"
    density: Unit
    length: Positive
    angle: Degrees
    width: Positive


class Haze(BaseStep):
    """Haze of a smooth random depth in [0, 1]: scattering `beta`, brightness `airlight`.

    Attributes:
        beta: Scattering; more is thicker.
        airlight: Brightness of the haze, 0 to 1.
    """

    title = "haze"
    shown = ("beta", "airlight")

    kind: Literal["haze"] = "haze"
    beta: NotNegative
    airlight: Unit


class DegradedAreas(BaseStep):
    """Some cells degraded, some masked, some kept; see `degraded_areas`.

    Attributes:
        degraded: Share of the cells that are degraded.
        masked: Share of the cells that are masked.
        cell: Side of a cell in pixels.
        quality: Of the JPEG in degraded cells, 1 to 100.
        sigma: Of the noise in degraded cells, 0 to 255.
    """

    title = "degraded and masked areas"

    kind: Literal["degraded_areas"] = "degraded_areas"
    degraded: Share = 0.5
    masked: Share = 0.3
    cell: Annotated[int, Field(ge=1)] = 16
    quality: Quality = (10, 90)
    sigma: Sigma = (0.0, 75.0)

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if self.degraded + self.masked > 1 + 1e-9:
            raise ValueError("degraded + masked must not be above 1")
        return self


class OneOf(BaseStep):
    """One list of steps, chosen by `weights`, evenly by default; an empty list leaves the image as it is.

    Attributes:
        of: The lists of steps.
        weights: One for each list.
    """

    kind: Literal["one_of"] = "one_of"
    of: Annotated[tuple[tuple["Step", ...], ...], Field(min_length=2)]
    weights: tuple[Annotated[float, Field(gt=0)], ...] = ()

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> Self:
        if self.weights and len(self.weights) != len(self.of):
            raise ValueError(f"{len(self.weights)} weights for {len(self.of)} lists of steps")
        return self

    def describe(self) -> str:
        return "one of (" + " | ".join(describe_steps(steps) for steps in self.of) + ")"


class Shuffled(BaseStep):
    """All steps, each by its probability, in random order.

    Attributes:
        of: The steps.
    """

    kind: Literal["shuffled"] = "shuffled"
    of: Annotated[tuple["Step", ...], Field(min_length=2)]

    def describe(self) -> str:
        return "in random order (" + describe_steps(self.of) + ")"


Step = Annotated[
    GaussianNoise
    | BetaGaussianNoise
    | PoissonGaussianNoise
    | PoissonNoise
    | SpeckleNoise
    | RenderingNoise
    | SaltAndPepper
    | CorrelatedNoise
    | CameraNoise
    | DevelopedNoise
    | CameraDenoising
    | CameraSharpening
    | Jpeg
    | GaussianBlur
    | MotionBlur
    | Bicubic
    | Shrink
    | Rain
    | Haze
    | DegradedAreas
    | OneOf
    | Shuffled,
    Field(discriminator="kind"),
]
OneOf.model_rebuild()
Shuffled.model_rebuild()


def describe_steps(steps: tuple[Step, ...]) -> str:
    """Steps in words, in their order."""
    return ", then ".join(step.describe() for step in steps) or "nothing"
