"""Many files restored by one command: structure, metadata, what is skipped, and what a bad file costs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner

from relume.cli import main
from relume.images import read_image, save_image
from tests.relume.images.test_metadata import photograph
from tests.tiny_onnx import BLUR, convolve, write_tiny_model

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
