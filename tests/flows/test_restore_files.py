"""Many files restored by one command: structure, metadata, what is skipped, and what a bad file costs."""

import io
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import tifffile
from click.testing import CliRunner
from PIL import Image

import flows.restore
from relume.cli import main
from relume.images import decode, read_header, read_image, save_image
from tests.relume.images.test_metadata import photograph
from tests.tiny_onnx import BLUR, IDENTITY, convolve, write_tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a model that blurs, and images: two folders deep, gray, BMP, on its side, damaged."""
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "model", kernel=BLUR)
    chelsea = skimage.data.chelsea()
    save_image("in/a b.png", chelsea[:50, :70])
    save_image("in/one/two/c.png", chelsea[50:90, :80])
    save_image("in/gray.png", skimage.data.camera()[:40, :60, np.newaxis])
    cv2.imwrite("in/d.bmp", chelsea[90:130, :60, ::-1])
    Path("in/side.jpg").write_bytes(photograph())
    Path("in/bad.jpg").write_bytes(photograph()[:500])
    Path("in/notes.txt").write_text("no image")
    return tmp_path


def restore(*arguments):
    return CliRunner().invoke(main, ["restore", *arguments, "--model", "model"])


def test_a_folder_is_restored_whole(folder):
    """All but the damaged image are there, each what the model gives, under its own name in the same structure."""
    result = restore("in", "-o", "out")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("5 restored, 0 done before, 1 failed")
    assert "bad.jpg" in result.stderr
    written = {str(path.relative_to("out")) for path in Path("out").rglob("[!.]*") if path.is_file()}
    assert written == {"a b.png", "one/two/c.png", "gray.png", "d.bmp", "side.jpg"}
    for name in ("a b.png", "one/two/c.png"):
        expected = convolve(read_image(f"in/{name}").pixels, BLUR)
        np.testing.assert_array_equal(read_image(f"out/{name}").pixels, expected)
    gray = read_image("out/gray.png")
    assert gray.header.channels == 1
    np.testing.assert_array_equal(gray.pixels, convolve(read_image("in/gray.png").pixels, BLUR))


@pytest.mark.parametrize("count", ["3", "64"])
def test_several_at_a_time_give_the_same(folder, count):
    """Images that are read and written side by side: the same bytes and lines in the same order, the bad one alone
    fails; also when there are fewer images than that."""
    one, several = restore("in", "-o", "one"), restore("in", "-o", "several", "--jobs", count)
    assert (several.exit_code, several.stderr) == (1, one.stderr)
    lines = [line.replace("several/", "one/") for line in several.stdout.splitlines()[:-1]]
    assert lines == one.stdout.splitlines()[:-1]
    written = {path.relative_to("one"): path.read_bytes() for path in Path("one").rglob("[!.]*.*")}
    assert {path.relative_to("several"): path.read_bytes() for path in Path("several").rglob("[!.]*.*")} == written
    assert restore("in", "-o", "several", "--jobs", count).stdout.startswith("0 restored, 5 done before, 1 failed")


def test_what_is_done_is_skipped_until_image_model_or_options_change(folder):
    """The second call writes nothing but the changed image; another model or blend is another result."""
    restore("in", "-o", "out")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*")}
    save_image("in/a b.png", skimage.data.chelsea()[:50, 1:71])
    Path("in/bad.jpg").unlink()
    result = restore("in", "-o", "out")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("1 restored, 4 done before, 0 failed")
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"a b.png", ".relume-restored.jsonl"}
    assert restore("in", "-o", "out").stdout.strip() == "0 restored, 5 done before, 0 failed"
    assert "5 restored" in restore("in", "-o", "out", "--blend", "0.5").stdout
    write_tiny_model(folder / "model", kernel=np.ones((3, 3)) / 10)
    assert "5 restored" in restore("in", "-o", "out", "--blend", "0.5").stdout
    Path("out/side.jpg").unlink()
    assert "1 restored" in restore("in", "-o", "out", "--blend", "0.5").stdout


def test_files_and_patterns_go_into_a_folder(folder):
    """Several files, or a pattern that the shell left alone, are written side by side; one file goes into a folder."""
    assert restore("in/a b.png", "in/one/two/c.png", "-o", "out").exit_code == 0
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a b.png", "c.png"]
    assert restore("in/**/*.png", "-o", "found/").exit_code == 0
    assert sorted(path.name for path in Path("found").glob("*.png")) == ["a b.png", "c.png", "gray.png"]
    assert restore("in/a b.png", "-o", "found").stdout.strip() == "0 restored, 1 done before, 0 failed"
    result = restore("in/*.tif", "-o", "out")
    assert result.exit_code == 2
    assert "no images to restore" in result.stderr


@pytest.mark.parametrize(
    ("sources", "written"),
    [
        (["in/a b.png"], ["in/a b-restored.png"]),
        (["in/a b.png", "in/d.bmp"], ["restored/a b.png", "restored/d.bmp"]),
        (["in/one"], ["restored/two/c.png"]),
        (["in/*.bmp"], ["restored/d.bmp"]),
        (["in/still.gif"], ["in/still-restored.gif.png"]),
    ],
)
def test_without_an_output_results_have_a_usual_place(folder, sources, written):
    """Beside a single image, else a folder; no other image appears, and an original stays."""
    Image.fromarray(skimage.data.camera()[:40, :60]).save("in/still.gif")
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert restore(*sources).exit_code == 0
    after = {str(path) for path in Path().rglob("*.*") if path.is_file() and path not in before}
    assert after - {"restored/.relume-restored.jsonl"} == set(written)
    assert {path: path.read_bytes() for path in before} == before


def test_a_missing_image_leaves_no_trace(folder):
    """Its name is said, and no folder is made for it."""
    before = set(Path().rglob("*"))
    result = restore("in/none.png")
    assert result.exit_code == 2
    assert "does not exist: in/none.png" in result.stderr
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("sources", "output", "words"),
    [(["in"], "in", "original would be overwritten"), (["in/a b.png", "other/a b.png"], "out", "written to one file")],
)
def test_nothing_is_overwritten_unasked(folder, sources, output, words):
    """Refused before anything is restored: results over their originals, and two images under one name."""
    save_image("other/a b.png", skimage.data.chelsea()[:40, :40])
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    result = restore(*sources, "-o", output)
    assert result.exit_code == 2
    assert words in result.stderr
    assert {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()} == before


def test_results_inside_the_source_are_no_sources(folder):
    """An output folder below the source is left out of the second call."""
    Path("in/bad.jpg").unlink()
    assert "5 restored" in restore("in", "-o", "in/clean").stdout
    assert restore("in", "-o", "in/clean").stdout.strip() == "0 restored, 5 done before, 0 failed"


def test_metadata_is_kept_unless_it_is_stripped(folder):
    """The orientation is applied, the camera's words are kept; place or all of it is left out on demand."""
    for options, exif, place in [([], True, True), (["--strip-place"], True, False), (["--strip"], False, False)]:
        assert restore("in/side.jpg", "-o", "side.jpg", *options).exit_code == 0
        image, data = read_image("side.jpg"), Path("side.jpg").read_bytes()
        assert image.pixels.shape == (60, 40, 3)
        assert (b"Leica" in data, b"GPS" in data) == (exif, place)
        assert (image.metadata.xmp is not None) == exif


def test_a_blend_mixes_result_and_input(folder):
    """A quarter of the restored image is a quarter of it, rounded."""
    restore("in/a b.png", "-o", "quarter.png", "--blend", "0.25")
    source = read_image("in/a b.png").pixels
    expected = 0.25 * convolve(source, BLUR) + 0.75 * source
    assert np.abs(read_image("quarter.png").pixels - expected).max() <= 0.5


def test_ten_bad_files_of_two_hundred_cost_themselves_alone(folder):
    """Cut, empty, other files, wrong values, a bomb, a link to nowhere: named with a reason each; 190 are restored."""
    cat = skimage.data.chelsea()[:24, :32]
    for number in range(190):
        save_image(f"many/{number:03}{('.png', '.jpg', '.webp', '.tif')[number % 4]}", np.roll(cat, number, axis=1))
    png, jpeg, tiff = (Path(f"many/{name}").read_bytes() for name in ("000.png", "001.jpg", "003.tif"))
    tifffile.imwrite("nan.tif", np.full((9, 9, 3), np.nan, np.float32), photometric="rgb")
    bomb = png[:16] + (100_000).to_bytes(4, "big") * 2 + png[24:]
    bad = {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": png[:-40],
        "cut.tif": tiff[:200],
        "empty.png": b"",
        "page.jpg": b"<!doctype html><title>404</title>",
        "flipped.png": png[:60] + bytes([png[60] ^ 255]) + png[61:],
        "bomb.png": bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:],
        "nan.tif": Path("nan.tif").read_bytes(),
        "text.webp": b"RIFF",
    }
    for name, data in bad.items():
        Path("many", f"bad-{name}").write_bytes(data)
    Path("many/bad-link.jpg").symlink_to("nowhere.jpg")
    result = restore("many", "-o", "done")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith("190 restored, 0 done before, 10 failed")
    failed = result.stderr.splitlines()[-1]
    assert failed.startswith("failed: ")
    assert sorted(failed.removeprefix("failed: ").split(", ")) == sorted(map(str, Path("many").glob("bad-*")))
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 10
    assert len(list(Path("done").glob("[!.]*"))) == 190
    assert restore("many", "-o", "done").stdout.startswith("0 restored, 190 done before, 10 failed")


def test_a_killed_call_is_resumed(folder):
    """After kill -9 every file is whole, and the next call restores the rest alone."""
    big = np.tile(skimage.data.chelsea(), (2, 2, 1))
    for number in range(12):
        save_image(f"many/{number:02}.png", np.roll(big, number, axis=1))
    command = [sys.executable, "-c", "from relume.cli import main; main()"]
    child = subprocess.Popen(
        [*command, "restore", "many", "-o", "done", "--model", "model"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    while child.poll() is None and len(list(Path("done").glob("*.png"))) < 3:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    result = restore("many", "-o", "done")
    restored, before = (int(part.split()[0]) for part in result.stdout.splitlines()[-1].split(", ")[:2])
    assert before >= 2
    assert restored + before == 12
    for number in range(12):
        expected = convolve(read_image(f"many/{number:02}.png").pixels, BLUR)
        np.testing.assert_array_equal(read_image(f"done/{number:02}.png").pixels, expected)
    assert not list(Path("done").glob(".*.png*"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_standard_input_to_standard_output(folder, kind):
    """The result has the format of the input, by its content; standard output holds the image alone."""
    file = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()[:40, :60]).save(file, kind)
    result = CliRunner().invoke(main, ["restore", "-", "-o", "-", "--model", "model"], input=file.getvalue())
    assert result.exit_code == 0, result.stderr
    image = decode(result.stdout_bytes)
    assert image.header.format == kind
    error = np.abs(image.pixels.astype(int) - convolve(decode(file.getvalue()).pixels, BLUR))
    assert error.mean() < 3 if kind == "JPEG" else error.max() == 0
    assert "by model" in result.stderr
    result = CliRunner().invoke(main, ["restore", "-", "-o", "named.png", "--model", "model"], input=file.getvalue())
    assert result.stdout.startswith("named.png  60x40")
    assert read_image("named.png").header.format == "PNG"


def test_what_standard_streams_cannot_be(folder):
    """A folder needs names, nothing is no image, and before and after are written beside a file."""
    for arguments, words in [
        (["-", "-o", "out/"], "no name"),
        (["-", "-o", "-"], "file is empty"),
        (["in/gray.png", "-o", "-", "--compare"], "--output must be a file"),
    ]:
        result = restore(*arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stdout_bytes == b""


def test_200_images_with_ten_bad_ones(folder):
    """The good ones are restored, the bad ones named one by one and at the end, and the exit code is 1."""
    write_tiny_model(folder / "model", kernel=IDENTITY)
    image = skimage.data.chelsea()[:24, :24]
    bad = {f"{number:03}.png" for number in range(5, 200, 20)}
    for number in range(200):
        save_image(f"many/{number:03}.png", np.roll(image, number, axis=1))
    for number, name in enumerate(sorted(bad)):
        whole = Path("many", name).read_bytes()
        Path("many", name).write_bytes([b"", b"no image", whole[:200], whole[:40] + bytes(40) + whole[80:]][number % 4])
    result = restore("many", "-o", "out")
    assert result.exit_code == 1
    assert "190 restored, 0 done before, 10 failed; 0.1 megapixels in " in result.stdout
    assert result.stderr.count("error: ") == 10
    assert result.stderr.splitlines()[-1] == f"failed: {', '.join(f'many/{name}' for name in sorted(bad))}"
    assert {path.name for path in Path("out").glob("*.png")} == {f"{n:03}.png" for n in range(200)} - bad
    np.testing.assert_array_equal(read_image("out/123.png").pixels, np.roll(image, 123, axis=1))
    for name in bad:
        save_image(Path("many", name), image)
    assert "10 restored, 190 done before, 0 failed" in restore("many", "-o", "out").stdout


def test_before_and_after_in_one_image(folder):
    """Wide images stand one above the other, high ones side by side; the next call with it writes what is missing."""
    assert restore("in/a b.png", "-o", "wide.png", "--compare").exit_code == 0
    before, after = read_image("in/a b.png").pixels, read_image("wide.png").pixels
    found = read_image("wide.compare.jpg").pixels
    assert np.abs(found - np.concatenate([before, after]).astype(int)).mean() < 3
    assert restore("in/side.jpg", "-o", "side.jpg", "--compare").exit_code == 0
    assert read_image("side.compare.jpg").pixels.shape == (60, 80, 3)
    restore("in", "-o", "out")
    assert "5 restored" in restore("in", "-o", "out", "--compare").stdout
    assert len(list(Path("out").rglob("*.compare.jpg"))) == 5


def test_a_dry_run_writes_nothing(folder):
    """It says what would be written, tiles and time; an image that would fail is named, and the exit code says so."""
    result = restore("in", "-o", "out", "--dry-run")
    assert result.exit_code == 1
    assert "in/a b.png -> out/a b.png  70x50  6 tiles, about 0 s" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("5 images, 0.0 megapixels: about ")
    assert "bad.jpg" in result.stderr
    assert not Path("out").exists()
    Path("in/bad.jpg").unlink()
    restore("in/gray.png", "-o", "out/")
    assert restore("in", "-o", "out", "--dry-run").stdout.splitlines()[-1].startswith("4 images, ")
    assert "5 images, " in restore("in", "-o", "out", "--dry-run", "--blend", "0.5").stdout
    assert restore("in/gray.png", "-o", "one.png", "--dry-run").exit_code == 0
    assert not Path("one.png").exists()


def test_an_image_without_room_fails_alone(folder, monkeypatch):
    """What an image will take is known from its header: it is refused before memory is taken, and the rest goes on."""
    tifffile.imwrite("in/deep.tif", np.zeros((400, 500, 3), np.float32), photometric="rgb")
    needed = flows.restore.needed_memory(read_header(Path("in/deep.tif").read_bytes(), full=True))
    monkeypatch.setattr("relume.memory.available_memory", lambda: needed - 1)
    result = restore("in", "-o", "out")
    assert "5 restored, 0 done before, 2 failed" in result.stdout
    why = f"it takes up to {needed / 1e9:.2g} GB, and {(needed - 1) / 1e9:.2g} GB are free"
    assert f"There is no memory for the image: in/deep.tif\n  why:  {why}" in result.stderr


def test_what_a_new_user_types(folder, tmp_path_factory, monkeypatch):
    """Without a model, from any folder, with spaces, into a folder that exists, and over the original."""
    elsewhere = tmp_path_factory.mktemp("my photographs")
    monkeypatch.chdir(elsewhere)
    save_image("one two.png", skimage.data.chelsea()[:40, :60])
    before = read_image("one two.png").pixels
    Path("clean ones").mkdir()

    def run(*arguments):
        return CliRunner().invoke(main, ["restore", *arguments])

    assert "by photo (shipped" in run("one two.png", "-o", "clean ones").stdout
    assert run(str(elsewhere / "one two.png"), "-o", "new/deep/clean.png").exit_code == 0
    assert run("one two.png", "-o", "one two.png").exit_code == 0
    results = [read_image(name).pixels for name in ("clean ones/one two.png", "new/deep/clean.png", "one two.png")]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    assert (results[0] != before).any()
