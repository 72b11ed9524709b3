"""`relume evaluate` from end to end: what is printed and written, level sweeps, and that a failure leaves nothing."""

import csv
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner

from relume.cli import main
from relume.errors import ConfigError
from relume.evaluation.benchmark.measure import Asking
from relume.evaluation.benchmark.run import Plan, run
from relume.evaluation.benchmark.sets import open_set
from relume.evaluation.benchmark.systems import System
from relume.images import read_image, save_image

DNCNN = {"width": 8, "layers": 3}


def invoke(*arguments):
    """The command line."""
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def rows_of(folder):
    """The rows of results.csv."""
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def models(tmp_path, save_network, monkeypatch):
    """Two models below the current folder: one changes nothing, one changes something."""
    monkeypatch.chdir(tmp_path)
    save_network(tmp_path / "models" / "same", "dncnn", identity=True, **DNCNN)
    save_network(tmp_path / "models" / "other", "dncnn", **DNCNN)


def test_two_models_are_compared(models, own_images, tmp_path):
    """A row for each image, level and system; means, gains and sheets follow from the rows."""
    result = invoke(
        *("models/same", "models/other", "--set", own_images, "--protocol", "awgn-clipped:15,50", "-o", "out")
    )
    assert result.exit_code == 0, result.output
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 3 * 2 * 3
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())

    def psnr(system, level):
        return [float(row["psnr"]) for row in rows if (row["system"], float(row["level"])) == (system, level)]

    for figure in summary["figures"]:
        assert figure["psnr"] == pytest.approx(np.mean(psnr(figure["system"], figure["level"])), abs=2e-4)
    assert psnr("models/same", 15) == psnr("input", 15)
    assert len(summary["comparisons"]) == 2
    for found in summary["comparisons"]:
        gains = np.subtract(psnr("models/other", found["level"]), psnr("models/same", found["level"]))
        assert found["gain"] == pytest.approx(gains.mean(), abs=2e-4)
        assert (found["wins"], found["losses"]) == ((gains > 0).sum(), (gains < 0).sum())
        assert found["worst"] == "abc"[gains.argmin()]
    sheets = list((tmp_path / "out" / "pictures").rglob("worst_1_*.png"))
    assert len(sheets) == 2
    assert read_image(sheets[0]).pixels.shape == (40, 4 * 50 + 3 * 4, 3)
    assert "models/other over models/same" in result.output


def test_one_model_is_compared_with_its_input(models, own_images, tmp_path):
    """Its sheets are input, result and clean; the default protocol is that of the set."""
    assert invoke("models/other", "--set", own_images, "-o", "out", "--limit", 2).exit_code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {(found["first"], found["second"]) for found in summary["comparisons"]} == {("input", "models/other")}
    assert {figure["protocol"] for figure in summary["figures"]} == {"awgn-clipped"}
    assert {figure["images"] for figure in summary["figures"]} == {2}
    sheet = next((tmp_path / "out" / "pictures").rglob("best_1_*.png"))
    assert read_image(sheet).pixels.shape == (40, 3 * 50 + 2 * 4, 3)


def test_equal_requests_give_equal_bytes(models, own_images, tmp_path):
    """The noise hangs on the seed alone."""
    for out in ("first", "second"):
        assert invoke("models/other", "--set", own_images, "--protocol", "mixture", "-o", out).exit_code == 0
    assert invoke("--set", own_images, "--protocol", "mixture", "-o", "seed", "--seed", 1).exit_code == 0
    first, second, seed = ((tmp_path / out / "results.csv").read_bytes() for out in ("first", "second", "seed"))
    assert first == second
    assert seed.splitlines()[1] not in first


def test_a_failure_leaves_the_last_results(models, own_images, tmp_path):
    """A protocol that the set cannot have ends with exit code 2, and what stood there stays."""
    assert invoke("--set", own_images, "-o", "out").exit_code == 0
    before = (tmp_path / "out" / "results.csv").read_bytes()
    failed = invoke("--set", own_images, "--protocol", "awgn:25", "--protocol", "paired", "-o", "out")
    assert failed.exit_code == 2
    assert "no degraded images" in failed.output
    assert (tmp_path / "out" / "results.csv").read_bytes() == before


def test_an_interrupted_evaluation_keeps_what_it_measured(tmp_path):
    """Ctrl-C after the first estimate: the rows so far lie beside the earlier result, which still stands."""
    # Large and at many levels: what takes less than ten seconds has no estimate, on however fast a machine.
    save_image(tmp_path / "cats" / "chelsea.png", np.tile(skimage.data.chelsea(), (2, 2, 1)))
    (tmp_path / "out").mkdir()
    for name in ("results.csv", "summary.json"):
        (tmp_path / "out" / name).write_text("earlier")
    command = [sys.executable, "-c", "from relume.cli import main; main()", "evaluate", "--set", "cats", "-o", "out"]
    levels = ",".join(str(level) for level in range(1, 251))
    with subprocess.Popen(
        [*command, "--baseline", "nlm", "--protocol", f"awgn:{levels}"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert re.fullmatch(r"evaluate  first estimate: about [\d.]+ (s|min|h) for 250 images\n", said)
    assert process.returncode == 130
    with open(tmp_path / "out.partial.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows[:2]] == ["input", "nlm"]
    assert 2 <= len(rows) < 500
    assert f"Interrupted. out.partial.csv has the {len(rows)} rows" in errors
    assert "run the same command again" in errors
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"earlier"}


def test_what_is_asked_wrongly_is_refused(models, own_images, tmp_path):
    """Nothing to measure on, a set that is not there, one model twice, and two ways to ask for levels."""
    assert invoke("models/same", "-o", "out").exit_code == 2
    missing = invoke("--set", "cbsd68", "--data", tmp_path / "sets", "-o", "out")
    assert missing.exit_code == 2
    assert str(tmp_path / "sets" / "cbsd68") in missing.output
    assert "once" in invoke("models/same", "models/same", "--set", own_images, "-o", "out").output
    both = invoke("--set", own_images, "-o", "out", "--ask", "5,10", "--estimator", "models/same")
    assert "cannot be used together" in both.output


def test_the_list_says_which_sets_are_there(tmp_path):
    """All names, and how many images lie below the folder."""
    save_image(tmp_path / "set5" / "baby.png", np.zeros((20, 20, 3), np.uint8))
    output = invoke("--list", "--data", tmp_path).output
    (set5,) = [line for line in output.splitlines() if line.startswith("  set5 ")]
    (cbsd68,) = [line for line in output.splitlines() if line.startswith("  cbsd68 ")]
    assert set5.endswith("; 1 image")
    assert cbsd68.endswith("not present")
    assert "  salt-and-pepper" in output


def test_a_level_sweep_finds_the_best_level(tmp_path):
    """The best linear estimate of white images of variance V shrinks noise of sigma s by V / (V + s²).

    A system that does so for the level it is told is therefore best asked for the true one.
    """
    deviation = 40.0
    rng = np.random.default_rng(3)
    for name in "ab":
        pixels = np.clip(np.rint(rng.normal(128, deviation, (120, 120, 3))), 0, 255).astype(np.uint8)
        save_image(tmp_path / "white" / f"{name}.png", pixels)

    def shrink(image, level):
        return 128 / 255 + (image - 128 / 255) * np.float32(deviation**2 / (deviation**2 + level**2))

    asked = (5.0, 15.0, 25.0, 35.0, 50.0, 65.0)
    plan = Plan(
        sets=[open_set(str(tmp_path / "white"), None)],
        systems=[System(name="shrink", run=shrink, level="sigma")],
        protocols=["awgn:15,25,50"],
        asking=Asking(levels=asked),
    )
    table = run(plan, tmp_path / "out", settings={})
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(found["true"], found["best"], found["loss"]) for found in summary["level_sweeps"]] == [
        (15, 15, 0),
        (25, 25, 0),
        (50, 50, 0),
    ]
    assert "sigma 50: shrink is best at level 50" in table
    by_asked = {
        row["asked"]: 255**2 / 10 ** (float(row["psnr"]) / 10)
        for row in rows_of(tmp_path / "out")
        if row["level"] == "25.0" and row["image"] == "a"
    }
    for level in asked:  # the error of a wrong level, in closed form
        share = deviation**2 / (deviation**2 + level**2)
        expected = share**2 * 25**2 + (1 - share) ** 2 * deviation**2
        assert by_asked[str(level)] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("kind", "loses"), [("quality", True), ("sigma", False)])
def test_levels_of_different_units_are_not_compared(own_images, tmp_path, kind, loses):
    """Asking a denoiser for sigma 10 is not asking for the true quality 10: what that loses is not said."""
    plan = Plan(
        sets=[open_set(str(own_images), None)],
        systems=[System(name="any", run=lambda image, level: image, level=kind)],
        protocols=["jpeg:10"],
        asking=Asking(levels=(10, 20)),
    )
    table = run(plan, tmp_path / "out", settings={})
    (found,) = json.loads((tmp_path / "out" / "summary.json").read_text())["level_sweeps"]
    assert (found["loss"] is not None) == loses
    assert ("more than with the true level" in table) == loses


def test_two_sets_of_one_name_are_refused(own_images):
    """Their rows could not be told apart."""
    images = open_set(str(own_images), None)
    with pytest.raises(ConfigError, match="set"):
        Plan(sets=[images, images], systems=[])
