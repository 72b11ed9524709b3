"""A picture file restored in this process: the strength that is asked for, and what is said of it."""

import numpy as np
import pytest
from click.testing import CliRunner

from flows.restore import restore_file
from relume.cli import main
from relume.errors import ConfigError
from relume.images import read_image, save_image
from relume.serving.levels import LevelRange
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

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
