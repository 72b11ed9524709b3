"""The card of metrics that `evaluate` writes: reports/metrics.json."""

from pathlib import Path

from relume.reading import read_as

PAIRS = "pairs"  # the protocol of real pairs, which only runs whose settings name them have
PAIRED = "paired"  # that of held-out pairs, which only curated data with pairs has
Metrics = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Protocol, system, level such as `sigma_25`, or `all` of pairs, and `psnr` in dB, `ssim`, or of `blind`
the `accuracy` of the estimated level in percent, to the mean of images."""


def read_metrics(path: str | Path) -> Metrics:
    """Reads a card.

    Raises:
        BrokenFileError: It is missing or damaged.
    """
    return read_as(Metrics, path, next_step="run `dvc repro --force evaluate`")
