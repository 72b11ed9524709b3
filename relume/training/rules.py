"""What can be trained: the rules that the training loop and the check of recipes share."""

import inspect
import math
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from torch import nn

from relume.counts import counted
from relume.degradations import Degradation
from relume.errors import ConfigError
from relume.models.registry import ARCHITECTURES, inputs_of, scale_of
from relume.training.augmentation import mixes_levels
from relume.training.config import EstimateLevel, EveryLevel, Method, ResolvedPhase, ResolvedStage, Schedule

if TYPE_CHECKING:
    from relume.training.batches import TrainingCrops


def problems(stage: ResolvedStage, network: nn.Module, *, ranks: int, side: int) -> Iterator[ConfigError]:
    """What is wrong with a training, each as the error that refuses it. The loop raises the first, a check lists all.

    Args:
        stage: Its phases, schedules and method.
        network: Whose parameters that require gradients are trained; on any device, the meta device too.
        ranks: Processes that share each batch.
        side: Of the patches, in pixels.
    """
    for number, phase in enumerate(stage.phases):
        where = f"phases[{number}]"
        yield from _crops(phase, network, where, ranks=ranks, side=side)
        yield from _trained(phase, network, where)
        yield from level_problems(phase.degradation, network, where=f"{where}.degradation", method=stage.method)
        yield from scale_problems(phase.degradation, network, where=f"{where}.degradation")
        yield from condition_problems(phase.degradation, network, where=f"{where}.degradation")
        if mixes_levels(phase.degradation, phase.augmentation):
            yield ConfigError(
                "A mixture of two degradations has no level",
                where=f"{where}, mixup: {phase.augmentation.mixup:g}, level: {phase.degradation.level}",
                why="augmentation.mixup mixes two degradations, but degradation.level is a number of only one",
                next_step="set augmentation.mixup to 0 or remove degradation.level in recipe.yaml",
            )
    yield from _schedules(stage)
    yield from _method(stage, network)


def data_problems(stage: ResolvedStage, network: nn.Module, crops: "TrainingCrops") -> Iterator[ConfigError]:
    """What is wrong with the sets that phases draw from, which only the curated data shows.

    Args:
        stage: Its phases.
        network: What is trained.
        crops: Of the curated data.
    """
    for number, phase in enumerate(stage.phases):
        where = f"phases[{number}].data"
        if phase.data is not None:
            known = sorted(set(crops.patches.table().set.tolist()))
            if unknown := [name for name in phase.data if name not in known]:
                yield ConfigError(
                    "A phase names a set that is not in the curated data",
                    where=f"{where}.{unknown[0]}",
                    why=f"the sets with training patches are {', '.join(known)}",
                    next_step="correct the name in recipe.yaml, or list the set with `relume data scan NAME=FOLDER`",
                )
                continue
            wanted = {bounds.score: name for name, choice in phase.choices for bounds in choice.scores}
            scores = crops.patches.scores() if wanted else None
            if unmeasured := sorted(wanted.keys() - set(scores.names if scores else ())):
                yield ConfigError(
                    "A phase chooses by a score that the curated data does not have",
                    where=f"{where}.{wanted[unmeasured[0]]}.scores: {unmeasured[0]}",
                    why=f"the scores are {', '.join(scores.names)}" if scores else "there is no scores.parquet",
                    next_step="correct the name, or have the scores measured by a rule that keeps all, such as"
                    " curate.keep: {fraction: 1.0, by: [niqe]}",
                )
                continue
            orders = crops.mixture(phase.choices).orders
            if empty := [name for name, order in orders.items() if not len(order.indices)]:
                yield ConfigError(
                    "A phase leaves no patch of a set",
                    where=f"{where}.{empty[0]}",
                    why="none is as sharp, has as little flat area, and has such scores, as the phase asks for",
                    next_step="lower min_sharpness, raise max_flat_fraction or widen scores in recipe.yaml",
                )
                continue
        if crops.draws_pairs(phase.choices):
            yield from pair_problems(network, where=where, method=stage.method)


def pair_problems(network: nn.Module, *, where: str, method: Method | None = None) -> Iterator[ConfigError]:
    """Whether a network can be run on pairs, whose level nobody knows and whose images have one size.

    Args:
        network: The network.
        where: The key of what draws the pairs.
        method: Of its training.
    """
    if _needs_level(network, method):
        yield ConfigError(
            "A network that needs levels cannot be trained on pairs",
            where=where,
            why="it must be given the level of each image, and pairs have none",
            next_step="choose sets of photographs in the phase's data, or a network that takes no level",
        )
    if scale_of(network) > 1:
        yield ConfigError(
            "A network that enlarges cannot be trained on pairs",
            where=where,
            why="both images of a pair have the same size",
            next_step="choose sets of photographs in the phase's data",
        )


def level_problems(
    degradation: Degradation, network: nn.Module, *, where: str, method: Method | None = None
) -> Iterator[ConfigError]:
    """Whether a network takes a level, or estimates it, if and only if the degradation names one.

    Args:
        degradation: Of what the network restores.
        network: The network.
        where: The key of the degradation.
        method: Of its training.
    """
    needed = _needs_level(network, method)
    does = "estimates levels" if isinstance(method, EstimateLevel) else "is adjustable"
    if needed != (degradation.level is not None):
        yield ConfigError(
            "Network and degradation do not agree on a level",
            where=f"{where}.level: {degradation.level}",
            why=f"the network {does} and must be given a level" if needed else "the network takes no level",
            next_step="set degradation.level in recipe.yaml" if needed else "remove degradation.level",
        )


def scale_problems(degradation: Degradation, network: nn.Module, *, where: str) -> Iterator[ConfigError]:
    """Whether a network enlarges images as much as the degradation shrinks them.

    Args:
        degradation: Of what the network restores.
        network: The network.
        where: The key of the degradation.
    """
    if (scale := scale_of(network)) != degradation.scale:
        yield ConfigError(
            "Network and degradation do not agree on the size of images",
            where=f"{where}: {degradation}",
            why=f"the network makes images {scale} times as large, the degradation {degradation.scale} times as small",
            next_step="set `upscale` of the network and `scale` of the step shrink in recipe.yaml to the same",
        )


def condition_problems(degradation: Degradation, network: nn.Module, *, where: str) -> Iterator[ConfigError]:
    """Whether a network takes as many conditions as the degradation gives it.

    Args:
        degradation: Of what the network restores.
        network: The network.
        where: The key of the degradation.
    """
    given, taken = len(degradation.conditions), len(getattr(network, "norms", ()))
    if given and given != taken:
        yield ConfigError(
            "Network and degradation do not agree on the conditions",
            where=f"{where}.conditions: {', '.join(degradation.conditions)}",
            why=f"the network takes {taken or 'one level and no'} conditions",
            next_step="name as many conditions as the network has norms, or remove degradation.conditions",
        )


def _needs_level(network: nn.Module, method: Method | None) -> bool:
    return "level" in inputs_of(network) or isinstance(method, EstimateLevel)


def workers_problem(stage: ResolvedStage, *, workers: int, ahead: int, free: int) -> ConfigError | None:
    """Whether the batches that workers prepare fit into shared memory, where they wait for ever or die if they do not.

    Args:
        stage: Its phases and method.
        workers: Processes of one rank that prepare batches.
        ahead: Batches that each prepares ahead; it is preparing one more.
        free: Bytes that are free in /dev/shm.
    """
    levels = len(stage.method.levels) if isinstance(stage.method, EveryLevel) else 1
    crops = max(phase.batch * phase.patch**2 for phase in stage.phases)  # of all ranks together
    needed = crops * 3 * 4 * (1 + levels) * (ahead + 1) * workers
    if needed <= free:
        return None
    return ConfigError(
        "The batches that workers prepare do not fit into shared memory",
        where=f"training.workers: {workers}",
        why=f"{needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free in /dev/shm",
        next_step="lower training.workers in recipe.yaml (0 needs none), or enlarge /dev/shm (docker run --shm-size)",
    )


def crop_multiple(network: nn.Module) -> int:
    """Pixels of which a crop's side must be a multiple, so that no training crop is padded inside the network."""
    families = {name for _, name in ARCHITECTURES.values()}
    found = [module for module in network.modules() if type(module).__name__ in families]
    return math.lcm(*(getattr(module, "size_multiple", getattr(module, "window", 1)) for module in found))


def _crops(phase: ResolvedPhase, network: nn.Module, where: str, *, ranks: int, side: int) -> Iterator[ConfigError]:
    multiple = crop_multiple(network) * (scale := scale_of(network))
    if phase.patch % multiple:
        enlarges = f", whose input is {scale} times as small" if scale > 1 else ""
        yield ConfigError(
            "The crops of a phase do not fit the network",
            where=f"{where}.patch: {phase.patch}",
            why=f"patch {phase.patch} is not a multiple of {multiple}, as the network needs{enlarges}",
            next_step=f"make patch a multiple of {multiple} in recipe.yaml",
        )
    if phase.patch > side:
        yield ConfigError(
            "The crops of a phase are larger than the patches",
            where=f"{where}.patch: {phase.patch}",
            why=f"curate.patch is {side}",
            next_step="raise curate.patch or lower the phase's patch in recipe.yaml",
        )
    if phase.batch % (ranks * phase.accumulate):
        yield ConfigError(
            "A batch cannot be divided evenly",
            where=f"{where}.batch: {phase.batch}",
            why=f"there are {ranks} processes, and each accumulates gradients over {phase.accumulate} parts",
            next_step="make batch a multiple of processes times accumulate in recipe.yaml",
        )


def _trained(phase: ResolvedPhase, network: nn.Module, where: str) -> Iterator[ConfigError]:
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for pattern in phase.train:
        if not any(fnmatch(name, pattern) for name in names):
            yield ConfigError(
                "A `train` pattern matches no trainable parameter",
                where=f"{where}.train: {pattern!r}",
                why=f"the trainable parameters are {', '.join(names[:4])} ..."
                if names
                else "the network has no trainable parameters",
                next_step="correct the patterns in recipe.yaml",
            )


def _schedules(stage: ResolvedStage) -> Iterator[ConfigError]:
    shared = sum(phase.steps for phase in stage.phases if phase.schedule is None)
    found: list[tuple[str, Schedule, int]] = [("optimizer", stage.optimizer, shared)] if shared else []
    for number, phase in enumerate(stage.phases):
        if phase.schedule is not None:
            found.append((f"phases[{number}].schedule", phase.schedule, phase.steps))
    for where, schedule, steps in found:
        ends = {
            "warmup": (schedule.warmup, schedule.warmup),
            "milestones": (list(schedule.milestones), max(schedule.milestones, default=0)),
            "periods": (list(schedule.periods), schedule.warmup + sum(schedule.periods[:-1])),
        }
        for key, (value, end) in ends.items():
            if value and end >= steps:
                yield ConfigError(
                    "A schedule is longer than its training",
                    where=f"{where}.{key}: {value}",
                    why=f"it has {counted(steps, 'step')}",
                    next_step=f"lower {key} or raise the steps of the phases in recipe.yaml",
                )


def _method(stage: ResolvedStage, network: nn.Module) -> Iterator[ConfigError]:
    kind = stage.method.kind
    able = {
        "every_level": ("a network that runs several levels at once", hasattr(network, "forward_many")),
        "alternate_reuse": (
            "a network whose blocks are reused",
            "reuse" in inspect.signature(network.forward).parameters,
        ),
        "estimate_level": ("a level_estimator", type(network).__name__ == ARCHITECTURES["level_estimator"][1]),
    }
    if kind in able and not able[kind][1]:
        yield ConfigError(
            "The method does not fit the network",
            where=f"method: {kind}, {type(network).__name__}",
            why=f"{kind} needs {able[kind][0]}",
            next_step="choose method plain in recipe.yaml",
        )
    elif kind != "estimate_level" and type(network).__name__ == ARCHITECTURES["level_estimator"][1]:
        yield ConfigError(
            "The method does not fit the network",
            where=f"method: {kind}, {type(network).__name__}",
            why="the network restores no images; it estimates their level",
            next_step="choose method estimate_level in recipe.yaml",
        )
