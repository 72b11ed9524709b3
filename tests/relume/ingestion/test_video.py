"""Frames of real videos and developed raw files in the manifest, and hostile ones in the quarantine."""

import csv
import hashlib
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relume.curation.curate import curate
from relume.files import sha256_folder
from relume.images import encode
from relume.ingestion.ingest import Photographs, ingest, video_of
from relume.ingestion.settings import VideoSettings
from relume.ingestion.sources import scan
from tests.flows.test_restore_formats import raw_file
from tests.relume.curation.photographs import skimage_photograph
from tests.relume.curation.test_split import settings

av = pytest.importorskip("av", reason='without videos: pip install "relume[video]"')
LIMITS = {"max_megapixels": 1.0, "min_side": 16, "shard_megabytes": 100.0}
SCENES = ("chelsea.png", "coffee.png", "astronaut.png")


def scene(name):
    return skimage_photograph(name)[40:168, 40:232]


def video(images, container="mp4", rate=10, codec="libx264", **options):
    """A video of (H, W, 3) uint8 images, as the bytes of a file."""
    with tempfile.NamedTemporaryFile(suffix=f".{container}") as file:
        with av.open(file.name, "w", options=options) as output:
            stream = output.add_stream(codec, rate=rate)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.options = {"qp": "4", "preset": "ultrafast"} if codec == "libx264" else {}
            stream.bit_rate = 20_000_000
            for image in images:
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            output.mux(stream.encode())
        return Path(file.name).read_bytes()


@pytest.fixture(scope="module")
def film():
    """Three scenes that stand still, each for two seconds at ten frames a second."""
    return [scene(name) for name in SCENES for _ in range(20)]


def run(folder, out, **limits):
    out.mkdir()
    ingest(scan([folder]), out, **{**LIMITS, **limits}, progress=lambda *counted: None)
    with open(out / "quarantine.csv", newline="") as file:
        quarantine = {row["address"].rpartition("/")[2]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}
    return Photographs(out), quarantine


@pytest.fixture
def folder(tmp_path):
    """A folder with a photograph."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "still.png").write_bytes(encode(scene("rocket.jpg"), ".png"))
    return tmp_path / "photos"


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "webm", "avi", "mts"])
def test_a_scene_that_stands_still_is_taken_once_with_its_time(folder, film, tmp_path, container):
    """Of a frame each second those are taken that show another scene, near the pixels that went into the video."""
    codec = {"avi": "mpeg4", "webm": "libvpx"}.get(container, "libx264")
    (folder / f"film.{container}").write_bytes(video(film, container, codec=codec))
    photographs, quarantine = run(folder, tmp_path / "out")
    assert quarantine == {}
    taken = [item for item in photographs.manifest if video_of(item.address)]
    address = (folder / f"film.{container}").as_uri()
    assert [item.address for item in taken] == [f"{address}#t={time}" for time in ("0.000", "2.000", "4.000")]
    for item, name in zip(taken, SCENES, strict=True):
        pixels = photographs.pixels(item)
        assert (item.width, item.height, item.channels, item.bit_depth, item.mode) == (192, 128, 3, 8, "yuv420p")
        assert item.sha256 == hashlib.sha256(pixels).hexdigest()
        assert item.image_id == item.sha256[:16]
        assert item.bytes == (folder / f"film.{container}").stat().st_size
        assert np.abs(pixels.astype(int) - scene(name)).mean() < 6  # chroma at half the size, and colour by BT.601


def test_the_rule_says_which_frames(folder, film, tmp_path):
    """Every frame each half second where none need differ, and one alone where all bits would have to."""
    moving = [np.roll(film[0], 2 * number, axis=1) for number in range(40)]
    (folder / "moving.mp4").write_bytes(video(moving))
    photographs, _ = run(folder, tmp_path / "all", video=VideoSettings(every_seconds=0.5, min_difference=0))
    times = [item.address.rpartition("=")[2] for item in photographs.manifest if video_of(item.address)]
    assert times == [f"{number / 2:.3f}" for number in range(8)]
    photographs, _ = run(folder, tmp_path / "one", video=VideoSettings(every_seconds=0.5, min_difference=63))
    assert sum(bool(video_of(item.address)) for item in photographs.manifest) == 1


def test_the_same_video_gives_the_same_bytes(folder, film, tmp_path):
    """A second run changes nothing, also where the video is in an archive."""
    (folder / "film.mp4").write_bytes(video(film))
    for name in ("first", "second"):
        run(folder, tmp_path / name)
    assert sha256_folder(tmp_path / "first") == sha256_folder(tmp_path / "second")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(folder / "film.mp4", "a/film.mp4")
    photographs, _ = run(tmp_path / "set.zip", tmp_path / "third")
    assert photographs.manifest[1].address == f"archive://{tmp_path}/set.zip#a/film.mp4#t=2.000"
    of_file = [item.sha256 for item in Photographs(tmp_path / "first").manifest if video_of(item.address)]
    assert [item.sha256 for item in photographs.manifest] == of_file


def test_hostile_videos_are_quarantined_and_harm_no_photograph(folder, film, tmp_path):
    """Cut off in the index or in the frames, empty, a text, a playlist, sound alone, too large: each has its reason."""
    whole, streamed = video(film), video(film, "mkv")
    sound = io.BytesIO()
    with av.open(sound, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    files = {
        "no-index.mp4": whole[: len(whole) - 200],
        "fast.mp4": video(film, movflags="faststart")[: len(whole) * 2 // 3],
        "cut.mkv": streamed[: len(streamed) // 2],
        "empty.mp4": b"",
        "text.mp4": b"<html></html>" * 50,
        "list.mkv": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "sound.mkv": sound.getvalue(),
        "large.mp4": video([np.zeros((1000, 1200, 3), np.uint8)] * 3),
        "small.avi": video([np.zeros((8, 32, 3), np.uint8)] * 3, "avi", codec="mpeg4"),
        "image.avi": encode(scene("coffee.png"), ".png"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "film.jpg").write_bytes(whole)
    photographs, quarantine = run(folder, tmp_path / "out")
    assert {name: reason for name, (reason, _) in quarantine.items()} == {
        "no-index.mp4": "truncated",
        "fast.mp4": "truncated",
        "cut.mkv": "truncated",
        "empty.mp4": "empty_file",
        "text.mp4": "wrong_magic",
        "list.mkv": "wrong_magic",
        "sound.mkv": "unsupported_format",
        "large.mp4": "decompression_bomb",
        "small.avi": "too_small",
        "film.jpg": "unsupported_format",
    }
    # What is an image under the name of a video is a photograph.
    assert [item.address.rpartition("/")[2] for item in photographs.manifest] == ["image.avi", "still.png"]


def test_a_transport_stream_that_is_cut_in_a_frame_is_quarantined(folder, film, tmp_path):
    """It states no length; the damaged frame shows it."""
    whole = video(film, "mts")
    (folder / "cut.mts").write_bytes(whole[: len(whole) // 2 // 188 * 188])
    photographs, quarantine = run(folder, tmp_path / "out")
    assert quarantine["cut.mts"][0] == "corrupt"
    assert len(photographs.manifest) == 1


@pytest.mark.slow
def test_a_video_that_is_cut_anywhere_gives_no_frame(folder, film, tmp_path):
    """At 40 places of a video with its index before the frames and of one with it behind."""
    for name, data in (("front", video(film, movflags="faststart")), ("back", video(film))):
        for number in range(1, 40):
            (folder / f"{name}-{number}.mp4").write_bytes(data[: len(data) * number // 40])
    photographs, quarantine = run(folder, tmp_path / "out")
    assert len(quarantine) == 78
    assert len(photographs.manifest) == 1


def test_raw_is_developed_and_hostile_raw_is_quarantined(folder, tmp_path):
    """A DNG is a photograph of 16 bits as LibRaw develops it, under any name; a cut one and a text are not."""
    rawpy = pytest.importorskip("rawpy", reason='without camera raw: pip install "relume[formats]"')
    data = raw_file(scene("coffee.png"))
    (folder / "camera.dng").write_bytes(data)
    (folder / "named.jpg").write_bytes(raw_file(scene("chelsea.png")))
    (folder / "cut.dng").write_bytes(data[: len(data) // 2])
    (folder / "text.nef").write_bytes(b"no raw file")
    with io.BytesIO() as jpeg:
        Image.fromarray(scene("astronaut.png")).save(jpeg, "JPEG")
        (folder / "jpeg.arw").write_bytes(jpeg.getvalue())
    photographs, quarantine = run(folder, tmp_path / "out")
    manifest = {item.address.rpartition("/")[2]: item for item in photographs.manifest}
    assert manifest.keys() == {"camera.dng", "named.jpg", "jpeg.arw", "still.png"}
    assert quarantine["text.nef"][0] == "wrong_magic"
    assert quarantine["cut.dng"][0] in ("truncated", "corrupt")
    item = manifest["camera.dng"]
    assert (item.width, item.height, item.bit_depth, item.mode) == (192, 128, 16, "RGB;16")
    with rawpy.imread(io.BytesIO(data)) as raw:
        expected = raw.postprocess(use_camera_wb=True, output_bps=16)
    np.testing.assert_array_equal(photographs.pixels(item), expected)


def test_without_the_packages_the_quarantine_says_what_to_install(folder, film, tmp_path, monkeypatch):
    """The step goes on with the other files, and names the extra for each kind."""
    (folder / "film.mp4").write_bytes(video(film))
    (folder / "camera.dng").write_bytes(raw_file(scene("coffee.png")))
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.delitem(sys.modules, "relume.images.raw", raising=False)
    photographs, quarantine = run(folder, tmp_path / "out")
    assert len(photographs.manifest) == 1
    assert {name: reason for name, (reason, _) in quarantine.items()} == dict.fromkeys(
        ("film.mp4", "camera.dng"), "missing_package"
    )
    assert "relume[video]" in quarantine["film.mp4"][1]
    assert "relume[formats]" in quarantine["camera.dng"][1]


def test_all_frames_of_a_video_are_on_one_side_of_the_split(folder, film, tmp_path):
    """Three scenes of one video have one group; photographs beside them have their own."""
    (folder / "film.mp4").write_bytes(video(film))
    for name in ("ihc.png", "motorcycle_left.png", "brick.png"):
        (folder / name).write_bytes(encode(scene(name), ".png"))
    run(folder, tmp_path / "ingested")
    (tmp_path / "curated").mkdir()
    choice = settings(patch=64, stride=64, min_test=1, max_flat_fraction=1.0, min_sharpness=0.0, max_noise_sigma=99.0)
    curate(tmp_path / "ingested", tmp_path / "curated", choice, progress=lambda *counted: None)
    with open(tmp_path / "curated" / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    of_video = [row for row in rows if video_of(row["address"])]
    assert len(of_video) == 3
    assert len({row["group"] for row in of_video}) == 1
    assert len({row["split"] for row in of_video} - {"rejected"}) == 1
    assert len({row["group"] for row in rows}) == 5
