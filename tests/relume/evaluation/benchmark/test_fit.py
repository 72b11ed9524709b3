"""What cannot be measured is refused before anything is: no system runs, nothing is written, exit code 2."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from relume.cli import main
from relume.errors import ConfigError, ImageError, SourceError
from relume.evaluation.benchmark.measure import Asking, check_fit
from relume.evaluation.benchmark.request import benchmark_request
from relume.evaluation.benchmark.run import Plan, run
from relume.evaluation.benchmark.sets import open_set
from relume.evaluation.benchmark.systems import System, baseline
from relume.images import save_image
from relume.serving.levels import LevelRange


def fail(image, level):
    """A system that must not run."""
    raise AssertionError("measured before all was checked")


ANY = System(name="any", run=fail)
LEVELLED = replace(ANY, name="levelled", level="sigma")


def write(path, *sizes):
    """Black images below a folder, one of each size, by the names a, b and so on."""
    for name, size in zip("abcdef", sizes, strict=False):
        save_image(path / f"{name}.png", np.zeros((*size, 3), np.uint8))


def plan_of(folder, *protocols, systems=(ANY,), **options):
    """A plan of one folder."""
    return Plan(sets=[open_set(str(folder), None)], systems=systems, protocols=protocols, **options)


REFUSED = [
    ("paired", [], "no degraded images"),
    ("jpeg", [baseline("nlm")], "level to restore at"),
    ("jpeg", [LEVELLED], "level to restore at"),
    ("poisson", [replace(ANY, name="gray", channels=(1,))], "gray model cannot restore colour"),
    ("jpeg", [replace(ANY, name="twice", scale=2)], "choose --protocol sr:2"),
    ("sr:3", [replace(ANY, name="twice", scale=2)], "choose --protocol sr:2"),
]


@pytest.mark.parametrize(("protocol", "systems", "message"), REFUSED)
def test_the_last_protocol_is_checked_before_the_first_is_measured(own_images, tmp_path, protocol, systems, message):
    """A set without pairs, a system that nothing tells a level, and a gray model on colour."""
    with pytest.raises(ConfigError, match=message):
        run(plan_of(own_images, "awgn:25", protocol, systems=[ANY, *systems]), tmp_path / "out", settings={})
    assert not (tmp_path / "out").exists()


def test_the_last_image_is_checked_before_the_first_is_measured(tmp_path):
    """It is too small for SSIM; with a limit that leaves it out, the set fits."""
    write(tmp_path / "set", (40, 40), (40, 40), (14, 40))
    plan = plan_of(tmp_path / "set", "sr:2")
    with pytest.raises(ConfigError, match=r"too small[\s\S]*c\.png"):
        run(plan, tmp_path / "out", settings={})
    check_fit(plan.runs(), plan.systems, asking=Asking(), limit=2)


def test_scales_cut_images_before_they_are_too_small(tmp_path):
    """At scale 3 of 18 pixels 18 are left and 12 are measured; of 17 are 15 and 9, which is too few."""
    for side, fits in ((18, True), (17, False)):
        write(tmp_path / str(side), (side, 40))
        plan = plan_of(tmp_path / str(side), "sr:3")
        if fits:
            check_fit(plan.runs(), [], asking=Asking())
        else:
            with pytest.raises(ConfigError, match="too small"):
                check_fit(plan.runs(), [], asking=Asking())


def test_files_are_checked_before_they_are_measured(tmp_path):
    """A pair whose images differ in size, one without its partner, and an image that is none."""
    write(tmp_path / "clean", (40, 40), (40, 40))
    write(tmp_path / "noisy", (40, 40), (40, 42))
    with pytest.raises(SourceError, match=r"42x40[\s\S]*40x40"):
        run(plan_of(tmp_path), tmp_path / "out", settings={})
    (tmp_path / "noisy" / "b.png").unlink()
    with pytest.raises(SourceError, match="missing"):
        run(plan_of(tmp_path), tmp_path / "out", settings={})
    (tmp_path / "noisy" / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        run(plan_of(tmp_path), tmp_path / "out", settings={})


@pytest.mark.parametrize(
    ("kind", "asked"), [("sigma", 255.5), ("sigma", float("nan")), ("quality", 0), ("quality", 101), ("scale", 0.5)]
)
def test_asked_levels_are_of_the_systems_kind(own_images, tmp_path, kind, asked):
    """A sigma is 0 to 255, a JPEG quality 1 to 100, a scale 1 to 16; the range is said."""
    plan = plan_of(own_images, systems=[replace(ANY, level=kind)], asking=Asking(levels=(20, asked)))
    with pytest.raises(ConfigError, match=r"levels from \d+ to \d+"):
        run(plan, tmp_path / "out", settings={})


def test_what_fits_is_left_alone(own_images):
    """Told by the protocol, by the question, by an estimate or by the model's default."""
    trained = replace(LEVELLED, trained=LevelRange(kind="sigma", lowest=0, highest=50, default=25))
    for protocol, system, asking in [
        ("awgn", LEVELLED, Asking()),
        ("jpeg", LEVELLED, Asking(levels=(0, 255))),
        ("jpeg", LEVELLED, Asking(estimate=lambda _: 25.0)),
        ("jpeg", trained, Asking()),
    ]:
        check_fit(plan_of(own_images, protocol).runs(), [system], asking=asking)


WRONG = [
    *(("--ask", asked) for asked in ("nan", "inf", "-5", "256", "25,inf", "", "high")),
    *(("--protocol", level) for level in ("poisson:inf", "poisson:nan", "awgn:-inf", "sr:inf")),
]


@pytest.mark.parametrize(("option", "value"), WRONG)
def test_levels_that_are_none_are_refused(own_images, tmp_path, option, value):
    """With the range that they have, from the command line."""
    arguments = ["evaluate", "--set", str(own_images), "--baseline", "nlm", f"{option}={value}"]
    refused = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "out")])
    assert refused.exit_code == 2, refused.output
    assert "from 0 to 255" in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tiles", [{"halo": 8, "overlap": 0}, {"halo": 4, "overlap": 8}])
def test_a_tile_without_room_is_refused_before_a_model_is_loaded(own_images, tmp_path, tiles):
    """Not at the first image."""
    arguments = {"models": ["no/model"], "sets": [str(own_images)], "data": None, "protocols": []}
    with pytest.raises(ConfigError, match=f"--tile 16 --halo {tiles['halo']}.*\n.*nothing is left of a tile of 16"):
        benchmark_request(**arguments, out=tmp_path / "out", tile=16, **tiles)


def test_a_missing_baseline_is_refused_when_it_is_named(monkeypatch):
    """BM3D is an extra; not at the first image."""
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(ConfigError, match="not installed"):
        baseline("bm3d")
