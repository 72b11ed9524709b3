"""An image file restored in this process: which model restores it, at which level, and what is said of both."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from flows.release.ledger import Ledger, Release
from flows.restore import How, released_product, restore_file
from relume.cli import main
from relume.errors import ConfigError, ModelMissingError, ReleaseError
from relume.files import sha256_folder, write_json
from relume.home import relume_home, remember_release
from relume.images import read_image, save_image
from relume.reading import read_json
from relume.serving.levels import LevelRange
from relume.serving.served_model import onnx_path
from tests.flows.release.synthetic import make_package
from tests.tiny_onnx import BLUR, IDENTITY, convolve, write_tiny_model

IMAGE = np.random.default_rng(8).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a noisy image and no release."""
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
    result = restore_file("noisy.png", "clean.png", model="models/exported", how=How(level=asked))
    assert (result.restoration.release, result.restoration.level) == ("models/exported", level)
    np.testing.assert_array_equal(read_image("clean.png").pixels, convolve(IMAGE, BLUR, level))
    assert [note for note in result.notes if "15 to 75" in note] == list(result.notes)
    assert len(result.notes) == (level == 90)


def test_a_backend_is_chosen(adjustable, checkout):
    """The result names it; `auto` keeps its measurement in the home; a server has its own."""
    for backend, named in (("openvino_f32", "(openvino_f32)"), ("auto", "(o")):
        result = restore_file("noisy.png", "clean.png", model="models/exported", backend=backend)
        assert f"models/exported {named}" in str(result)
        difference = np.abs(read_image("clean.png").pixels.astype(int) - convolve(IMAGE, BLUR, 37.25)).max()
        assert difference <= (0 if backend == "openvino_f32" else 1)  # auto may be bfloat16
    assert (checkout / "home" / "backends.json").is_file()
    ended = CliRunner().invoke(
        main, ["restore", "noisy.png", "-o", "x.png", "--backend", "torch", "--server", "127.0.0.1:1"]
    )
    assert isinstance(ended.exception, ConfigError) or "--backend cannot be used with --server" in ended.output


def test_tiles_are_chosen(adjustable):
    """The result is that of numpy; what cannot be, and tiles of a server's own, are refused with what to do."""
    result = restore_file("noisy.png", "clean.png", model="models/exported", tile=16)
    np.testing.assert_array_equal(result.restoration.image, convolve(IMAGE, BLUR, 37.25))
    command = ["restore", "noisy.png", "-o", "clean.png", "--model", "models/exported", "--tile"]
    planned = CliRunner().invoke(main, [*command, "16", "--dry-run"])
    assert "  50x40  20 tiles, about" in planned.stdout
    refused = CliRunner().invoke(main, [*command, "40"])
    assert (refused.exit_code, "use a multiple of 16 above 5" in refused.stderr) == (2, True)
    with pytest.raises(ConfigError, match="--tile cannot be used with --server"):
        restore_file("noisy.png", "clean.png", server="127.0.0.1:1", tile=64)


def test_the_level_is_estimated(adjustable):
    """`auto` is the noise of the image, within the trained levels, in one step with what the same level gives."""
    rng = np.random.default_rng(0)
    for sigma, expected in ((30, 30), (2, 15), (90, 75)):
        flat = np.full((128, 128, 3), 128) + rng.normal(0, sigma, (128, 128, 3))
        save_image("flat.png", np.clip(np.rint(flat), 0, 255).astype(np.uint8))
        result = restore_file("flat.png", "clean.png", model="models/exported", how=How(level="auto"))
        assert result.restoration.level == pytest.approx(expected, rel=0.15)
        again = restore_file("flat.png", "at.png", model="models/exported", how=How(level=result.restoration.level))
        np.testing.assert_array_equal(again.restoration.image, result.restoration.image)


def test_a_level_estimator_estimates_the_level(checkout):
    """Where none is given and for `auto`, within the trained levels; the line that is printed says it."""
    levels = LevelRange(kind="sigma", lowest=15, highest=75, default=37.25)
    write_tiny_model(checkout / "models" / "exported", levels=levels, estimator="level")
    for mean, level in ((60, 30), (61, 30.5), (10, 15), (220, 75)):
        image = np.full((40, 50, 3), mean, np.uint8)
        save_image("noisy.png", image)
        for options in ([], ["--level", "auto"]):
            done = CliRunner().invoke(
                main, ["restore", "noisy.png", "-o", "clean.png", "--model", "models/exported", *options]
            )
            assert done.stdout.endswith(f"by models/exported at sigma {level:g} (estimated)\n"), done.output
            np.testing.assert_array_equal(read_image("clean.png").pixels, convolve(image, BLUR, level))
    given = restore_file("noisy.png", "clean.png", model="models/exported", how=How(level=20))
    assert (given.restoration.level, given.restoration.estimated) == (20, False)


def test_a_level_is_not_estimated_for_a_model_without(tmp_path):
    """`--level auto` on a blind product is refused, with what to use instead."""
    save_image(tmp_path / "noisy.png", IMAGE)
    command = ["restore", str(tmp_path / "noisy.png"), "-o", str(tmp_path / "clean.png"), "--level", "auto"]
    result = CliRunner().invoke(main, [*command, "--product", "photo"])
    assert (result.exit_code, "it takes no level" in result.stderr) == (2, True)
    assert CliRunner().invoke(main, [*command[:-1], "some"]).exit_code == 2


@pytest.mark.parametrize(("options", "words"), [([], "37.25 (default)"), (["--level", "20"], "20")])
def test_the_command_states_the_level(adjustable, options, words):
    """The line that is printed ends with the level and its kind, and says when nobody asked for it."""
    result = CliRunner().invoke(
        main, ["restore", "noisy.png", "-o", "clean.png", "--model", "models/exported", *options]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"by models/exported at sigma {words}\n")


def test_the_command_notes_a_level_out_of_the_trained_range(adjustable):
    """It works, and a note names the range."""
    result = CliRunner().invoke(
        main, ["restore", "noisy.png", "-o", "clean.png", "--model", "models/exported", "--level", "90"]
    )
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


def test_which_model_restores(checkout, released):
    """A product's champion, whatever its name; without one the shipped model; by default the shipped `photo`."""

    def by(**options):
        return restore_file("noisy.png", "clean.png", **options).restoration.release

    assert by(product="clean") == released.model
    assert by().startswith("photo (shipped")
    assert by(model="models/exported") == "models/exported"
    assert by(model="package") == "package"
    onnx = str(onnx_path("models/exported"))
    assert by(model=onnx) == onnx
    assert by(model="photo").startswith("photo (shipped")
    (checkout / "home").mkdir(exist_ok=True)
    (checkout / "home" / "config.yaml").write_text("default_product: clean\n")
    assert by() == released.model
    (checkout / "home" / "config.yaml").write_text("default_product: cleam\n")
    with pytest.raises(ModelMissingError, match=r"cleam, default_product in .*config\.yaml"):
        by()
    (checkout / "home" / "config.yaml").write_text("default: clean\n")
    with pytest.raises(ConfigError, match=r"config\.yaml\n.*default is unknown; did you mean default_product"):
        by()


def test_a_release_restores_from_any_folder(checkout, released, tmp_path_factory, monkeypatch):
    """Elsewhere the user's last release is found, and the result says where it was released."""
    remember_release(checkout, relume_home())
    monkeypatch.delenv("RELUME_HOME")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    by = restore_file(checkout / "noisy.png", "clean.png", product="clean").restoration.release
    assert by == f"{released.model} (released in {checkout})"
    assert released_product(elsewhere) == "clean"
    with pytest.raises(ModelMissingError, match="did you mean clean"):
        restore_file(checkout / "noisy.png", "clean.png", product="claen")
    (elsewhere / ".relume").mkdir()  # a folder with a home of its own restores with that
    with pytest.raises(ModelMissingError):
        restore_file(checkout / "noisy.png", "clean.png", product="clean")


def test_what_cannot_be_chosen(checkout, released):
    """An unknown product gets the nearest known name; a folder without a model, or both at once, are refused."""
    with pytest.raises(ModelMissingError, match="did you mean photo"):
        restore_file("noisy.png", "clean.png", product="foto")
    with pytest.raises(ModelMissingError, match=r"no serving\.json"):
        restore_file("noisy.png", "clean.png", model="home")
    with pytest.raises(ConfigError, match="cannot be used together"):
        restore_file("noisy.png", "clean.png", model="package", product="clean")
    with pytest.raises(ConfigError, match="leave --model out"):
        restore_file("noisy.png", "clean.png", model="package", server="127.0.0.1:1")


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (["registered"], "wash-00000000 is not promoted"),
        (["registered", "refused"], "wash-00000000 was refused"),
        (["registered", "promoting", "abandoned"], "wash-00000000 was abandoned"),
    ],
)
def test_a_product_of_which_nothing_serves(checkout, events, why):
    """What was registered and never promoted is no unknown name: the message says what became of it."""
    release = Release(product="wash", package="0" * 64, version="1", model="wash-00000000")
    for event in events:
        Ledger(relume_home()).append(event, release)
    with pytest.raises(ModelMissingError) as refused:
        restore_file("noisy.png", "clean.png", product="wash")
    assert str(refused.value).startswith(f"No release of this product serves: wash\n  why:  {why}\n")
    assert "relume status" in str(refused.value)
    assert "did you mean" not in str(refused.value)


def test_the_product_of_a_server(checkout, released):
    """Through a server the product is that of params.yaml, else the only one released here; else it must be named."""
    assert released_product(checkout) == "clean"
    (checkout / "params.yaml").write_text("package: {product: other}\n")
    assert released_product(checkout) == "other"
    (checkout / "params.yaml").unlink()
    release = Release(product="other", package="0" * 64, version="1", model="other-00000000")
    Ledger(relume_home()).append("promoted", release)
    with pytest.raises(ConfigError, match="--product"):
        restore_file("noisy.png", "clean.png", server="127.0.0.1:1")


def test_strength_is_the_old_name_of_level(adjustable):
    """`--strength` works with a note that names `--level`; both together are refused."""
    command = ["restore", "noisy.png", "-o", "clean.png", "--model", "models/exported", "--strength", "20"]
    result = CliRunner().invoke(main, command)
    assert result.stdout.endswith("by models/exported at sigma 20\n")
    assert "--strength is now called --level" in result.stderr
    np.testing.assert_array_equal(read_image("clean.png").pixels, convolve(IMAGE, BLUR, 20))
    assert CliRunner().invoke(main, [*command, "--level", "30"]).exit_code == 2


def test_level_of_a_model_that_takes_none(checkout):
    """It is refused, nothing is written, and without a level the line says nothing of one."""
    write_tiny_model(checkout / "models" / "exported")
    with pytest.raises(ConfigError, match="takes no level: models/exported"):
        restore_file("noisy.png", "clean.png", model="models/exported", how=How(level=25))
    assert not (checkout / "clean.png").exists()
    result = CliRunner().invoke(main, ["restore", "noisy.png", "-o", "clean.png", "--model", "models/exported"])
    assert result.stdout.endswith("by models/exported\n")


def test_a_file_that_is_not_there_names_no_model(checkout):
    """A mistyped ONNX file is refused, although the folder that it would be in belongs to a served model."""
    write_tiny_model(checkout / "models" / "exported")
    onnx = onnx_path("models/exported")
    restore_file("noisy.png", "clean.png", model=onnx)
    assert (checkout / "clean.png").exists()
    with pytest.raises(ModelMissingError, match=r"modle\.onnx"):
        restore_file("noisy.png", "other.png", model=onnx.with_name("modle.onnx"))
    assert not (checkout / "other.png").exists()


def test_only_what_was_released_restores(checkout, released):
    """A package whose model was replaced is refused, also when it states the hash of what it holds now."""
    onnx = next((checkout / "package").rglob("model.onnx"))
    onnx.write_bytes(onnx_path(checkout / "models" / "exported").read_bytes())
    with pytest.raises(ReleaseError, match="damaged"):
        restore_file("noisy.png", "clean.png", product="clean")
    with pytest.raises(ReleaseError, match="damaged"):
        restore_file("noisy.png", "clean.png", model="package")
    facts = read_json(checkout / "package" / "package.json")
    found = sha256_folder(checkout / "package", exclude=("package.json",))
    kept = relume_home() / "packages" / released.sha256[:16]
    shutil.copytree(checkout / "package", kept)
    write_json(kept / "package.json", facts | {"sha256": found})
    shutil.rmtree(checkout / "package")
    with pytest.raises(ReleaseError, match="registry does not have"):
        restore_file("noisy.png", "clean.png", product="clean")
