"""The graph's evaluation: every system on the same noisy held-out photographs, in four noise protocols, and on pairs.

- clipped: noise clipped and rounded to 8 bits, as real files hold it; the photograph goes through the
  tiler and the 8-bit tensors that are served. This is the product's protocol.
- unclipped: noise in float, the network on the whole photograph in process, as the published tables.
- jpeg85, jpeg95: the clipped noise saved as JPEG of that quality, as most noisy photographs arrive. JPEG spreads the
  noise over its blocks, so that a network which knows white noise alone takes it for detail.
- pairs: real noisy images, each with a clean one of the same scene, when the settings name a folder of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from relume.curation.quality import image_noise
from relume.degradations import add_gaussian_noise, compress_jpeg, counter_rng
from relume.errors import SourceError
from relume.evaluation.baselines import block_matching, gaussian_blur, non_local_means
from relume.evaluation.benchmark.sets import PAIRS as FOLDERS
from relume.evaluation.benchmark.sets import Example, ImageSet, open_set
from relume.evaluation.card import PAIRS
from relume.evaluation.networks import at_level, restore_whole, tiled
from relume.evaluation.settings import Pairs
from relume.files import sha256_folder
from relume.images import read_image
from relume.inference.plan import Inference
from relume.metrics import measure, to_8_bit

JPEG = {"jpeg85": 85, "jpeg95": 95}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One system on one noisy photograph.

    Attributes:
        system: Such as `noisy`, `blur`, `nlm`, `base:nafnet`, `final`.
        image_id: The photograph.
        sigma: Noise level, [0, 255] scale; of a pair the estimate.
        protocol: `clipped`, `unclipped`, `jpeg85`, `jpeg95` or `pairs`.
        psnr: In dB over all RGB values of the 8-bit result.
        ssim: Mean over the RGB channels.
    """

    system: str
    image_id: str
    sigma: float
    protocol: str
    psnr: float
    ssim: float


def photographs(folder: str | Path) -> dict[str, np.ndarray]:
    """The photographs of a folder by file name without suffix, uint8 (H, W, 3) RGB, in the order of names."""
    return {path.stem: read_image(path).pixels for path in sorted(Path(folder).glob("[!.]*.png"))}


def noisy_photograph(clean: np.ndarray, image_id: str, sigma: float, protocol: str, seed: int) -> np.ndarray:
    """The noisy version of a photograph that every system is measured on.

    Args:
        clean: uint8 (H, W, 3).
        image_id: Hexadecimal name; the noise depends on it, the level and the seed, so that one
            photograph has the same noise in any set.
        sigma: [0, 255] scale.
        protocol: `clipped`, `unclipped`, `jpeg85` or `jpeg95`.
        seed: Of the noise, which is the same in all protocols.

    Returns:
        float32 (H, W, 3) in [0, 1], or around it when unclipped.
    """
    rng = counter_rng(seed, "evaluation", int(image_id, 16), round(sigma * 100))
    image = clean.astype(np.float32) / np.float32(255)
    noisy = add_gaussian_noise(image, sigma, rng, clipped=protocol != "unclipped")
    if protocol in JPEG:
        return compress_jpeg(noisy.transpose(2, 0, 1), JPEG[protocol]).transpose(1, 2, 0)
    return noisy


def evaluate_held_out(
    clean: dict[str, np.ndarray],
    networks: dict[str, nn.Module],
    *,
    sigmas: tuple[float, ...],
    inference: Inference,
    seed: int,
    bm3d: bool = False,
) -> Iterator[tuple[list[Score], dict[str, np.ndarray]]]:
    """Runs all systems on all photographs and levels; in all protocols but `clipped` the baselines and `final` only.

    Adjustable networks are given the sigma of the noise, as the baselines are.

    Args:
        clean: Held-out photographs by id, uint8 (H, W, 3).
        networks: By system name, in eval mode. The mean of those named `base:...` is added as `average`.
        sigmas: Noise levels, [0, 255] scale.
        inference: How the final model is served; in tiles no larger than a photograph.
        seed: Of the noise.
        bm3d: Whether BM3D is measured as well.

    Yields:
        For each photograph, level and protocol: the scores, and the 8-bit images by system name.
    """
    for image_id, reference in clean.items():
        plan = inference.within(*reference.shape[:2])
        for sigma in sigmas:
            leveled = {name: at_level(network, sigma) for name, network in networks.items()}
            where = {"image_id": image_id, "sigma": sigma}
            final = {name: network for name, network in leveled.items() if name == "final"}

            noisy = noisy_photograph(reference, image_id, sigma, "clipped", seed)
            baselines = _baselines(to_8_bit(noisy), sigma, bm3d=bm3d)
            images = {"noisy": to_8_bit(noisy), **baselines}
            for name, network in leveled.items():
                images[name] = tiled(network, plan, batch=2)(images["noisy"])
            bases = [image for name, image in images.items() if name.startswith("base:")]
            if bases:
                images["average"] = np.rint(np.mean(bases, axis=0)).astype(np.uint8)
            yield _scores(images, reference, noisy, protocol="clipped", **where), images

            noisy = noisy_photograph(reference, image_id, sigma, "unclipped", seed)
            # The baselines take 8-bit input only, which is the same in both protocols, and so is their result.
            images = {"noisy": to_8_bit(noisy), **baselines}
            images |= {
                name: restore_whole(network, noisy, orientations=inference.orientations)
                for name, network in final.items()
            }
            yield _scores(images, reference, noisy, protocol="unclipped", **where), images

            for protocol in JPEG:
                noisy = noisy_photograph(reference, image_id, sigma, protocol, seed)
                images = {"noisy": to_8_bit(noisy), **_baselines(to_8_bit(noisy), sigma, bm3d=bm3d)}
                for name, network in final.items():
                    images[name] = tiled(network, plan, batch=2)(images["noisy"])
                yield _scores(images, reference, noisy, protocol=protocol, **where), images


def open_pairs(given: Pairs) -> ImageSet:
    """Finds the real pairs of the settings.

    Raises:
        SourceError: They are not there, or not those that the settings mean.
    """
    pairs = open_set(given.folder, None)
    if pairs.pairs is None:
        raise SourceError(
            "The folder holds no pairs",
            where=given.folder,
            why=f"it has none of the subfolders {', '.join(' and '.join(pair) for pair in FOLDERS)}",
            next_step="put both images of each pair there, under the same name",
        )
    if (found := sha256_folder(given.folder)) != given.sha256:
        raise SourceError(
            "The pairs have changed",
            where=given.folder,
            why=f"sha256 is {found}, not {given.sha256}",
            next_step="write the new sha256 to evaluate.pairs in params.yaml, or bring the old pairs back",
        )
    return pairs


def evaluate_pairs(
    pairs: Iterable[Example], final: nn.Module, inference: Inference, *, bm3d: bool = False
) -> Iterator[tuple[list[Score], dict[str, np.ndarray]]]:
    """Runs the baselines and the final model on real pairs, in tiles as it is served.

    What needs a noise level is given an estimate from the noisy image, since nobody knows the level of a real one: the
    one of `relume.curation.quality.image_noise`.

    Args:
        pairs: Both images uint8 (H, W, 3).
        final: In eval mode.
        inference: How the final model is served; in tiles no larger than a photograph.
        bm3d: Whether BM3D is measured as well.

    Yields:
        For each pair the scores, and the 8-bit images by system name.
    """
    for pair in pairs:
        assert pair.degraded is not None
        noisy = pair.degraded
        sigma = round(image_noise(noisy), 2)
        restore = tiled(at_level(final, sigma), inference.within(*noisy.shape[:2]), batch=2)
        images = {"noisy": noisy, **_baselines(noisy, sigma, bm3d=bm3d), "final": restore(noisy)}
        where = {"image_id": pair.image_id, "sigma": sigma, "protocol": PAIRS}
        yield _scores(images, pair.clean, noisy.astype(np.float32) / np.float32(255), **where), images


def _baselines(noisy: np.ndarray, sigma: float, *, bm3d: bool) -> dict[str, np.ndarray]:
    """What the denoisers without a network make of an 8-bit image, by system name."""
    images = {"blur": gaussian_blur(noisy, sigma), "nlm": non_local_means(noisy, sigma)}
    if bm3d:
        images["bm3d"] = block_matching(noisy, sigma)
    return images


def _scores(images: dict[str, np.ndarray], reference: np.ndarray, noisy: np.ndarray, **where: Any) -> list[Score]:
    """Scores of 8-bit images; the noisy input itself is measured as it is, before any rounding."""
    measured = {name: measure(image, reference) for name, image in images.items() if name != "noisy"}
    measured = {"noisy": measure(noisy, reference, unrounded=True), **measured}
    return [Score(system=name, **metrics._asdict(), **where) for name, metrics in measured.items()]


def summarize(scores: list[Score]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Means over the photographs: protocol, then system, then `sigma_25`, then psnr and ssim, to four decimals.

    Pairs have estimated levels, each its own, so they are one level: `all`.
    """
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        level = "all" if score.protocol == PAIRS else f"sigma_{score.sigma:g}"
        groups.setdefault((score.protocol, score.system, level), []).append(score)
    summary: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (protocol, system, level), members in groups.items():
        summary.setdefault(protocol, {}).setdefault(system, {})[level] = {
            "psnr": round(float(np.mean([score.psnr for score in members])), 4),
            "ssim": round(float(np.mean([score.ssim for score in members])), 4),
        }
    return summary
