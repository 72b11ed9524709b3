"""A picture file restored in this process: the strength that is asked for, and what is said of it."""

import numpy as np
import pytest
from click.testing import CliRunner

from flows.release.ledger import Ledger, Release
from flows.restore import restore_file
from relume.cli import main
from relume.errors import ConfigError
from relume.home import relume_home
from relume.images import read_image, save_image
from relume.serving.levels import LevelRange
from tests.flows.release.synthetic import make_package
from tests.tiny_onnx import BLUR, IDENTITY, convolve, write_tiny_model

IMAGE = np.random.default_rng(8).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a noisy picture and no release."""
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    save_image("noisy.png", IMAGE)
    return tmp_path


@pytest.fixture
def adjustable(checkout):
    """An export in it that blurs and darkens by its level."""
    write_tiny_model(
        checkout / "models" / "exported", levels=LevelRange(kind="sigma", lowest=15, highest=75, default=37.25)
    )


@pytest.mark.parametrize(("asked", "level"), [(None, 37.25), (20, 20), (90, 90)])
def test_level(adjustable, asked, level):
    """The file holds what the model gives at the level, or at its default, which the result states."""
    result = restore_file("noisy.png", "clean.png", level=asked)
    assert (result.restoration.release, result.restoration.level) == ("models/exported", level)
    np.testing.assert_array_equal(read_image("clean.png").pixels, convolve(IMAGE, BLUR, level))
    assert [note for note in result.notes if "15 to 75" in note] == list(result.notes)
    assert len(result.notes) == (level == 90)


@pytest.mark.parametrize(("options", "words"), [([], "37.25 (default)"), (["--level", "20"], "20")])
def test_the_command_states_the_level(adjustable, options, words):
    """The line that is printed ends with the level and its kind, and says when nobody asked for it."""
    result = CliRunner().invoke(main, ["restore", "noisy.png", "-o", "clean.png", *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"by models/exported at sigma {words}\n")


def test_the_command_notes_a_level_out_of_the_trained_range(adjustable):
    """It works, and a note names the range."""
    result = CliRunner().invoke(main, ["restore", "noisy.png", "-o", "clean.png", "--level", "90"])
    assert result.exit_code == 0, result.output
    assert "note: sigma 90 is outside of 15 to 75" in result.stderr


@pytest.fixture
def released(checkout):
    """A release of the product `clean`, whose package lies in the checkout; the export gives something else."""
    write_tiny_model(checkout / "models" / "exported", kernel=IDENTITY)
    package = make_package(checkout / "package", product="clean")
    release = Release(product="clean", package=package.sha256, version="1", model=package.model)
    Ledger(relume_home()).append("promoted", release)
    return package


@pytest.mark.parametrize("product", ["clean", "denoise"])
def test_the_product_is_that_of_the_parameters(checkout, released, product):
    """The release of the product that params.yaml names restores, whatever its name; without a release, the export."""
    (checkout / "params.yaml").write_text(f"package: {{product: {product}}}\n")
    by = restore_file("noisy.png", "clean.png").restoration.release
    assert by == (released.model if product == "clean" else "models/exported")
    assert restore_file("noisy.png", "clean.png", product="clean").restoration.release == released.model


def test_outside_of_a_checkout(released):
    """The only product that was released here restores; with a second one, or through a server, it must be named."""
    result = CliRunner().invoke(main, ["restore", "noisy.png", "-o", "clean.png"])
    assert result.stdout.endswith(f"by {released.model}\n")
    Ledger(relume_home()).append(
        "promoted", Release(product="other", package="0" * 64, version="1", model="other-00000000")
    )
    with pytest.raises(ConfigError, match="--product"):
        restore_file("noisy.png", "clean.png", server="127.0.0.1:1")


def test_strength_is_the_old_name_of_level(adjustable):
    """`--strength` works with a note that names `--level`; both together are refused."""
    command = ["restore", "noisy.png", "-o", "clean.png", "--strength", "20"]
    result = CliRunner().invoke(main, command)
    assert result.stdout.endswith("by models/exported at sigma 20\n")
    assert "--strength is now called --level" in result.stderr
    np.testing.assert_array_equal(read_image("clean.png").pixels, convolve(IMAGE, BLUR, 20))
    assert CliRunner().invoke(main, [*command, "--level", "30"]).exit_code == 2


def test_level_of_a_model_that_takes_none(checkout):
    """It is refused, nothing is written, and without a level the line says nothing of one."""
    write_tiny_model(checkout / "models" / "exported")
    with pytest.raises(ConfigError, match="takes no level: models/exported"):
        restore_file("noisy.png", "clean.png", level=25)
    assert not (checkout / "clean.png").exists()
    result = CliRunner().invoke(main, ["restore", "noisy.png", "-o", "clean.png"])
    assert result.stdout.endswith("by models/exported\n")
