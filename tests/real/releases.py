"""Releases for tests: a checkout, its packages, and what is served of them."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import yaml

from flows.embedded_triton import EmbeddedTriton
from flows.release.ledger import Ledger
from flows.release.lineage import Lineage
from flows.release.registry import Registry
from flows.release.release import ReleaseOutcome, release_package
from flows.release.rollback import roll_back
from relume.files import sha256_folder, write_json
from relume.reading import read_json
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl
from tests.flows.release.synthetic import make_package, make_photographs
from tests.real.embedded_triton import CHECKOUT

LINEAGE = Lineage(run_commit="c" * 40, params={"training": {"seed": 7}}, files={"dvc.lock": "stages: {}\n"})
SETTINGS = {
    "seed": 7,
    "images": 2,
    "crop": 128,
    "min_gain_over_input_db": {"clipped": {25: 2.0, 50: 5.0}, "jpeg": {10: 0.0}, "sr": {2: -9.0}},
    "min_gain_over_nlm_db": 0.0,
    "max_regression_db": 0.3,
    "max_image_regression_db": 0.5,
    "latency_ms_per_tile": 5000,
    "max_latency_ratio": 10,
    "served_parity": {"max_difference": 1, "min_psnr": 60},
}
# Denoisers of photographs at sigma 25 and 50 that are at most 0.3 dB apart.
BLURS = (0.8, 0.9, 1.0)
# Lines of a served model.py with which it restores wrongly, not at all or late.
OTHER_RESULTS = """

class Wrong(onnxruntime.InferenceSession):
    def run(self, *args):
        return [array | 16 for array in super().run(*args)]


onnxruntime.InferenceSession = Wrong
"""
NO_START = "def _fails(*_args):\n    raise ValueError('not today')\n\n\nTritonPythonModel.initialize = _fails\n"
ENDS_THE_SERVER = "\n\nimport signal\n\nos.kill(os.getppid(), signal.SIGKILL)\n"
SLOW = """

class Slow(onnxruntime.InferenceSession):
    def run(self, *args):
        import time

        time.sleep(0.15)
        return super().run(*args)


onnxruntime.InferenceSession = Slow
"""


def make_checkout(folder: Path) -> Path:
    """A checkout with settings and held-out photographs, and no package yet."""
    make_photographs(folder / "data" / "curated" / "held_out" / "test")
    write_parameters(folder)
    return folder


def write_parameters(folder: Path) -> None:
    """The checkout's params.yaml with `SETTINGS`, and its recipe.yaml, judged at the two levels that these suit."""
    values = yaml.safe_load((CHECKOUT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(values | {"release": SETTINGS}))
    values = yaml.safe_load((CHECKOUT / "recipe.yaml").read_text())
    values["evaluate"]["levels"] = {"sigma": [25, 50]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))


def use_task(root: Path, task: str, product: str, **levels: list[float]) -> None:
    """Makes the checkout one whose recipe is of another task and product."""
    values = yaml.safe_load((root / "recipe.yaml").read_text())
    values |= {"evaluate": {"task": task, "levels": levels}, "package": {"product": product}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(values))


def put_package(root: Path, **options) -> None:
    """Replaces the checkout's package."""
    shutil.rmtree(root / "package", ignore_errors=True)
    make_package(root / "package", **options)


def release(root: Path, home: Path, **options) -> ReleaseOutcome:
    """Replaces the checkout's package and releases it."""
    put_package(root, **options)
    return release_package(root, home, lineage=LINEAGE)


def restate(package: Path) -> None:
    """Makes a package whole again after its files were changed: it states the hash that they have now."""
    stated = read_json(package / "package.json")
    write_json(package / "package.json", stated | {"sha256": sha256_folder(package, exclude=("package.json",))})


def add_to_model_py(root: Path, lines: str) -> None:
    """Adds lines to the served model.py of the checkout's package and makes the package whole again."""
    with open(root / "package" / "serving" / "triton" / "model" / "1" / "model.py", "a") as file:
        file.write(lines)
    restate(root / "package")


def served(home: Path, picture: np.ndarray, name: str = "denoise") -> np.ndarray:
    """The image restored by what the server has under a name."""
    with TritonRestorer(EmbeddedTriton(home).start().grpc, name) as restorer:
        return restorer.restore(picture).image


def expected(root: Path, picture: np.ndarray) -> np.ndarray:
    """The image restored in process by the checkout's package."""
    return OnnxRestorer(root / "package" / "serving").restore(picture).image


def moved(home: Path) -> dict:
    """Everything that a release moves: what is served, by what files, the aliases, and the ledger's word."""
    server = EmbeddedTriton(home).start()
    with TritonControl(server.grpc, key=server.key) as control:
        serving = control.product_release("denoise")
        loaded = {name for name, state in control.models().items() if state == "READY"}
    registry = Registry(home)
    return {
        "serving": serving,
        "loaded": loaded,
        "files": sha256_folder(home / "triton" / "models"),
        "champion": registry.by_alias("denoise", "champion"),
        "previous": registry.by_alias("denoise", "previous"),
        "current": Ledger(home).current("denoise"),
    }


def events(home: Path) -> list[str]:
    """The ledger's events."""
    return [entry.event for entry in Ledger(home).entries()]


def _release_and_die(root: Path, home: Path, event: str) -> None:
    """Releases, and dies by SIGKILL at the moment a ledger line is to be written, or `after` it was."""
    append, line = Ledger.append, event.removeprefix("after ")

    def dying(self, what, *args, **details):
        if what == line and event.startswith("after "):
            append(self, what, *args, **details)
        if what == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return append(self, what, *args, **details)

    Ledger.append = dying
    if line == "rolled_back":
        roll_back(root, home)
    else:
        release_package(root, home, lineage=LINEAGE)


def die_at(root: Path, home: Path, event: str) -> None:
    """Runs a release or rollback in a process that is killed at a ledger line."""
    process = multiprocessing.get_context("spawn").Process(target=_release_and_die, args=(root, home, event))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
