"""Restoring from Python: every kind of image comes back as its own kind, restored as the model restores it."""

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import relume
from relume.errors import ConfigError, ImageError, ModelMissingError
from relume.serving.levels import LevelRange
from tests.tiny_onnx import BLUR, IDENTITY, convolve, write_tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (40, 50), np.uint8)


@pytest.fixture
def blur(tmp_path):
    """A restorer whose model blurs."""
    with relume.Restorer(write_tiny_model(tmp_path / "blur", kernel=BLUR)) as restorer:
        yield restorer


def test_the_page_runs(tmp_path, monkeypatch):
    """All code of docs/python.md before the part on servers, in one program, as a reader would copy it."""
    monkeypatch.chdir(tmp_path)
    here, remote = PAGE.read_text().split("## By a server")
    assert "RemoteRestorer" in remote  # see tests/real/triton/test_restore.py
    code = "\n".join(re.findall(r"```python\n(.*?)```", here, re.DOTALL))
    assert code.count("restorer.restore") == 5
    assert code.count("careful.restore") == 1
    exec(compile(code, str(PAGE), "exec"), {})
    assert Path("3.png").is_file()


def test_arrays_of_every_type_and_shape(blur):
    """8 bits are exactly the model's, deeper ones within their rounding; gray, alpha and the type stay."""
    expected = convolve(RGB, BLUR)
    np.testing.assert_array_equal(blur.restore(RGB), expected)
    deep = blur.restore(RGB.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - expected).max() <= 0.51
    for dtype in (np.float16, np.float32, np.float64):
        restored = blur.restore((RGB / 255).astype(dtype))
        assert restored.dtype == dtype
        assert np.abs(restored.astype(float) * 255 - expected).max() <= 0.7
    with_alpha = blur.restore(np.dstack([RGB, ALPHA]))
    np.testing.assert_array_equal(with_alpha, np.dstack([expected, ALPHA]))
    gray = convolve(np.stack([ALPHA] * 3, axis=-1), BLUR)[..., 0]
    np.testing.assert_array_equal(blur.restore(ALPHA), gray)
    np.testing.assert_array_equal(blur.restore(ALPHA[..., np.newaxis]), gray[..., np.newaxis])
    np.testing.assert_array_equal(blur.restore(np.dstack([ALPHA, ALPHA[::-1]])), np.dstack([gray, ALPHA[::-1]]))


def test_pillow_images_keep_mode_and_info(blur):
    """RGB, gray with alpha and 16 bits stay; a palette becomes RGB; what the file said stays with the image."""
    image = Image.fromarray(RGB)
    image.info["exif"] = b"Exif\0\0"
    restored = blur.restore(image)
    assert (restored.mode, restored.info) == ("RGB", image.info)
    np.testing.assert_array_equal(np.asarray(restored), convolve(RGB, BLUR))
    assert blur.restore(image.convert("LA")).mode == "LA"
    assert blur.restore(image.quantize(8)).mode == "RGB"
    assert blur.restore(Image.fromarray(ALPHA.astype(np.uint16) * 257)).mode == "I;16"


def test_tensors_keep_shape_and_type(blur):
    """One image or a batch, of integers or any floating point."""
    tensor = torch.from_numpy(RGB.transpose(2, 0, 1).copy())
    expected = convolve(RGB, BLUR).transpose(2, 0, 1)
    np.testing.assert_array_equal(blur.restore(tensor).numpy(), expected)
    batch = blur.restore(torch.stack([tensor, tensor.flip(0)]) / 255)
    assert (batch.dtype, batch.shape) == (torch.float32, (2, 3, 40, 50))
    assert np.abs(batch[0].numpy() * 255 - expected).max() <= 0.51
    assert blur.restore(tensor.to(torch.bfloat16) / 255).dtype == torch.bfloat16


@pytest.mark.parametrize("image", ["photo.jpg", RGB.tolist(), RGB[0, 0], np.dstack([RGB, RGB]), RGB.astype(np.int32)])
def test_what_is_no_image_is_refused(blur, image):
    """Paths, lists and other arrays; the error names what there may be."""
    with pytest.raises(ImageError) as refused:
        blur.restore(image)
    assert refused.value.next_step


def test_which_model(tmp_path):
    """A product by its name, with its levels; a folder; neither; and no level for a model that takes none."""
    levels = LevelRange(kind="sigma", lowest=0, highest=75, default=20)
    write_tiny_model(tmp_path / "package" / "serving", levels=levels)
    with relume.Restorer(tmp_path / "package") as restorer:
        assert (restorer.levels, restorer.release) == (levels, str(tmp_path / "package"))
        np.testing.assert_array_equal(restorer.restore(RGB, level=5), convolve(RGB, BLUR, 5))
    with pytest.raises(ModelMissingError, match="photo"):
        relume.Restorer("foto")
    with relume.Restorer("photo") as photo, pytest.raises(ConfigError, match="takes no level"):
        photo.restore(RGB, level=3)


@pytest.mark.parametrize(("count", "turns"), [(2, [0]), (4, [0, 2]), (8, [0, 1, 2, 3])])
def test_a_self_ensemble_is_the_mean_of_its_orientations(tmp_path, count, turns):
    """Of the mirror image, the flips or all right angles, for a kernel that none of them leaves as it is."""
    kernel = np.array([[4, 1, 0], [2, 2, 0], [0, 1, 0]]) / 10.3  # no sum ends in .5
    results = []
    for turn in turns:
        turned = np.rot90(RGB, turn)
        results.append(np.rot90(convolve(turned, kernel), -turn))
        results.append(np.rot90(convolve(turned[:, ::-1], kernel)[:, ::-1], -turn))
    expected = np.mean(results, axis=0)
    with relume.Restorer(write_tiny_model(tmp_path, kernel=kernel), orientations=count) as restorer:
        assert np.abs(restorer.restore(RGB) - expected).max() <= 0.51
        deep = restorer.restore(RGB.astype(np.uint16) * 257)
        assert np.abs(deep / 257 - expected).max() <= 1  # each of the expected was rounded
    with relume.Restorer(tmp_path) as restorer:
        assert np.abs(restorer.restore(RGB) - expected).max() > 5


def test_an_impossible_self_ensemble_is_refused(tmp_path):
    """Three orientations are no group."""
    with pytest.raises(ConfigError, match="use 1, 2, 4 or 8"):
        relume.Restorer(write_tiny_model(tmp_path), orientations=3)


def test_a_stream_restores_ahead(blur):
    """While a result is in use, the next image is taken already, and no more; an error comes at its place."""
    taken = []

    def images():
        for number in range(4):
            taken.append(number)
            yield np.roll(RGB, number, axis=1)

    for number, restored in enumerate(blur.stream(images())):
        np.testing.assert_array_equal(restored, convolve(np.roll(RGB, number, axis=1), BLUR))
        assert len(taken) == min(4, number + 2)
    results = blur.stream([RGB, RGB.astype(np.int32), RGB])
    next(results)
    with pytest.raises(ImageError):
        next(results)


def test_coroutines_and_threads_share_a_restorer(blur):
    """The event loop goes on while an image is restored, results are those of their images, and threads take turns."""

    async def main():
        async def images():
            for number in range(3):
                yield np.roll(RGB, number, axis=1)

        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        big = np.tile(RGB, (20, 20, 1))
        one, *_ = await asyncio.gather(*[blur.restore_async(big) for _ in range(3)])
        ticking.cancel()
        return ticks, one, [each async for each in blur.stream_async(images())]

    ticks, one, streamed = asyncio.run(main())
    assert ticks > 5
    np.testing.assert_array_equal(one, convolve(np.tile(RGB, (20, 20, 1)), BLUR))
    for number, restored in enumerate(streamed):
        np.testing.assert_array_equal(restored, convolve(np.roll(RGB, number, axis=1), BLUR))

    found = {}
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: blur.restore(np.roll(RGB, n, axis=0))}))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_array_equal(found[number], convolve(np.roll(RGB, number, axis=0), BLUR))


def test_a_closed_restorer_leaves_no_thread(tmp_path):
    """After the `with` statement its thread is gone."""
    with relume.Restorer(write_tiny_model(tmp_path, kernel=IDENTITY)) as restorer:
        np.testing.assert_array_equal(restorer.restore(RGB), RGB)
        assert [thread for thread in threading.enumerate() if thread.name.startswith("restorer")]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer")]


def test_importing_relume_is_light():
    """Neither NumPy nor a runtime is imported until a restorer is used; unknown names are attribute errors."""
    code = (
        "import sys, relume; print([n for n in ('numpy', 'torch', 'onnx', 'openvino') if n in sys.modules]); relume.x"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "[]\n"
    assert "module 'relume' has no attribute 'x'" in ended.stderr
