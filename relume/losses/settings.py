"""What a loss is made of: a name, or names with weights and options."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from relume.settings import Settings

Positive = Annotated[float, Field(gt=0)]
Wavelet = Literal["haar", "sym2", "sym4"]
NotNegative = Annotated[float, Field(ge=0)]


class Term(Settings):
    """One loss of a weighted sum; further fields are its options, as in the function of its name.

    Attributes:
        weight: Factor in the sum.
    """

    weight: Positive = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """All but the weight."""
        return {name: value for name, value in self if name != "weight"}


class Charbonnier(Term):
    """Options of `charbonnier_loss`.

    Attributes:
        epsilon: Added inside the root.
        epsilon_squared: Whether epsilon is squared.
    """

    epsilon: Positive = 1e-3
    epsilon_squared: bool = True


class GradientL1(Term):
    """Options of `gradient_l1_loss`.

    Attributes:
        weight_from: Whose gradient gives the weight.
        strength: Of the weight.
    """

    weight_from: Literal["clean", "difference"] = "clean"
    strength: NotNegative = 4.0


class HighFrequency(Term):
    """Options of `high_frequency_loss`.

    Attributes:
        form: How high frequencies are separated.
        sigma: Of the blur in pixels, in the form `residual`.
        cutoff: In cycles per pixel, in the form `fourier`.
    """

    form: Literal["residual", "fourier", "wavelet"] = "residual"
    sigma: Positive = 1.5
    cutoff: Annotated[float, Field(ge=0, le=0.7)] = 0.25


class StationaryWavelet(Term):
    """Options of `wavelet_loss`.

    Attributes:
        wavelet: Its name.
        levels: Of the transform.
        approximation: Weight of the approximation.
        horizontal: Weight of the horizontal details.
        vertical: Weight of the vertical details.
        diagonal: Weight of the diagonal details.
    """

    wavelet: Wavelet = "sym4"
    levels: Annotated[int, Field(ge=1, le=5)] = 1
    approximation: NotNegative = 1.0
    horizontal: NotNegative = 1.0
    vertical: NotNegative = 1.0
    diagonal: NotNegative = 1.0


class LossSettings(Settings):
    """A weighted sum of losses.

    Also read from a name (`psnr`) and from names with weights (`{charbonnier: 0.8, gradient_l1: 0.2}`), which may
    can be beside terms with options (`{charbonnier: {weight: 0.8, epsilon: 1.0e-9, epsilon_squared: false}}`).

    Attributes:
        l1: Mean absolute error.
        mse: Mean squared error.
        charbonnier: Smooth absolute error.
        psnr: Negative PSNR in dB.
        gradient_l1: Absolute error, larger where the gradient is.
        high_frequency: Error of the high frequencies.
        wavelet: Error in a stationary wavelet transform.
        ssim: One minus SSIM.
    """

    l1: Term | None = None
    mse: Term | None = None
    charbonnier: Charbonnier | None = None
    psnr: Term | None = None
    gradient_l1: GradientL1 | None = None
    high_frequency: HighFrequency | None = None
    wavelet: StationaryWavelet | None = None
    ssim: Term | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {name: {"weight": term} if isinstance(term, int | float) else term for name, term in value.items()}
        return value

    @model_validator(mode="after")
    def _something_is_minimised(self) -> Self:
        if not self.terms:
            raise ValueError(f"must be, or name with weights, some of {', '.join(type(self).model_fields)}")
        return self

    @property
    def terms(self) -> dict[str, Term]:
        """The losses that are summed, by name."""
        return {name: term for name, term in self if term is not None}

    def describe(self) -> str:
        """Such as "psnr" or "0.8 charbonnier + 0.2 gradient_l1"."""
        parts = [name if term.weight == 1 else f"{term.weight:g} {name}" for name, term in self.terms.items()]
        return " + ".join(parts)

    def __str__(self) -> str:
        return self.describe()
