"""Whether the methods work: trainings of the `cpu` recipes on real photographs, and the tables of docs/results.md.

    python -m benchmarks.evidence --train PHOTOGRAPHS --test PHOTOGRAPHS --share 0.25 --folder .relume/evidence
    python -m benchmarks.evidence ... --only ensemble hard_mining

Each comparison trains two or more networks that differ in one thing, for a share of the recipe's steps (phases are
shortened alike), and restores the centres of test photographs that no training saw. A training that was finished or
interrupted earlier in the same folder is not done again. Differences are means over photographs of paired differences,
with a 95 % bootstrap interval.
"""

import argparse
import copy
import datetime
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from relume.degradations import Degradation, counter_rng, degrade
from relume.evaluation.comparison import bootstrap_interval
from relume.files import sha256_file, write_json
from relume.images import read_image
from relume.inference.level import AtLevel
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
    "correlated 25": {"steps": [{"kind": "correlated_noise", "sigma": [25, 25], "width": [1.0, 1.0], "clipped": 1.0}]},
}


class Evidence:
    """Data, trainings and measurements that the comparisons share.

    Args:
        folder: Keeps patches, checkpoints and trained networks.
        training: Folder of photographs to train on.
        test: Folder of photographs to measure on.
        share: Of the recipes' steps.
    """

    def __init__(self, folder: Path, training: Path, test: Path, share: float):
        # Networks trained for another share are others.
        self.folder, self.share = folder / f"{share:g}", share
        self.photographs = [centre(read_image(path).pixels) for path in sorted(test.iterdir())]
        self.training = training
        self.patches = self.cut(SIDE, self.folder / "patches")

    def cut(self, side: int, patches: Path) -> PatchShards:
        """Patches of a side from the photographs to train on."""
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
        network: Callable[[], tuple[nn.Module, str, dict[str, Any]]],
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
            torch.manual_seed(SEED)
            made, architecture, arguments = network()
            settings = TrainingSettings.model_validate(
                training | {"threads": torch.get_num_threads(), "validations": 1, "checkpoint_seconds": 60}
            )
            start = last = time.monotonic()

            def progress(step: int, steps: int, *_: Any) -> None:
                nonlocal last
                if time.monotonic() - last > 30:
                    print(f"{name}: step {step} of {steps}", flush=True)
                    last = time.monotonic()

            history = train(
                made.train(),
                TrainingCrops(patches, seed=SEED, indices=indices),
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
    def accuracy(self, network: nn.Module, sigma: float) -> float:
        """1 - the mean relative error in percent of the level that is estimated of each noisy test photograph."""
        settings, errors = Degradation.model_validate(awgn(sigma)), []
        for number, image in enumerate(self.photographs):
            clean = image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            noisy = degrade(clean, settings, counter_rng(SEED, "evaluation", number)).image
            errors.append(abs(float(network(torch.from_numpy(noisy)[None])) - sigma) / sigma)
        return 100 * (1 - float(np.mean(errors)))


def centre(image: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, 3), at most MEASURED pixels high and wide."""
    top, left = (max(0, side - MEASURED) // 2 for side in image.shape[:2])
    return image[top : top + MEASURED, left : left + MEASURED]


def difference(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean paired difference in dB and its 95 % bootstrap interval over photographs."""
    values = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = bootstrap_interval(values, seed=SEED)
    return {"mean": sum(values) / len(values), "low": low, "high": high}


def rows_of(systems: dict[str, dict[str, list[float]]], pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Mean PSNR of each system under each condition, and the paired differences."""
    conditions = list(next(iter(systems.values())))
    return {
        "psnr": {name: {c: float(np.mean(found[c])) for c in conditions} for name, found in systems.items()},
        "differences": {
            f"{ours} - {theirs}": {c: difference(systems[ours][c], systems[theirs][c]) for c in conditions}
            for ours, theirs in pairs
        },
    }


def of_base(section: dict[str, Any]) -> Callable[[], tuple[nn.Module, str, dict[str, Any]]]:
    """Makes the untrained network of a recipe's base."""
    name, arguments = section["architecture"], section["arguments"]
    return lambda: (build(name, arguments), name, arguments)


def ensemble_parts(evidence: Evidence) -> tuple[dict[str, Any], nn.Module, dict[str, nn.Module]]:
    """The recipe `ensemble`, its trained ensemble, and its bases."""
    recipe = resolve("ensemble", "cpu")
    sections = recipe["pretrain"]["bases"]
    bases = {n: evidence.trained(n, of_base(s), s, recipe["training"]) for n, s in sorted(sections.items())}

    def fused() -> tuple[nn.Module, str, dict[str, Any]]:
        folders = [evidence.folder / "models" / name for name in bases]
        network, plan = fuse(FusionSettings(**recipe["ensemble_head"]["fusion"]), folders)
        return network, plan.architecture, plan.arguments

    head = evidence.trained("ensemble", fused, recipe["ensemble_head"], recipe["training"])
    return recipe, head, bases


def ensemble(evidence: Evidence) -> dict[str, Any]:
    """The trained head against each base and against the bases' plain average."""
    _, head, bases = ensemble_parts(evidence)
    systems = {**bases, "average": Average(list(bases.values())).eval(), "ensemble": head}
    found = {name: {f"sigma {s}": evidence.psnrs(n, awgn(s)) for s in SIGMAS} for name, n in systems.items()}
    return rows_of(found, [("ensemble", name) for name in systems if name != "ensemble"])


def hard_mining(evidence: Evidence) -> dict[str, Any]:
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
    return rows_of(found, pairs)


def masked(evidence: Evidence) -> dict[str, Any]:
    """Masked training against the same network without masks, on noise that neither saw."""
    recipe = resolve("masked", "cpu")
    section = recipe["pretrain"]["bases"]["masked"]
    plain = copy.deepcopy(section)
    plain["arguments"] |= {"input_mask_ratio": [0.0, 0.0], "attention_mask_ratio": 0.0}
    systems = {
        "masked": evidence.trained("masked", of_base(section), section, recipe["training"]),
        "unmasked": evidence.trained("unmasked", of_base(plain), plain, recipe["training"]),
        "input as it is": nn.Identity(),
    }
    found = {name: {c: evidence.psnrs(n, d) for c, d in UNSEEN.items()} for name, n in systems.items()}
    return rows_of(found, [("masked", "unmasked")])


def hypernetwork(evidence: Evidence) -> dict[str, Any]:
    """One hypernetwork for all levels against a network for each, and against AdaFM and DNI between two levels.

    AdaFM and DNI are trained at the first level for all steps and at the last for as many again, the hypernetwork's
    peers with the main network of its size; each dedicated network as long as the hypernetwork.
    """
    recipe = resolve("hypernet_denoise", "cpu")
    section, training = recipe["pretrain"]["bases"]["hyperres"], recipe["training"]
    levels = section["method"]["levels"]
    first, last = levels[0], levels[-1]
    plain = {key: value for key, value in section.items() if key != "method"}
    basic = section["arguments"] | {"kernel": 0, "levels": [first, last]}
    modulated = basic | {"kernel": 1}

    def at(level: float) -> dict[str, Any]:
        return training | {"degradation": awgn(level, level="sigma")}

    def adafm(
        arguments: dict[str, Any], start: nn.Module | None
    ) -> Callable[[], tuple[nn.Module, str, dict[str, Any]]]:
        def make() -> tuple[nn.Module, str, dict[str, Any]]:
            network = build("adafm", arguments)
            if start is not None:  # modulations, which it does not have, stay at zero
                network.load_state_dict(network.state_dict() | start.state_dict())
            return network, "adafm", arguments

        return make

    dedicated = {
        level: evidence.trained(f"dedicated_{level}", adafm(basic, None), plain, at(level)) for level in levels
    }
    hyper = evidence.trained("hyperres", of_base(section), section, training)
    phases = [phase | {"train": ["*transformer*"]} for phase in plain["phases"]]
    second_stage = evidence.trained("adafm", adafm(modulated, dedicated[first]), plain | {"phases": phases}, at(last))
    tuned = evidence.trained("dni_second", adafm(basic, dedicated[first]), plain, at(last))
    between = copy.deepcopy(tuned)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ("hypernetwork", "dedicated", "AdaFM", "DNI")}
    for level in levels:
        strength = (level - first) / (last - first)
        between.load_state_dict(interpolate(dedicated[first].state_dict(), tuned.state_dict(), strength))
        networks = {"hypernetwork": hyper, "dedicated": dedicated[level], "AdaFM": second_stage, "DNI": between}
        for name, network in networks.items():
            found[name][f"sigma {level:g}"] = evidence.psnrs(AtLevel(network, level).eval(), awgn(level))
    return rows_of(found, [("hypernetwork", name) for name in found if name != "hypernetwork"])


def dynet_from(
    weights: nn.Module | None, arguments: dict[str, Any]
) -> Callable[[], tuple[nn.Module, str, dict[str, Any]]]:
    """What makes a DyNet of these arguments with the weights of another, or with new ones."""

    def make() -> tuple[nn.Module, str, dict[str, Any]]:
        network = build("dynet", arguments)
        if weights is not None:
            network.load_state_dict(weights.state_dict())
        return network, "dynet", arguments

    return make


def dynamic_pretraining(evidence: Evidence) -> dict[str, Any]:
    """DyNet's small network, pre-trained in turns with the large one, alone for as many steps, or not at all.

    All three are fine-tuned alike; the second tells the turns from the pre-training itself.
    """
    recipe = resolve("dynet", "cpu")
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
    tasks = {f"sigma {s}": awgn(s) for s in SIGMAS}
    choices = recipe["training"]["degradation"]["steps"][0]["of"]
    tasks |= {steps[0]["kind"]: {"steps": steps} for steps in choices if steps[0]["kind"] in ("rain", "haze")}
    found = {name: {c: evidence.psnrs(n, d) for c, d in tasks.items()} for name, n in systems.items()}
    ours, *others = systems
    return rows_of(found, [(ours, other) for other in others])


def both_networks(evidence: Evidence) -> dict[str, Any]:
    """The small and the large DyNet, each fine-tuned from one pre-training, and the small from nothing."""
    recipe = resolve("dynet", "cpu")
    section, tuning = recipe["pretrain"]["bases"]["dynet"], recipe["finetune_hard"]
    pretrained = evidence.trained("dynet_pretrained", of_base(section), section, recipe["training"])
    large, small = (section["arguments"] | {"reuse": reuse} for reuse in section["method"]["reuse"])

    systems = {
        "small": evidence.trained("dynet_tuned", dynet_from(pretrained, small), tuning, recipe["training"]),
        "large": evidence.trained("dynet_tuned_large", dynet_from(pretrained, large), tuning, recipe["training"]),
        "small, from scratch": evidence.trained("dynet_scratch", dynet_from(None, small), tuning, recipe["training"]),
        "input as it is": nn.Identity(),
    }
    tasks = {f"sigma {s}": awgn(s) for s in SIGMAS}
    choices = recipe["training"]["degradation"]["steps"][0]["of"]
    tasks |= {steps[0]["kind"]: {"steps": steps} for steps in choices if steps[0]["kind"] in ("rain", "haze")}
    found = {name: {c: evidence.psnrs(n, d) for c, d in tasks.items()} for name, n in systems.items()}
    return rows_of(found, [("large", "small"), ("small", "small, from scratch")])


def level_network(evidence: Evidence) -> dict[str, Any]:
    """Accuracy of the level estimator: of a number or of classes, with the layers of the weights or of the text."""
    recipe = resolve("hypernet_denoise", "cpu")
    section, patches = recipe["pretrain"]["bases"]["level"], evidence.cut(128, evidence.folder / "patches-128")
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
        rows[name] = {f"sigma {s}": evidence.accuracy(network, s) for s in (15, 25, 35, 50, 65, 75)}
    return {"accuracy": rows}


COMPARISONS = {
    "ensemble": ensemble,
    "hard_mining": hard_mining,
    "masked": masked,
    "hypernetwork": hypernetwork,
    "dynamic_pretraining": dynamic_pretraining,
    "both_networks": both_networks,
    "level_network": level_network,
}


def table(result: dict[str, Any]) -> str:
    """The PSNRs and differences of a comparison, or the accuracies, as Markdown."""
    if accuracies := result.get("accuracy"):
        lines = [f"| accuracy, % | {' | '.join(next(iter(accuracies.values())))} |"]
        lines.append(f"|---|{'---:|' * (lines[0].count('|') - 2)}")
        lines += [
            f"| {name} | {' | '.join(f'{each:.1f}' for each in row.values())} |" for name, row in accuracies.items()
        ]
        return "\n".join(lines)
    conditions = list(next(iter(result["psnr"].values())))
    lines = [f"| PSNR, dB | {' | '.join(conditions)} |", f"|---|{'---:|' * len(conditions)}"]
    for name, row in result["psnr"].items():
        lines.append(f"| {name} | {' | '.join(f'{row[c]:.2f}' for c in conditions)} |")
    for name, row in result["differences"].items():
        cells = [f"{row[c]['mean']:+.2f} ({row[c]['low']:+.2f} to {row[c]['high']:+.2f})" for c in conditions]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the comparisons and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--test", type=Path, required=True, help="folder of photographs to measure on")
    parser.add_argument("--folder", type=Path, required=True, help="keeps patches, checkpoints and networks")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/evidence.json"))
    parser.add_argument("--share", type=float, default=1.0, help="of the recipes' steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=COMPARISONS, default=list(COMPARISONS))
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1 or not math.isfinite(arguments.share):
        parser.error("--share must be above 0 and at most 1")
    torch.set_num_threads(arguments.threads)
    evidence = Evidence(arguments.folder, arguments.train, arguments.test, arguments.share)
    for name in arguments.only:
        result = COMPARISONS[name](evidence)
        kept = read_json(arguments.results) if arguments.results.exists() else {}
        kept[name] = {
            "date": datetime.date.today().isoformat(),
            "share": arguments.share,
            "photographs": len(evidence.photographs),
            "patches": sha256_file(evidence.folder / "patches" / "train-00000.npy")[:16],
            **result,
        }
        write_json(arguments.results, kept)
        print(f"\n## {name}\n\n{table(result)}\n", flush=True)


if __name__ == "__main__":
    main()
