"""The graph's evaluation: every system on the same degraded held-out photographs, and on real pairs.

The task says which degradations are measured, and under which protocols (`relume.evaluation.tasks`). The protocols are
those of `relume evaluate`; those of white Gaussian noise have names and noise of their own here:

- clipped: noise clipped and rounded to 8 bits, as real files hold it. This is the product's protocol.
- unclipped: noise in float, the network on the whole photograph in process, as the published tables.
- jpeg85, jpeg95: the clipped noise saved as JPEG of that quality, as most noisy photographs arrive. JPEG spreads the
  noise over its blocks, so that a network which knows white noise alone takes it for detail.

Held-out pairs are measured under the protocol `paired`, the pairs of the settings under `pairs`.

In all but `unclipped` the photograph goes through the tiler and the 8-bit tensors that are served.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from relume.curation.quality import image_noise
from relume.degradations import add_gaussian_noise, compress_jpeg, counter_rng
from relume.errors import ConfigError, SourceError
from relume.evaluation.baselines import best_filters, block_matching, filters, gaussian_blur, non_local_means
from relume.evaluation.benchmark.protocols import PROTOCOLS, Protocol, make_input, shrunk
from relume.evaluation.benchmark.sets import Example, ImageSet, open_set
from relume.evaluation.card import PAIRED, PAIRS
from relume.evaluation.networks import at_level, restore_whole, tiled
from relume.evaluation.settings import EvaluateSettings, Pairs
from relume.files import sha256_folder
from relume.images import read_image
from relume.inference.plan import Inference
from relume.ingestion.layouts import FOLDERS
from relume.metrics import measure, to_8_bit
from relume.serving.levels import LevelRange, level_for

JPEG = {"jpeg85": 85, "jpeg95": 95}
WHITE_NOISE = {"clipped": "awgn-clipped", "unclipped": "awgn", "jpeg85": "awgn-jpeg85", "jpeg95": "awgn-jpeg95"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One system on one degraded photograph.

    Attributes:
        system: Such as `noisy`, `blur`, `nlm`, `base:nafnet`, `final`; `blind` is the final model at the level that its
            level estimator estimates.
        image_id: The photograph.
        level: Of the protocol's parameter, such as the sigma of the noise; of a pair the estimated sigma.
        protocol: Such as `clipped`; `paired` or `pairs` for real pairs.
        psnr: In dB of the 8-bit result, over all RGB values or over the luma, inside of a border, as the protocol says.
        ssim: Mean over the channels that are measured.
        estimated: The level that the system `blind` was given.
    """

    system: str
    image_id: str
    level: float
    protocol: str
    psnr: float
    ssim: float
    estimated: float | None = None


def photographs(folder: str | Path) -> dict[str, np.ndarray]:
    """The photographs of a folder by file name without suffix, uint8 (H, W, 3) RGB, in the order of names."""
    return {path.stem: read_image(path).pixels for path in sorted(Path(folder).glob("[!.]*.png"))}


def held_out_pairs(folder: str | Path) -> list[Example]:
    """The pairs among the photographs of a folder, in the order of names."""
    return [
        Example(image_id=path.stem, clean=read_image(Path(folder, path.name)).pixels, degraded=read_image(path).pixels)
        for path in sorted(Path(folder, "degraded").glob("[!.]*.png"))
    ]


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


def protocol_of(name: str) -> Protocol:
    """What a protocol of the tasks does and measures."""
    return PROTOCOLS[WHITE_NOISE.get(name, name)]


def degraded_photograph(
    clean: np.ndarray, image_id: str, level: float, protocol: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The degraded version of a photograph that every system is measured on.

    Args:
        clean: uint8 (H, W, 3).
        image_id: Hexadecimal name; what is random depends on it, on the seed and, in white noise, on the level.
        level: Of the protocol's parameter.
        protocol: Of a task.
        seed: Of what is random.

    Returns:
        float32 (H, W, 3) in [0, 1], or around it when unclipped; and the clean photograph, uint8, of the same size,
        which for super-resolution is a multiple of the scale.
    """
    if protocol in WHITE_NOISE:
        return noisy_photograph(clean, image_id, level, protocol, seed), clean
    example = Example(image_id=image_id, clean=clean, degraded=None)
    degraded, example = make_input(PROTOCOLS[protocol], level, example, seed=seed)
    return degraded, example.clean


def evaluate_held_out(
    clean: dict[str, np.ndarray],
    networks: dict[str, nn.Module],
    settings: EvaluateSettings,
    inference: Inference,
    *,
    levels: LevelRange | None = None,
    estimate: Callable[[np.ndarray], float] | None = None,
) -> Iterator[tuple[list[Score], dict[str, np.ndarray]]]:
    """Runs all systems on all photographs, levels and protocols; in all but the product's the baselines and `final`.

    Adjustable networks are given the true level where it is of their kind, as the baselines are, else their default.
    With a level estimator the final model is measured at the estimated level as well, as the system `blind`.

    Args:
        clean: Held-out photographs by id, uint8 (H, W, 3).
        networks: By system name, in eval mode. The mean of those named `base:...` is added as `average`.
        settings: The task and its levels.
        inference: How the final model is served; in tiles no larger than a photograph. Networks that enlarge are given
            the small photograph, see `relume.evaluation.benchmark.protocols.shrunk`.
        levels: Those of adjustable networks.
        estimate: Estimates the level of an 8-bit image for the final model.

    Raises:
        ConfigError: The networks enlarge, but not as much as a level of the settings.

    Yields:
        For each photograph, level and protocol: the scores, and the 8-bit images by system name.
    """
    if problem := settings.scale_problem(inference.scale):
        raise ConfigError(
            "The model cannot be measured on its task", where=problem, next_step="correct evaluate in recipe.yaml"
        )
    for image_id, photograph in clean.items():
        for degradation, chosen in settings.measured():
            for level in chosen:
                given = level_for(levels, degradation.parameter, level)
                leveled = networks if given is None else {n: at_level(each, given) for n, each in networks.items()}
                final = {name: network for name, network in leveled.items() if name == "final"}
                shown: np.ndarray | None = None
                baselines: dict[str, np.ndarray] = {}
                for protocol in degradation.protocols:
                    degraded, reference = degraded_photograph(photograph, image_id, level, protocol, settings.seed)
                    before, shown = shown, to_8_bit(degraded)
                    # The baselines take 8-bit input only, which is the same clipped and unclipped.
                    if before is None or not np.array_equal(before, shown):
                        baselines = _baselines(shown, level, settings)
                    seen = degraded if inference.scale == 1 else shrunk(reference, inference.scale)
                    run = _runner(protocol, seen, to_8_bit(seen), inference)
                    first = protocol == degradation.protocols[0]
                    restored = {name: run(name, network) for name, network in (leveled if first else final).items()}
                    if bases := [image for name, image in restored.items() if name.startswith("base:")]:
                        restored["average"] = np.rint(np.mean(bases, axis=0)).astype(np.uint8)
                    estimated = None
                    if levels is not None and estimate is not None:
                        estimated = levels.nearest(estimate(shown))
                        restored["blind"] = run("blind", at_level(networks["final"], estimated))
                    images = {settings.the_task.input: shown, **baselines, **restored}
                    where = {"image_id": image_id, "level": level, "protocol": protocol}
                    scores = _scores(images, reference, degraded, protocol_of(protocol), **where)
                    yield (
                        [replace(each, estimated=estimated) if each.system == "blind" else each for each in scores],
                        images,
                    )


def _runner(
    protocol: str, degraded: np.ndarray, shown: np.ndarray, inference: Inference
) -> Callable[[str, nn.Module], np.ndarray]:
    """How a network restores an image under a protocol: whole when it is unclipped, else in tiles as it is served.

    Finished images are fused for the final model alone, so that the ensemble shows what that is worth; a base model
    has its own tiles.
    """

    def run(system: str, network: nn.Module) -> np.ndarray:
        plan = inference
        if system != "final":
            plan = inference.of_base(system.removeprefix("base:"))
        if protocol_of(protocol).unclipped:
            return restore_whole(network, degraded, plan)
        return tiled(network, plan.within(*shown.shape[:2]), batch=2)(shown)

    return run


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
            why=f"it has none of the subfolders {', '.join(' and '.join(pair) for pair in FOLDERS.values())}",
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
    pairs: Callable[[], Iterable[Example]],
    final: nn.Module,
    settings: EvaluateSettings,
    inference: Inference,
    protocol: str,
    *,
    levels: LevelRange | None = None,
    estimate: Callable[[np.ndarray], float] | None = None,
) -> Iterator[tuple[list[Score], dict[str, np.ndarray]]]:
    """Runs the final model on real pairs, in tiles as it is served; of a task of noise the classical denoisers as well.

    The filters are at the one setting that is best on these pairs (`relume.evaluation.baselines.best_filters`). What
    else needs a sigma is given an estimate from the noisy image, since nobody knows the level of a real one: the final
    model that of its level estimator where it has one, else that of `relume.curation.quality.image_noise`.

    Args:
        pairs: Gives the pairs, from the first one at each call; both images uint8 (H, W, 3).
        final: In eval mode.
        settings: The task, and whether BM3D is measured.
        inference: How the final model is served; in tiles no larger than a photograph.
        protocol: What the scores are called: `pairs`, or `paired` for held-out pairs.
        levels: Those of an adjustable model.
        estimate: Estimates the level of an 8-bit image for it.

    Yields:
        For each pair the scores, and the 8-bit images by system name.
    """
    of_noise = settings.the_task.input == "noisy"
    best = best_filters((_degraded(pair), pair.clean) for pair in pairs()) if of_noise else {}
    for pair in pairs():
        noisy = _degraded(pair)
        sigma = round(image_noise(noisy), 2)
        given = level_for(levels, "sigma", sigma)
        if levels is not None and estimate is not None:
            given = levels.nearest(estimate(noisy))
        network = final if given is None else at_level(final, given)
        restore = tiled(network, inference.within(*noisy.shape[:2]), batch=2)
        images = {settings.the_task.input: noisy}
        images |= {name: filters()[name][setting](noisy) for name, setting in best.items()}
        if of_noise and settings.bm3d:
            images["bm3d"] = block_matching(noisy, sigma)
        images["final"] = restore(noisy)
        where = {"image_id": pair.image_id, "level": sigma, "protocol": protocol}
        unrounded = noisy.astype(np.float32) / np.float32(255)
        yield _scores(images, pair.clean, unrounded, PROTOCOLS["paired"], **where), images


def _degraded(pair: Example) -> np.ndarray:
    """The degraded image of a pair, which a set of pairs always has."""
    assert pair.degraded is not None
    return pair.degraded


def _baselines(noisy: np.ndarray, sigma: float, settings: EvaluateSettings) -> dict[str, np.ndarray]:
    """What the baselines of a task make of an 8-bit image, by system name; the input itself is none of them."""
    if settings.the_task.baseline != "nlm":
        return {}
    images = {"blur": gaussian_blur(noisy, sigma), "nlm": non_local_means(noisy, sigma)}
    if settings.bm3d:
        images["bm3d"] = block_matching(noisy, sigma)
    return images


def _scores(
    images: dict[str, np.ndarray], reference: np.ndarray, degraded: np.ndarray, measured_as: Protocol, **where: Any
) -> list[Score]:
    """Scores of 8-bit images; the input, which is the first, is measured as it is, before any rounding."""
    how: dict[str, Any] = {"on_luma": measured_as.luma, "border": measured_as.border_at(where["level"])}
    measured = {name: measure(image, reference, **how) for name, image in images.items()}
    measured[next(iter(images))] = measure(degraded, reference, unrounded=True, **how)
    return [Score(system=name, **metrics._asdict(), **where) for name, metrics in measured.items()]


def summarize(scores: list[Score]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Means over the photographs: protocol, then system, then `sigma_25`, then psnr and ssim, to four decimals.

    `blind` has the accuracy of its level estimator as well, in percent: 1 - the mean relative error of the level.

    Pairs have estimated levels, each its own, so they are one level: `all`.
    """
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        level = "all" if score.protocol in (PAIRS, PAIRED) else level_name(score.protocol, score.level)
        groups.setdefault((score.protocol, score.system, level), []).append(score)
    summary: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (protocol, system, level), members in groups.items():
        found = summary.setdefault(protocol, {}).setdefault(system, {})[level] = {
            "psnr": round(float(np.mean([score.psnr for score in members])), 4),
            "ssim": round(float(np.mean([score.ssim for score in members])), 4),
        }
        if estimates := [(score.estimated, score.level) for score in members if score.estimated is not None]:
            errors = [abs(estimated - true) / true for estimated, true in estimates]
            found["accuracy"] = round(100 * (1 - float(np.mean(errors))), 4)
    return summary


def level_name(protocol: str, level: float) -> str:
    """A level as the card of metrics names it, such as `sigma_25`."""
    return f"{protocol_of(protocol).parameter}_{level:g}"
