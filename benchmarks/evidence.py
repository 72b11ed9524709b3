"""Whether the methods work: trainings of the recipes on real photographs, and the tables of docs/results.md.

    python -m benchmarks.evidence --train PHOTOGRAPHS --test PHOTOGRAPHS --share 0.25 --folder .relume/evidence
    python -m benchmarks.evidence ... --only ensemble hard_mining
    python -m benchmarks.evidence ... --scale demo --share 5 --seeds 7 8 9 --only level_network

Each comparison trains two or more networks that differ in one thing, for a multiple of the recipe's steps (phases are
shortened or lengthened alike), and restores the centres of test photographs that no training saw. A training that was
finished or interrupted earlier in the same folder is not done again. Differences are means over photographs of paired
differences, with a 95 % bootstrap interval; with several seeds, a photograph counts with its mean over the trainings,
and the lowest and highest difference of a seed are kept beside it.
"""

import argparse
import copy
import csv
import datetime
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from relume.degradations import Degradation, counter_rng, degrade
from relume.evaluation.comparison import bootstrap_interval
from relume.evaluation.networks import ALONE, at_level, level_estimate, run_whole
from relume.files import sha256_file, write_json
from relume.images import read_image
from relume.inference.level import AtLevel
from relume.inference.plan import EdgeFusion, Inference
from relume.metrics import psnr
from relume.models.artifact import ModelCard, load_card, load_model, save_model
from relume.models.dni import interpolate
from relume.models.ensemble import Average
from relume.models.fusion.assembly import fuse
from relume.models.registry import build
from relume.reading import read_json
from relume.recipes.recipe import resolve
from relume.training.batches import TrainingCrops
from relume.training.checkpoint import Checkpoint
from relume.training.config import StageSettings, TrainingSettings
from relume.training.loop import train
from relume.training.mining import hard_count, hard_epoch, hardest_first, patch_losses
from relume.training.patches import PatchShards
from relume.training.stages import FusionSettings
from relume.training.validation import Validation

SEED = 7
SPLIT = Path("reference/polyu_split.csv")  # of PolyU's scenes
SIGMAS = (15, 25, 50)
SIDE = 96  # of the training patches, cut at random, PATCHES from each photograph
PATCHES = 4
MEASURED = 256  # side of the centre of each test photograph that is restored; whole ones would take six times as long
NOTHING = Validation(value=0.0, image=np.zeros((1, 3, 3), np.uint8))


def awgn(sigma: float, **more: Any) -> dict[str, Any]:
    """White Gaussian noise of one level, clipped and rounded to 8 bits."""
    return {"steps": [{"kind": "gaussian_noise", "sigma": [sigma, sigma], "clipped": 1.0}], **more}


UNSEEN = {
    "Gaussian 15 (seen)": awgn(15),
    "Gaussian 25": awgn(25),
    "Gaussian 50": awgn(50),
    "Poisson": {"steps": [{"kind": "poisson_noise", "clipped": 1.0}]},
    "speckle 0.024": {"steps": [{"kind": "speckle_noise", "variance": [0.024, 0.024], "clipped": 1.0}]},
    "salt and pepper 0.002": {"steps": [{"kind": "salt_and_pepper", "density": [0.002, 0.002], "clipped": 1.0}]},
    "rendering 64": {"steps": [{"kind": "rendering_noise", "rays": [64, 64], "clipped": 1.0}]},
    "mixture 25": {
        "steps": [
            {"kind": "speckle_noise", "variance": [0.024, 0.024], "clipped": 0.0},
            {"kind": "gaussian_noise", "sigma": [25, 25], "clipped": 0.0},
            {"kind": "salt_and_pepper", "density": [0.002, 0.002], "clipped": 1.0},
        ]
    },
    "correlated 25": {"steps": [{"kind": "correlated_noise", "sigma": [25, 25], "width": [1.0, 1.0], "clipped": 1.0}]},
}


class Evidence:
    """Data, trainings and measurements that the comparisons share.

    Args:
        folder: Keeps patches, checkpoints and trained networks.
        training: Folder of photographs to train on.
        test: Folder of photographs to measure on.
        pairs: Folder of PolyU's pairs; only the comparison of camera noise needs it.
        share: Multiple of the recipes' steps.
        scale: Of the recipes.
        seed: Of weights, order, crops and noise of the trainings; those that are measured are always the same.
    """

    def __init__(
        self, folder: Path, training: Path, test: Path, pairs: Path | None, *, share: float, scale: str, seed: int
    ):
        # Networks trained for another share, at another scale or with another seed are others.
        self.folder, self.share = folder / scale / f"{share:g}" / f"seed-{seed}", share
        self.root, self.scale, self.seed = folder, scale, seed
        self.photographs = [centre(read_image(path).pixels) for path in sorted(test.iterdir())]
        self.training, self.pairs = training, pairs
        self.patches = self.cut(SIDE)

    def recipe(self, name: str) -> dict[str, Any]:
        """A recipe at the scale."""
        return resolve(name, self.scale)

    def cut(self, side: int) -> PatchShards:
        """Patches of a side from the photographs to train on."""
        patches = self.root / f"patches-{side}"
        if not (patches / "train-00000.npy").exists():
            patches.mkdir(parents=True, exist_ok=True)
            found = []
            for number, path in enumerate(sorted(self.training.iterdir())):
                image, rng = read_image(path).pixels, counter_rng(SEED, "order", number)
                for _ in range(PATCHES):
                    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
                    found.append(image[top : top + side, left : left + side])
            np.save(patches / "train-00000.npy", np.stack(found))
        return PatchShards(patches)

    def cut_pairs(self, pairs: list["Pair"]) -> PatchShards:
        """As many patches of each pair, degraded and clean at one place, as there are of all photographs together."""
        patches = self.root / f"pairs-{SIDE}"
        if not (patches / "pairs-00000.npy").exists():
            patches.mkdir(parents=True, exist_ok=True)
            found = []
            for number, pair in enumerate(pairs):
                rng = counter_rng(SEED, "order", number)
                for _ in range(len(self.patches) // len(pairs)):
                    top, left = (int(rng.integers(0, length - SIDE + 1)) for length in pair[0].shape[:2])
                    found.append([side[top : top + SIDE, left : left + SIDE] for side in pair])
            np.save(patches / "pairs-00000.npy", np.array(found))
        return PatchShards(patches)

    def settings(self, section: dict[str, Any], side: int, model: type[StageSettings] = StageSettings) -> StageSettings:
        """A stage of a recipe with its steps shortened to the share."""
        section = copy.deepcopy({key: value for key, value in section.items() if key in model.model_fields})
        for phase in section["phases"]:
            phase["steps"] = max(20, round(phase["steps"] * self.share))
            phase["patch"] = min(phase["patch"], side)
        section["optimizer"]["warmup"] = round(section["optimizer"].get("warmup", 0) * self.share)
        return model.model_validate(section)

    def trained(
        self,
        name: str,
        network: "Made",
        section: dict[str, Any],
        training: dict[str, Any],
        *,
        indices: Sequence[int] | None = None,
        patches: PatchShards | None = None,
    ) -> nn.Module:
        """The network of this name, trained if that was not done before.

        Args:
            name: Of the training; its artifact and checkpoint are called so.
            network: Makes network, architecture and arguments to start from.
            section: The recipe's stage.
            training: The recipe's `training`.
            indices: Patches of an epoch.
            patches: Others than those of the folder.
        """
        patches = patches or self.patches
        artifact = self.folder / "models" / name
        if not artifact.exists():
            torch.manual_seed(self.seed)
            made, architecture, arguments = network()
            settings = TrainingSettings.model_validate(
                training
                | {"seed": self.seed, "threads": torch.get_num_threads(), "validations": 1, "checkpoint_seconds": 60}
            )
            start = last = time.monotonic()

            def progress(step: int, steps: int, *_: Any) -> None:
                nonlocal last
                if time.monotonic() - last > 30:
                    print(f"{name}: step {step} of {steps}", flush=True)
                    last = time.monotonic()

            history = train(
                made.train(),
                TrainingCrops(patches, seed=self.seed, indices=indices),
                stage=self.settings(section, patches.side),
                training=settings,
                checkpoint=Checkpoint(self.folder / "checkpoints", name),
                validate=lambda network: NOTHING,
                report=progress,
            )
            seconds = time.monotonic() - start
            print(f"{name}: {history[-1]['step']} steps in {seconds:.0f} s", flush=True)
            card = ModelCard(architecture=architecture, arguments=arguments, trained_for={}, provenance={})
            save_model(artifact, made, card)
        return load_model(artifact)

    @torch.inference_mode()
    def psnrs(self, network: nn.Module, degradation: dict[str, Any]) -> list[float]:
        """PSNR in dB of each test photograph, degraded with a seed of its own; the result is rounded to 8 bits."""
        settings, found = Degradation.model_validate(degradation), []
        for number, image in enumerate(self.photographs):
            clean = image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            result = degrade(clean, settings, counter_rng(SEED, "evaluation", number))
            restored = (
                network(torch.from_numpy(result.image)[None])[0].clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
            )
            found.append(psnr(restored.transpose(1, 2, 0), image))
        return found

    @torch.inference_mode()
    def accuracies(self, network: nn.Module, sigma: float) -> list[float]:
        """1 - the relative error in percent of the level that is estimated of each noisy test photograph."""
        settings, found = Degradation.model_validate(awgn(sigma)), []
        for number, image in enumerate(self.photographs):
            clean = image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            noisy = degrade(clean, settings, counter_rng(SEED, "evaluation", number)).image
            found.append(100 * (1 - abs(float(network(torch.from_numpy(noisy)[None])) - sigma) / sigma))
        return found


def centre(image: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, 3), at most MEASURED pixels high and wide."""
    top, left = (max(0, side - MEASURED) // 2 for side in image.shape[:2])
    return image[top : top + MEASURED, left : left + MEASURED]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a comparison measured.

    Attributes:
        systems: By system and condition the PSNR in dB of each photograph, or the accuracy in percent.
        pairs: Systems whose paired differences are of interest.
        unit: Of the values.
    """

    systems: dict[str, dict[str, list[float]]]
    pairs: list[tuple[str, str]] = field(default_factory=list)
    unit: str = "PSNR, dB"


def rows_of(of_seeds: Sequence[Measured]) -> dict[str, Any]:
    """Means of each system under each condition, and the paired differences with what they are for each seed."""
    one = of_seeds[0]
    conditions = list(next(iter(one.systems.values())))

    def values(system: str, condition: str) -> np.ndarray:
        """(seeds, photographs)"""
        return np.array([each.systems[system][condition] for each in of_seeds])

    def difference(ours: str, theirs: str, condition: str) -> dict[str, Any]:
        """Mean paired difference and its 95 % bootstrap interval over photographs, and the mean of each seed."""
        found = values(ours, condition) - values(theirs, condition)
        low, high = bootstrap_interval(found.mean(axis=0).tolist(), seed=SEED)
        return {"mean": float(found.mean()), "low": low, "high": high, "seeds": found.mean(axis=1).tolist()}

    return {
        "unit": one.unit,
        "means": {name: {c: float(values(name, c).mean()) for c in conditions} for name in one.systems},
        "of_seeds": {name: {c: values(name, c).mean(axis=1).tolist() for c in conditions} for name in one.systems},
        "differences": {
            f"{ours} - {theirs}": {c: difference(ours, theirs, c) for c in conditions} for ours, theirs in one.pairs
        },
    }


def two_conditions(evidence: Evidence) -> Measured:
    """CResMD that is given blur and noise, against the same when one of them is kept from it."""
    recipe = evidence.recipe("cresmd_blur_noise")
    section = recipe["pretrain"]["bases"]["cresmd"]
    network = evidence.trained("cresmd_blur_noise", of_base(section), section, recipe["training"])
    kept: dict[str, Callable[[float, float], tuple[float, float]]] = {
        "blur and noise": lambda blur, sigma: (blur, sigma),
        "noise alone": lambda blur, sigma: (0, sigma),
        "blur alone": lambda blur, sigma: (blur, 0),
    }
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (*kept, "input as it is")}
    for blur, sigma in ((0, 15), (0, 50), (1, 0), (1, 15), (1, 50), (2, 0), (2, 15), (2, 50)):
        blurring = [{"kind": "gaussian_blur", "sigma_x": [blur, blur]}] if blur else []
        degradation = {"steps": [*blurring, *awgn(sigma)["steps"]]}
        systems = {name: AtLevel(network, told(10 * blur, sigma)).eval() for name, told in kept.items()}
        for name, system in {**systems, "input as it is": nn.Identity()}.items():
            found[name][f"blur {blur}, sigma {sigma}"] = evidence.psnrs(system, degradation)
    return Measured(systems=found, pairs=[("blur and noise", name) for name in list(found)[1:]])


Made = Callable[[], tuple[nn.Module, str, dict[str, Any]]]  # network, architecture and arguments to start from


def of_base(section: dict[str, Any]) -> Made:
    """Makes the untrained network of a recipe's base."""
    name, arguments = section["architecture"], section["arguments"]
    return lambda: (build(name, arguments), name, arguments)


def ensemble_parts(evidence: Evidence) -> tuple[dict[str, Any], nn.Module, dict[str, nn.Module]]:
    """The recipe `ensemble`, its trained ensemble, and its bases."""
    recipe = evidence.recipe("ensemble")
    sections = recipe["pretrain"]["bases"]
    bases = {n: evidence.trained(n, of_base(s), s, recipe["training"]) for n, s in sorted(sections.items())}

    def fused() -> tuple[nn.Module, str, dict[str, Any]]:
        folders = [evidence.folder / "models" / name for name in bases]
        network, plan = fuse(FusionSettings(**recipe["ensemble_head"]["fusion"]), folders)
        return network, plan.architecture, plan.arguments

    head = evidence.trained("ensemble", fused, recipe["ensemble_head"], recipe["training"])
    return recipe, head, bases


def ensemble(evidence: Evidence) -> Measured:
    """The trained head against each base and against the bases' plain average."""
    _, head, bases = ensemble_parts(evidence)
    systems = {**bases, "average": Average(list(bases.values())).eval(), "ensemble": head}
    found = {name: {f"sigma {s}": evidence.psnrs(n, awgn(s)) for s in SIGMAS} for name, n in systems.items()}
    return Measured(systems=found, pairs=[("ensemble", name) for name in systems if name != "ensemble"])


class Planned(nn.Module):
    """A network on a whole image as a plan of inference says, at the level that another network estimates of it.

    Args:
        network: (N, 3, H, W) to the results that the plan takes.
        plan: Of its tiles nothing counts.
        estimator: Of the level, where the network is adjustable.
    """

    def __init__(self, network: nn.Module, plan: Inference = ALONE, estimator: nn.Module | None = None):
        super().__init__()
        self.network, self.plan, self.estimator = network, plan, estimator

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) to the same shape."""
        pixels, network = image[0].permute(1, 2, 0).numpy(), self.network
        if self.estimator is not None:
            network = at_level(network, level_estimate(self.estimator)(pixels))
        return torch.from_numpy(run_whole(network, pixels, self.plan)).permute(2, 0, 1)[None]


def edges(evidence: Evidence) -> Measured:
    """Edges of HAT over the mean of HAT and Restormer, as `buptmm` restores, against that mean and against each."""
    recipe = evidence.recipe("buptmm")
    sections = sorted(recipe["pretrain"]["bases"].items())
    # Under names of their own: the recipe `ensemble` has a base `restormer` as well.
    bases = {n: evidence.trained(f"buptmm-{n}", of_base(s), s, recipe["training"]) for n, s in sections}
    folders = [evidence.folder / "models" / f"buptmm-{name}" for name in bases]
    mean = fuse(FusionSettings(**recipe["ensemble_head"]["fusion"]), folders)[0].eval()
    systems: dict[str, nn.Module] = {**bases, "mean": mean}
    for mask in ("union", "restormer_only", "hat_only", "xor"):
        fusion = EdgeFusion(**recipe["inference"]["fusion"], mask=mask)
        systems[f"edges, {mask}"] = Planned(mean, ALONE.model_copy(update={"fusion": fusion}))
    found = {name: {"sigma 50": evidence.psnrs(network, awgn(50))} for name, network in systems.items()}
    pairs = [("mean", name) for name in bases]
    return Measured(systems=found, pairs=pairs + [(name, "mean") for name in systems if name.startswith("edges")])


def hard_mining(evidence: Evidence) -> Measured:
    """Fine-tuning on the hardest patches against fine-tuning on all, with equal steps and settings."""
    recipe, head, _ = ensemble_parts(evidence)
    mining, section = recipe["mine_hard"], recipe["finetune_hard"]
    losses = patch_losses(
        head,
        evidence.patches,
        degradation=Degradation.model_validate(mining["degradation"]),
        draws=mining["draws"],
        batch=mining["batch"],
        seed=SEED,
        progress=lambda done: None,
    )
    hard = hard_epoch(hardest_first(losses), hard_count(mining["fraction"], len(losses)), section["other_fraction"])

    def start() -> tuple[nn.Module, str, dict[str, Any]]:
        artifact = evidence.folder / "models" / "ensemble"
        return load_model(artifact), "ensemble", load_card(artifact).arguments

    tuned = {
        "before": head,
        "plain fine-tune": evidence.trained("finetune_plain", start, section, recipe["training"]),
        "hard fine-tune": evidence.trained("finetune_hard", start, section, recipe["training"], indices=hard),
    }
    found = {name: {f"sigma {s}": evidence.psnrs(n, awgn(s)) for s in SIGMAS} for name, n in tuned.items()}
    pairs = [("hard fine-tune", "plain fine-tune"), ("hard fine-tune", "before"), ("plain fine-tune", "before")]
    return Measured(systems=found, pairs=pairs)


def masked(evidence: Evidence) -> Measured:
    """Masked training against the same network without masks, and with fewer, on noise that none of them saw."""
    recipe = evidence.recipe("masked")
    section = recipe["pretrain"]["bases"]["masked"]

    def trained(name: str, **masks: Any) -> nn.Module:
        base = section | {"arguments": section["arguments"] | masks}
        return evidence.trained(name, of_base(base), base, recipe["training"])

    systems = {
        "unmasked": trained("unmasked", input_mask_ratio=[0.0, 0.0], attention_mask_ratio=0.0),
        "masked": trained("masked"),
        "half masked": trained("half_masked", input_mask_ratio=[0.45, 0.55], attention_mask_ratio=0.5),
        "input as it is": nn.Identity(),
    }
    found = {name: {c: evidence.psnrs(n, d) for c, d in UNSEEN.items()} for name, n in systems.items()}
    return Measured(systems=found, pairs=[("masked", "unmasked"), ("half masked", "unmasked")])


def hypernetwork(evidence: Evidence, recipe_name: str) -> Measured:
    """One hypernetwork for all levels against a network for each, and against four networks adjustable otherwise.

    All have the main network's width and blocks, and each network is trained for as many steps as the hypernetwork.
    Two-stage networks are trained at the weakest level, then their second stage at the strongest for as many steps
    again; DNI interpolates the weights of two dedicated networks of which the second started from the first; CResMD is
    given levels between the two, evenly drawn.
    """
    recipe = evidence.recipe(recipe_name)
    section, training = recipe["pretrain"]["bases"]["hyperres"], recipe["training"]
    kind, levels = training["degradation"]["level"], section["method"]["levels"]
    weakest, strongest = (levels[-1], levels[0]) if kind == "quality" else (levels[0], levels[-1])
    plain = {key: value for key, value in section.items() if key != "method"}
    ends = {"levels": [weakest, strongest]}

    def degradation(low: float, high: float) -> dict[str, Any]:
        (step,) = training["degradation"]["steps"]
        return {"steps": [step | {kind: [low, high]}], "level": kind}

    def at(level: float) -> dict[str, Any]:
        return training | {"degradation": degradation(level, level)}

    def of(name: str, arguments: dict[str, Any], start: nn.Module | None = None) -> Made:
        def make() -> tuple[nn.Module, str, dict[str, Any]]:
            network = build(name, arguments)
            if start is not None:  # what it does not have, such as modulations, stays as it was made
                network.load_state_dict(network.state_dict() | start.state_dict())
            return network, name, arguments

        return make

    def stage(*patterns: str) -> dict[str, Any]:
        return plain | {"phases": [phase | {"train": list(patterns)} for phase in plain["phases"]]}

    def trained(name: str, make: Made, section: dict[str, Any], settings: dict[str, Any]) -> nn.Module:
        return evidence.trained(f"{recipe_name}-{name}", make, section, settings)

    basic = section["arguments"] | {"kernel": 0} | ends
    dedicated = {level: trained(f"dedicated_{level}", of("adafm", basic), plain, at(level)) for level in levels}
    first = dedicated[weakest]
    tuned = trained("dni_second", of("adafm", basic, first), plain, at(strongest))
    modulated, coupled = section["arguments"] | {"kernel": 5} | ends, section["arguments"] | ends
    branch = trained("cfsnet_main", of("cfsnet", coupled), stage("main.*"), at(weakest))
    norms = {"norms": [40, max(levels)]}
    between = training | {"degradation": degradation(min(levels), max(levels))}
    systems = {
        "hypernetwork": trained("hyperres", of_base(section), section, training),
        "AdaFM": trained("adafm", of("adafm", modulated, first), stage("*transformer*"), at(strongest)),
        "CFSNet": trained("cfsnet", of("cfsnet", coupled, branch), stage("tuning_blocks.*"), at(strongest)),
        "CResMD": trained("cresmd", of("cresmd", section["arguments"] | norms), plain, between),
    }
    estimating = recipe["pretrain"]["bases"].get("level")
    blind = {}
    if estimating is not None:
        file = f"{recipe_name}-level"
        estimator = evidence.trained(file, of_base(estimating), estimating, training, patches=evidence.cut(128))
        blind = {"hypernetwork, level estimated": Planned(systems["hypernetwork"], estimator=estimator)}
    names = ("dedicated", *systems, "DNI", *blind, "input as it is")
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    interpolated = copy.deepcopy(tuned)
    for level in levels:
        strength = (level - weakest) / (strongest - weakest)
        interpolated.load_state_dict(interpolate(first.state_dict(), tuned.state_dict(), strength))
        networks = {**systems, "dedicated": dedicated[level], "DNI": interpolated}
        restored = {name: AtLevel(network, level).eval() for name, network in networks.items()}
        for name, network in {**restored, **blind, "input as it is": nn.Identity()}.items():
            found[name][f"{kind} {level:g}"] = evidence.psnrs(network, degradation(level, level))
    others = ("dedicated", "AdaFM", "CFSNet", "CResMD", "DNI")
    pairs = [("hypernetwork", name) for name in others] + [(name, "hypernetwork") for name in blind]
    return Measured(systems=found, pairs=pairs)


def dynet_from(weights: nn.Module | None, arguments: dict[str, Any]) -> Made:
    """What makes a DyNet of these arguments with the weights of another, or with new ones."""

    def make() -> tuple[nn.Module, str, dict[str, Any]]:
        network = build("dynet", arguments)
        if weights is not None:
            network.load_state_dict(weights.state_dict())
        return network, "dynet", arguments

    return make


def dynamic_pretraining(evidence: Evidence) -> Measured:
    """DyNet's small network, pre-trained in turns with the large one, alone for as many steps, or not at all.

    All three are fine-tuned alike; the second tells the turns from the pre-training itself.
    """
    recipe = evidence.recipe("dynet")
    section, tuning = recipe["pretrain"]["bases"]["dynet"], recipe["finetune_hard"]
    small = section["arguments"] | {"reuse": section["method"]["reuse"][1]}
    alone = {key: value for key, value in section.items() if key != "method"} | {"arguments": small}
    pretrained = {
        "dynamic": evidence.trained("dynet_pretrained", of_base(section), section, recipe["training"]),
        "alone": evidence.trained("dynet_pretrained_alone", of_base(alone), alone, recipe["training"]),
    }

    systems = {
        "pre-trained dynamically": evidence.trained(
            "dynet_tuned", dynet_from(pretrained["dynamic"], small), tuning, recipe["training"]
        ),
        "pre-trained alone": evidence.trained(
            "dynet_tuned_alone", dynet_from(pretrained["alone"], small), tuning, recipe["training"]
        ),
        "from scratch": evidence.trained("dynet_scratch", dynet_from(None, small), tuning, recipe["training"]),
    }
    found = {name: {c: evidence.psnrs(n, d) for c, d in tasks_of(recipe).items()} for name, n in systems.items()}
    ours, *others = systems
    return Measured(systems=found, pairs=[(ours, other) for other in others])


def both_networks(evidence: Evidence) -> Measured:
    """The small and the large DyNet, each fine-tuned from one pre-training, and each from nothing."""
    recipe = evidence.recipe("dynet")
    section, tuning = recipe["pretrain"]["bases"]["dynet"], recipe["finetune_hard"]
    pretrained = evidence.trained("dynet_pretrained", of_base(section), section, recipe["training"])
    sizes = dict(zip(("large", "small"), section["method"]["reuse"], strict=True))

    def tuned(name: str, size: str, start: nn.Module | None) -> nn.Module:
        arguments = section["arguments"] | {"reuse": sizes[size]}
        return evidence.trained(name, dynet_from(start, arguments), tuning, recipe["training"])

    systems = {
        "small": tuned("dynet_tuned", "small", pretrained),
        "large": tuned("dynet_tuned_large", "large", pretrained),
        "small, from scratch": tuned("dynet_scratch", "small", None),
        "large, from scratch": tuned("dynet_scratch_large", "large", None),
        "input as it is": nn.Identity(),
    }
    found = {name: {c: evidence.psnrs(n, d) for c, d in tasks_of(recipe).items()} for name, n in systems.items()}
    pairs = [("large", "small"), *((size, f"{size}, from scratch") for size in sizes)]
    return Measured(systems=found, pairs=pairs)


def tasks_of(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Noise, rain and haze as DyNet is trained for."""
    choices = recipe["training"]["degradation"]["steps"][0]["of"]
    weather = {steps[0]["kind"]: {"steps": steps} for steps in choices if steps[0]["kind"] in ("rain", "haze")}
    return {f"sigma {s}": awgn(s) for s in SIGMAS} | weather


def level_network(evidence: Evidence) -> Measured:
    """Accuracy of the level estimator: of a number or of classes, with the layers of the weights or of the text."""
    recipe = evidence.recipe("hypernet_denoise")
    section, patches = recipe["pretrain"]["bases"]["level"], evidence.cut(128)
    classes = {"classes": [15, 35, 55, 75]}
    forms = {
        "a number, layers of the weights": {},
        "classes, layers of the weights": classes,
        "a number, layers of the text": {"residual": False},
        "classes, layers of the text": {"residual": False} | classes,
    }
    rows = {}
    for name, more in forms.items():
        base = section | {"arguments": section["arguments"] | more}
        file = "level_" + name.replace(", ", "_").replace(" ", "_")
        network = evidence.trained(file, of_base(base), base, recipe["training"], patches=patches)
        rows[name] = {f"sigma {s}": evidence.accuracies(network, s) for s in (15, 25, 35, 50, 65, 75)}
    return Measured(systems=rows, unit="accuracy, %")


def camera_noise(evidence: Evidence) -> Measured:
    """NAFNet on drawn camera noise against the same on photographed pairs, measured on pairs of other scenes.

    The pairs are those of PolyU at `Evidence.pairs`; scenes are split as `reference/polyu_split.csv` says.
    """
    recipe = evidence.recipe("nafnet")
    section, training = recipe["pretrain"]["bases"]["nafnet"], recipe["training"]
    assert evidence.pairs is not None  # the command line asks for them
    seen, unseen = polyu_pairs(evidence.pairs)
    pairs = evidence.cut_pairs(seen)
    systems = {
        "drawn camera noise": evidence.trained("nafnet", of_base(section), section, training),
        "pairs": evidence.trained("nafnet_pairs", of_base(section), section, training, patches=pairs),
        "input as it is": nn.Identity(),
    }
    found = {name: {"other scenes": restored_pairs(n, unseen)} for name, n in systems.items()}
    return Measured(
        systems=found,
        pairs=[("pairs", "drawn camera noise"), ("pairs", "input as it is"), ("drawn camera noise", "input as it is")],
    )


Pair = tuple[np.ndarray, np.ndarray]  # degraded and clean, uint8 (H, W, 3)


def polyu_pairs(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """The pairs of the scenes that models may be chosen by, and those of the others."""
    split = {row["subject"]: row["share"] for row in csv.DictReader(SPLIT.open(encoding="utf-8"))}
    found: dict[bool, list[Pair]] = {True: [], False: []}
    for path in sorted((folder / "noisy").iterdir()):
        (share,) = {share for subject, share in split.items() if subject in path.name}
        pair = read_image(path).pixels, read_image(folder / "clean" / path.name).pixels
        found[share == "choosing"].append(pair)
    return found[True], found[False]


@torch.inference_mode()
def restored_pairs(network: nn.Module, pairs: list[Pair]) -> list[float]:
    """PSNR in dB of the degraded side of each pair, restored, against the clean one."""
    found = []
    for degraded, clean in pairs:
        image = torch.from_numpy(degraded.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
        restored = network(image[None])[0].clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
        found.append(psnr(restored.transpose(1, 2, 0), clean))
    return found


COMPARISONS: dict[str, Callable[[Evidence], Measured]] = {
    "ensemble": ensemble,
    "edges": edges,
    "hard_mining": hard_mining,
    "masked": masked,
    "hypernet_denoise": partial(hypernetwork, recipe_name="hypernet_denoise"),
    "hypernet_dejpeg": partial(hypernetwork, recipe_name="hypernet_dejpeg"),
    "hypernet_sr": partial(hypernetwork, recipe_name="hypernet_sr"),
    "two_conditions": two_conditions,
    "dynamic_pretraining": dynamic_pretraining,
    "both_networks": both_networks,
    "level_network": level_network,
    "camera_noise": camera_noise,
}


def table(result: dict[str, Any]) -> str:
    """The means and differences of a comparison as Markdown."""
    conditions = list(next(iter(result["means"].values())))
    digits = 1 if "%" in result["unit"] else 2
    lines = [f"| {result['unit']} | {' | '.join(conditions)} |", f"|---|{'---:|' * len(conditions)}"]
    for name, row in result["means"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[c]:.{digits}f}' for c in conditions)} |")
    for name, row in result["differences"].items():
        cells = [f"{row[c]['mean']:+.2f} ({row[c]['low']:+.2f} to {row[c]['high']:+.2f})" for c in conditions]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the comparisons and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--test", type=Path, required=True, help="folder of photographs to measure on")
    parser.add_argument("--pairs", type=Path, help="folder of PolyU's pairs, noisy and clean, for camera_noise")
    parser.add_argument("--folder", type=Path, required=True, help="keeps patches, checkpoints and networks")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/evidence.json"))
    parser.add_argument("--scale", choices=("demo", "cpu"), default="cpu", help="of the recipes")
    parser.add_argument("--share", type=float, default=1.0, help="multiple of the recipes' steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="each trains everything once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=COMPARISONS, default=list(COMPARISONS))
    arguments = parser.parse_args()
    if not (math.isfinite(arguments.share) and arguments.share > 0):
        parser.error("--share must be above 0")
    if arguments.pairs is None and "camera_noise" in arguments.only:
        parser.error("camera_noise needs --pairs")
    torch.set_num_threads(arguments.threads)
    trainings = [
        Evidence(
            arguments.folder,
            arguments.train,
            arguments.test,
            arguments.pairs,
            share=arguments.share,
            scale=arguments.scale,
            seed=seed,
        )
        for seed in arguments.seeds
    ]
    for name in arguments.only:
        result = rows_of([COMPARISONS[name](evidence) for evidence in trainings])
        kept = read_json(arguments.results) if arguments.results.exists() else {}
        kept[name] = {
            "date": datetime.date.today().isoformat(),
            "scale": arguments.scale,
            "share": arguments.share,
            "seeds": arguments.seeds,
            "photographs": len(trainings[0].photographs),
            "patches": sha256_file(arguments.folder / f"patches-{SIDE}" / "train-00000.npy")[:16],
            **result,
        }
        write_json(arguments.results, kept)
        print(f"\n## {name}\n\n{table(result)}\n", flush=True)


if __name__ == "__main__":
    main()
