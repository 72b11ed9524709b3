"""Broken packages: each is released beside a champion that serves under load, and must be refused by one message.

What serves, the ledger and the aliases stay as they were, and no process is left. At the end a sound package is
released, so that what refused the others was what is broken in them.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from flows.release import trial
from flows.release.ledger import Ledger
from flows.release.release import ReleaseOutcome, release_package
from relume.errors import RelumeError
from relume.files import write_json
from relume.reading import read_json
from relume.serving.served_model import onnx_path, triton_model
from tests.abuse.rows import Row, Setting, watched
from tests.abuse.served_home import IMAGE, ServedHome, served_home
from tests.editing import edit
from tests.flows.release.synthetic import gaussian, onnx_filter
from tests.real.releases import BLURS, LINEAGE, expected, put_package, restate

FAMILY = "packages"
SECONDS = 120.0  # after which a release counts as hanging; it takes five on an idle machine
LOAD_SECONDS = 6.0  # in place of two minutes, which a model that sleeps for ever would take
QUICK = ("weights of NaN", "model.py raises at its load")

Break = Callable[[Path], None]


def attack(setting: Setting) -> Iterator[Row]:
    """Releases one broken package of each kind; a row for each."""
    with served_home(setting.folder) as served, patch.object(trial, "LOAD_SECONDS", LOAD_SECONDS):
        for kind, (do, says) in KINDS.items():
            if setting.thorough or kind in QUICK:
                yield _release_broken(served, kind, do, says)
        if setting.thorough:
            yield _release_sound(served)


def _release_broken(served: ServedHome, kind: str, do: Break, says: str) -> Row:
    row = Row(family=FAMILY, kind=kind, tried=1)
    champion = Ledger(served.home).current("denoise")
    put_package(served.root, blur=BLURS[1])
    do(served.root / "package")
    ended = watched(lambda: _release(served), seconds=SECONDS)
    if ended.failure:
        row.wrong.append(ended.failure)
    elif ended.code == 0:
        row.wrong.append("it was released")
    elif not re.search(says, ended.output):
        row.wrong.append(f"it was refused for another reason: {ended.output}")
    else:
        row.refused = 1
    if Ledger(served.home).current("denoise") != champion:
        row.wrong.append("the ledger names another champion")
    row.wrong += served.wrong()
    return row


def _release_sound(served: ServedHome) -> Row:
    row = Row(family=FAMILY, kind="a sound one", tried=1)
    put_package(served.root, blur=BLURS[1])
    served.clients.answers["sound"] = sound = expected(served.root, IMAGE)
    ended = watched(lambda: _release(served), seconds=SECONDS)
    row.survived = int(ended.code == 0)
    row.wrong += [ended.failure or ended.output] if ended.code != 0 else []
    row.wrong += served.wrong(answer=sound)
    return row


def _release(served: ServedHome) -> tuple[int, str]:
    """Releases the checkout's package; the exit code and the message of `relume release`."""
    try:
        outcome: ReleaseOutcome = release_package(served.root, served.home, lineage=LINEAGE)
    except RelumeError as error:
        return error.exit_code, str(error)
    return 0, str(outcome.release)


def _onnx(**options: object) -> Break:
    """Another ONNX file: of another tile, kernel or kind."""

    def do(package: Path) -> None:
        kernel = options.pop("kernel", gaussian(BLURS[1]))
        onnx_filter(onnx_path(package / "serving"), kernel, **options)
        restate(package)

    return do


def _rename_tensor(old: str, new: str) -> Break:
    def do(package: Path) -> None:
        import onnx

        path = onnx_path(package / "serving")
        model = onnx.load(path)
        graph = model.graph
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        for value in (*graph.input, *graph.output):
            value.name = new if value.name == old else value.name
        onnx.save(model, path)
        restate(package)

    return do


def _cut(package: Path) -> None:
    path = onnx_path(package / "serving")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    restate(package)


def _config(old: str, new: str) -> Break:
    """Another text in config.pbtxt."""

    def do(package: Path) -> None:
        edit(triton_model(package / "serving") / "config.pbtxt", old, new)
        restate(package)

    return do


def _model_py(lines: str) -> Break:
    """Lines after those of model.py."""

    def do(package: Path) -> None:
        with open(triton_model(package / "serving") / "1" / "model.py", "a") as file:
            file.write(f"\n\n{lines}")
        restate(package)

    return do


def _at_load(statement: str) -> Break:
    return _model_py(
        f"import time\n\n\ndef _initialize(self, args):\n    {statement}\n\n\n"
        "TritonPythonModel.initialize = _initialize\n"
    )


def _at_a_tile(statement: str) -> Break:
    return _model_py(
        f"import time\n\n\ndef _restore(self, request):\n    {statement}\n\n\nTritonPythonModel._restore = _restore\n"
    )


def _answers(array: str, name: str = "restored") -> Break:
    return _at_a_tile(f"return pb_utils.Tensor({name!r}, {array})")


def _without(name: str) -> Break:
    def do(package: Path) -> None:
        (package / "serving" / name).unlink()
        restate(package)

    return do


def _states(name: str, **values: object) -> Break:
    """Other values in a JSON file of the package."""

    def do(package: Path) -> None:
        write_json(package / name, read_json(package / name) | values)
        restate(package)

    return do


def _after_its_hash(package: Path) -> None:
    onnx_filter(onnx_path(package / "serving"), gaussian(BLURS[2]))


def _failing_warm_up(package: Path) -> None:
    warm_up = 'inputs { key: "image" value { data_type: TYPE_UINT8 dims: [ 3, 64, 64 ] random_data: true } }'
    _config("max_batch_size: 8", f'max_batch_size: 8\nmodel_warmup [ {{ name: "w" batch_size: 1 {warm_up} }} ]')(
        package
    )
    _at_a_tile("raise ValueError('not today')")(package)


SLOW = """\
class Slow(onnxruntime.InferenceSession):
    def run(self, *args):
        import time

        time.sleep(0.15)
        return super().run(*args)


onnxruntime.InferenceSession = Slow
"""
OTHER_RESULTS = """\
class Other(onnxruntime.InferenceSession):
    def run(self, *args):
        return [array | 16 for array in super().run(*args)]


onnxruntime.InferenceSession = Other
"""
LEAVES_A_PROCESS = """\
import subprocess

subprocess.Popen(["sleep", "600"], start_new_session=True)
raise ValueError("not today")
"""
BATCH = "(1, 3, 64, 64)"

# How each is broken, and what the message says about it.
KINDS: dict[str, tuple[Break, str]] = {
    "weights of NaN": (_onnx(kernel=np.full((5, 5), np.nan)), "gain over the noisy input"),
    "weights that do nothing": (_onnx(kernel=gaussian(0)), "gain over the noisy input"),
    "a cut ONNX file": (_cut, "cannot serve"),
    "an ONNX file of another shape": (_onnx(tile=48), "config.pbtxt says"),
    "an ONNX input of another name": (_rename_tensor("image", "picture"), "config.pbtxt says"),
    "an ONNX file with a further input": (_onnx(adjustable=True), "config.pbtxt says"),
    "an ONNX file after its hash": (_after_its_hash, "damaged"),
    "config.pbtxt against serving.json": (_config("[ 3, 64, 64 ]", "[ 3, 96, 96 ]"), "contradicts itself"),
    "serving.json against config.pbtxt": (
        _states("serving/serving.json", inference={"tile": 64, "halo": 4, "overlap": 4, "weight": "linear"}),
        "contradicts itself",
    ),
    "a batch beyond the maximum": (_config("max_batch_size: 8", "max_batch_size: 64"), "max_batch_size, of 1 to 8"),
    "config.pbtxt with a backend that is not there": (_config('"python"', '"tensorrt"'), "cannot serve"),
    "config.pbtxt that is no configuration": (_config("instance_group [", "instance_group [["), "cannot serve"),
    "a warm-up that fails": (_failing_warm_up, "cannot serve|does not answer"),
    "no model.py": (_without("triton/model/1/model.py"), "is missing"),
    "no serving.json": (_without("serving.json"), "is missing"),
    "model.py that is no Python": (_model_py("this is no Python {"), "cannot serve"),
    "model.py raises at its load": (_at_load("raise ValueError('not today')"), "not today"),
    "model.py ends its process at its load": (_at_load("import os; os._exit(3)"), "cannot serve"),
    "model.py sleeps for ever at its load": (_at_load("time.sleep(10_000)"), "did not end in"),
    "model.py leaves a process": (_model_py(LEAVES_A_PROCESS), "not today"),
    "model.py ends the server": (_at_load("import os; os.kill(os.getppid(), 9)"), "does not answer"),
    "model.py stops the server": (_at_load("import os; os.kill(os.getppid(), 19)"), "did not end in|does not answer"),
    "model.py raises at a tile": (_at_a_tile("raise ValueError('not today')"), "not today"),
    "model.py ends its process at a tile": (_at_a_tile("import os; os._exit(3)"), "cannot serve"),
    "model.py sleeps for ever at a tile": (_at_a_tile("time.sleep(10_000)"), "did not end in|Deadline"),
    "model.py answers with another shape": (_answers("np.zeros((1, 3, 8, 8), np.uint8)"), "cannot serve|refused"),
    "model.py answers with NaN": (_answers(f"np.full({BATCH}, np.nan, np.float32)"), "cannot serve|refused"),
    "model.py answers by another name": (_answers(f"np.zeros({BATCH}, np.uint8)", "image"), "cannot serve|refused"),
    "model.py answers nothing": (_at_a_tile("return None"), "cannot serve|refused"),
    "model.py restores otherwise than the ONNX file": (_model_py(OTHER_RESULTS), "does not restore images as"),
    "150 times slower than the champion": (_model_py(SLOW), "latency of a pixel over the champion's, served"),
    "another product's name": (_states("package.json", product="dejpeg"), "of another product"),
    "a path as the product's name": (_states("package.json", product="../../x"), "of another product"),
}
