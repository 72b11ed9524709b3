"""Trains a shipped model further: python -m reference.train photo --photographs FOLDER [--share 0.5].

Run it in a clone of its own, since it writes params.yaml, data/ and models/ there. It uses the product's recipe at
scale `cpu` (about an hour of one core; longer where the processor has no bfloat16 and float32 is used), starts from the
weights in relume/products if there are any, goes through the stages of the graph, and replaces the weights in
relume/products. The run is recorded in reference/runs/. After a kill the same command resumes it.
"""

import argparse
import dataclasses
import datetime
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from reference.ship import ship
from relume import products
from relume.files import sha256_file, sha256_folder, write_json, write_text
from relume.ingestion.ingest import read_manifest
from relume.models.artifact import load_card, load_model, save_model
from relume.models.registry import build
from relume.reading import read_json
from relume.recipes.recipe import resolve
from relume.training.processes import emulates_bfloat16

PRODUCTS = Path("relume/products")
RUNS = Path("reference/runs")
STARTING = Path("models/starting")  # weights made of another product's
START_LEVEL = 25.0  # what a blind network made of an adjustable one takes every image for, until it has trained
SPLIT = {"validation_fraction": 0.01, "test_fraction": 0.01, "min_validation": 2, "min_test": 1}


def main() -> None:
    """Parses the arguments and trains."""
    parser = argparse.ArgumentParser(prog="python -m reference.train")
    parser.add_argument("product", help="name of a recipe of the family `reference`")
    parser.add_argument("--photographs", required=True, type=Path, help="folder of photographs")
    parser.add_argument("--share", type=float, default=1.0, help="of the recipe's steps")
    parser.add_argument("--lr", type=float, default=None, help="peak learning rate instead of the recipe's")
    parser.add_argument("--from", dest="source", default=None, help="shipped model to start from instead of its own")
    arguments = parser.parse_args()
    train(
        arguments.product,
        arguments.photographs,
        share=arguments.share,
        lr=arguments.lr,
        source=arguments.source or arguments.product,
    )


def train(product: str, photographs: Path, *, share: float, lr: float | None, source: str) -> None:
    """Trains a product's base model for a share of its steps and ships the weights.

    Args:
        product: Name of a recipe of the family `reference`, which has one base model of the same name.
        photographs: Folder of photographs, which must allow it: see docs/data.md.
        share: Of the recipe's steps; the learning rate falls to zero within it.
        lr: Peak learning rate instead of the recipe's.
        source: The shipped model whose weights it starts from, where there are any.
    """
    initial = starting_weights(product, source)
    settings = configure(product, share=share, lr=lr, initial=initial)
    started = datetime.date.today().isoformat()
    call("relume", "data", "scan", "--tracked", str(photographs.resolve()))
    call("dvc", "repro", f"pretrain@{product}")
    given = [photograph.address for photograph in read_manifest("data/ingested")]
    if other := [address for address in given if not address.startswith(photographs.resolve().as_uri())]:
        raise SystemExit(f"the training read other photographs than those in {photographs}, such as {other[0]}")
    trained = Path("models/bases") / product
    number = len(list(RUNS.glob(f"{product}-*.json"))) + 1
    history = (trained / "history.csv").read_text()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    ship(trained, PRODUCTS / product)
    write_text(RUNS / f"{product}-{number:02d}.csv", history)
    write_json(
        RUNS / f"{product}-{number:02d}.json",
        {
            "command": f"python -m reference.train {product} --photographs PHOTOGRAPHS --share {share:g}"
            + (f" --lr {lr:g}" if lr else "")
            + (f" --from {source}" if source != product else ""),
            "date": started,
            "commit": output("git", "rev-parse", "HEAD"),
            "photographs": len(given),
            "started_from": sha256_folder(initial) if initial else None,
            "steps": [phase["steps"] for phase in settings["phases"]],
            "data_sha256": read_json(trained / "model.json")["provenance"]["data_sha256"],
            "cpu_minutes": round((usage.ru_utime + usage.ru_stime) / 60, 1),
            "weights_sha256": sha256_file(PRODUCTS / product / "model.safetensors"),
            "validation_psnr": float(history.strip().splitlines()[-1].split(",")[-1]),
        },
    )
    print(f"shipped: {PRODUCTS / product}, run {number}")


def starting_weights(product: str, source: str) -> Path | None:
    """The artifact to start from: the source's own, or one of the recipe's network made of another product's weights.

    None for a product that has not been trained yet.

    Raises:
        ModelMissingError: Another product is named, and it does not ship.
    """
    folder = PRODUCTS / source
    if source == product:
        return folder if (folder / "model.json").is_file() else None
    products.shipped(
        source
    )  # or the error that names what ships; its path is absolute, and that of an artifact is kept
    card, wanted = load_card(folder), resolve(product, "cpu")["pretrain"]["bases"][product]
    network, architecture, arguments = load_model(folder), card.architecture, card.arguments
    if (architecture, wanted["architecture"]) == ("resunet_adjustable", "resunet"):
        network, architecture = blind(network, arguments), "resunet"
    if arguments["widths"] == wanted["arguments"]["widths"] and arguments != wanted["arguments"]:
        arguments = wanted["arguments"]
        network = deeper(network, architecture, arguments)
    if (architecture, arguments) == (card.architecture, card.arguments):
        return folder
    save_model(STARTING, network, dataclasses.replace(card, architecture=architecture, arguments=arguments))
    return STARTING


def blind(adjustable: nn.Module, arguments: dict[str, Any]) -> nn.Module:
    """A blind network that equals the adjustable one at `START_LEVEL`, except at an image's border.

    There the adjustable one pads its level map with zeros, which a bias cannot express.
    """
    state = dict(adjustable.state_dict())
    weight = state["head.weight"]
    state["head.bias"] = state["head.bias"] + weight[:, -1].sum(dim=(1, 2)) * START_LEVEL / 255
    state["head.weight"] = weight[:, :-1]
    network = build("resunet", arguments)
    network.load_state_dict(state)
    return network.eval()


def deeper(network: nn.Module, architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """A network of more residual blocks that equals the given one: each further block starts as the identity."""
    known = network.state_dict()
    larger = build(architecture, arguments)
    state = {
        name: known[name] if name in known else torch.zeros_like(start) if ".conv2." in name else start
        for name, start in larger.state_dict().items()
    }
    larger.load_state_dict(state)
    return larger.eval()


def configure(product: str, *, share: float, lr: float | None, initial: Path | None) -> dict:
    """Writes recipe.yaml, with the steps and the warm-up shortened, and returns the base model's settings.

    The precision is that of the recipe where this processor computes in it, else float32.
    """
    call("relume", "recipes", "use", product, "--scale", "cpu")
    # Benchmark sets test these models; of the photographs, two are enough to follow the training.
    rewrite("params.yaml", lambda params: params["curate"].update(SPLIT))

    def shorten(recipe: dict) -> None:
        base = recipe["pretrain"]["bases"][product]
        for phase in base["phases"]:
            phase["steps"] = max(1, round(share * phase["steps"]))
        base["optimizer"]["warmup"] = round(share * base["optimizer"]["warmup"])
        if lr:
            base["optimizer"]["lr"] = lr
        if emulates_bfloat16():
            recipe["training"]["precision"] = "32-true"
        if initial:
            base["initial"] = {"artifact": str(initial), "sha256": sha256_folder(initial)}

    return rewrite("recipe.yaml", shorten)["pretrain"]["bases"][product]


def rewrite(name: str, change: Callable[[dict], None]) -> dict:
    """Changes a YAML file and returns what it holds."""
    path = Path(name)
    value = yaml.safe_load(path.read_text())
    change(value)
    write_text(path, yaml.safe_dump(value, sort_keys=False))
    return value


def call(command: str, *arguments: str) -> None:
    """Runs a command of this environment and ends with its exit code if it fails."""
    done = subprocess.run([Path(sys.executable).with_name(command), *arguments])
    if done.returncode:
        sys.exit(done.returncode)


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
