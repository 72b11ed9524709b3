"""The gate: what it measures, and what it refuses."""

import shutil

import numpy as np
import pytest

from flows.release.gate import measure
from flows.release.trial import Latency
from relume.errors import GateRefusedError, ModelFormatError, UserError
from relume.evaluation.settings import EvaluateSettings
from relume.images import read_image, save_image
from relume.inference.plan import Inference, Window
from relume.params import ParityLimits, ReleaseSettings, load_params
from relume.serving.levels import LevelRange
from tests.flows.release.synthetic import doubling, make_package, make_photographs


def task(name: str, **levels: tuple[float, ...]) -> EvaluateSettings:
    """What a recipe of a task is judged on."""
    return EvaluateSettings(seed=7, threads=1, task=name, levels=levels)


NOISE = task("denoise", sigma=(25, 50))


def settings(**changes) -> ReleaseSettings:
    """Limits that the blur keeps."""
    values = {
        "seed": 7,
        "images": 4,
        "crop": 128,
        "min_gain_over_input_db": {"clipped": {25: 2.0, 50: 5.0}},
        "min_gain_over_nlm_db": 0.0,
        "max_regression_db": 0.05,
        "max_image_regression_db": 0.5,
        "latency_ms_per_tile": 5000,
        "max_latency_ratio": 50,
        "served_parity": ParityLimits(max_difference=1, min_psnr=60),
    }
    return ReleaseSettings(**(values | changes))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two crops of a photograph."""
    return make_photographs(tmp_path_factory.mktemp("data") / "test")


def value(report, name: str) -> float:
    """The value of the one check whose name begins with `name`."""
    (found,) = [check.value for check in report.checks if check.name.startswith(name)]
    return found


def test_a_denoiser_passes_without_a_champion(tmp_path, photographs):
    """A blur beats its noisy input and the non-local means of its table, so a first release may go on."""
    report = measure(make_package(tmp_path / "p"), None, settings(), NOISE, photographs)
    report.require_passed()
    assert report.champion is None
    assert value(report, "gain over non-local means, sigma 50") == pytest.approx(27.0 - 20.0)


def test_the_gain_is_that_of_an_independent_computation(tmp_path, photographs):
    """The measured gain equals PSNR computed here from scipy's filter and scikit-image's PSNR, on other noise."""
    import cv2
    from scipy.ndimage import convolve
    from skimage.metrics import peak_signal_noise_ratio

    from tests.flows.release.synthetic import gaussian

    report = measure(make_package(tmp_path / "p", blur=1.0), None, settings(), NOISE, photographs)
    rng = np.random.default_rng(0)
    gains = []
    for path in sorted(photographs.glob("*.png")):
        clean = cv2.imread(str(path))[16:144, 16:144]
        noisy = np.clip(np.rint(clean + rng.normal(0, 50, clean.shape)), 0, 255).astype(np.uint8)
        blurred = np.stack(
            [convolve(noisy[..., c].astype(float), gaussian(1.0), mode="mirror") for c in range(3)], axis=-1
        )
        restored = np.clip(np.rint(blurred), 0, 255).astype(np.uint8)
        gains.append(peak_signal_noise_ratio(clean, restored) - peak_signal_noise_ratio(clean, noisy))
    assert value(report, "gain over the noisy input, sigma 50") == pytest.approx(np.mean(gains), abs=0.1)


def test_an_adjustable_candidate_is_given_the_sigma_of_the_noise(tmp_path, photographs):
    """One that blurs by the level it is given gains what the plain blur gains, and the checks say so."""
    adjustable = make_package(tmp_path / "given", levels=LevelRange(kind="sigma", lowest=0, highest=55, default=0))
    plain = make_package(tmp_path / "plain")
    given = measure(adjustable, None, settings(), NOISE, photographs)
    blind = measure(plain, None, settings(), NOISE, photographs)
    for sigma in (25, 50):
        name = f"gain over the noisy input, sigma {sigma}"
        assert value(given, f"{name} (given to it)") == pytest.approx(value(blind, name), abs=0.01)
    against = measure(plain, adjustable, settings(), NOISE, photographs)
    assert value(against, "gain over the champion, sigma 50") == pytest.approx(0, abs=0.01)


def test_the_identity_is_refused_and_the_message_says_by_how_much(tmp_path, photographs):
    """A model that returns its input gains exactly 0 dB, and the refusal names check, value and limit."""
    report = measure(make_package(tmp_path / "p", blur=0), None, settings(), NOISE, photographs)
    assert value(report, "gain over the noisy input, sigma 25") == 0.0
    with pytest.raises(GateRefusedError) as caught:
        report.require_passed()
    assert "gain over the noisy input, sigma 50: 0.00 dB, must be ≥ 5.00 dB" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_worse_candidate_is_refused_against_the_champion(tmp_path, photographs):
    """A weaker blur beats the noisy input but loses to the champion on the same noisy images; the same one does not."""
    champion = make_package(tmp_path / "champion", blur=1.0)
    weaker = make_package(tmp_path / "weaker", blur=0.6)
    loose, at_50 = settings(min_gain_over_input_db={"clipped": {50: 1.0}}), task("denoise", sigma=(50,))
    report = measure(weaker, champion, loose, at_50, photographs)
    assert {check.name for check in report.failed} == {
        "gain over the champion, sigma 50",
        "gain over the champion, worst photograph",
    }
    same = measure(champion, champion, loose, at_50, photographs)
    assert value(same, "gain over the champion, sigma 50") == 0.0
    same.require_passed()


def test_non_local_means_matters_only_without_a_champion(tmp_path, photographs):
    """Losing to non-local means refuses a first release; with a champion the champion is the measure."""
    package = make_package(tmp_path / "p", nlm_psnr=28.0)
    first = measure(package, None, settings(), NOISE, photographs)
    assert [check.name for check in first.failed] == ["gain over non-local means, sigma 50"]
    measure(package, package, settings(), NOISE, photographs).require_passed()


def test_broken_export_parity_is_refused(tmp_path, photographs):
    """A package whose own parity report exceeds the limit does not pass."""
    report = measure(make_package(tmp_path / "p", export_difference=3), None, settings(), NOISE, photographs)
    assert [check.name for check in report.failed] == ["PyTorch against ONNX, largest difference"]


def test_too_slow_is_refused(tmp_path, photographs):
    """The latency is measured, in process where no server was asked, and a budget that nothing can keep refuses."""
    report = measure(make_package(tmp_path / "p"), None, settings(latency_ms_per_tile=1e-6), NOISE, photographs)
    assert [check.name for check in report.failed] == ["latency of one tile of 64 pixels, in process"]
    assert report.failed[0].value > 0


def test_the_latency_is_compared_with_the_champions(tmp_path, photographs):
    """Six times the champion's time for a pixel is refused where four is the limit, also when their tiles differ."""
    champion, candidate = make_package(tmp_path / "champion"), make_package(tmp_path / "candidate", tile=128)
    # Neighbours with a halo of 8 and an overlap of 4 are 44 and 108 pixels apart.
    for milliseconds, refused in [(12.0, False), (24.0, True)]:
        latency = Latency(
            where="served", candidate={("", 128): milliseconds * (108 / 44) ** 2}, champion={("", 64): 4.0}
        )
        report = measure(candidate, champion, settings(max_latency_ratio=4), NOISE, photographs, latency)
        assert value(report, "latency of a pixel over the champion's, served") == pytest.approx(milliseconds / 4)
        names = {check.name for check in report.failed}
        assert ("latency of a pixel over the champion's, served" in names) is refused


def test_the_latency_is_that_of_the_whole_plan(tmp_path, photographs):
    """A plan of two windows in eight orientations, beside a champion of one window: each tile has its own time and
    number. The limit of a tile is for the slowest; the note says what a megapixel takes."""
    window = Window(tile=96, halo=0, overlap=16)
    plan = Inference(tile=64, halo=8, overlap=4, further_windows=(window,), orientations=8)
    served = make_package(tmp_path / "champion"), make_package(tmp_path / "candidate", inference=plan)
    latency = Latency(where="served", candidate={("", 64): 2.0, ("", 96): 5.0}, champion={("", 64): 2.0})
    report = measure(served[1], served[0], settings(), NOISE, photographs, latency)
    assert value(report, "latency of one tile of 96 pixels, served") == 5.0
    seconds = [8 * (2 * 1e3 / 44**2 + 5 * 1e3 / 80**2), 2 * 1e3 / 44**2]
    assert value(report, "latency of a pixel over the champion's, served") == pytest.approx(seconds[0] / seconds[1])
    assert report.notes[0].endswith(f"which take {seconds[0]:.2g} s served")
    assert report.notes[1].endswith(f"which take {seconds[1]:.2g} s served")


def test_the_noise_does_not_depend_on_order_or_company(tmp_path, photographs):
    """Each photograph gets the same noise alone and with others: the gain on both is the mean of the gains on each."""
    package = make_package(tmp_path / "p")
    name = "gain over the noisy input, sigma 50"
    alone = []
    for path in photographs.iterdir():
        (tmp_path / path.stem).mkdir()
        shutil.copy(path, tmp_path / path.stem)
        alone.append(value(measure(package, None, settings(), NOISE, tmp_path / path.stem), name))
    assert alone[0] != alone[1]
    assert value(measure(package, None, settings(), NOISE, photographs), name) == pytest.approx(
        np.mean(alone), abs=1e-9
    )


def test_as_many_photographs_as_asked_for_are_used(tmp_path):
    """Of many photographs each is used at most once, and they are spread over the folder."""
    folder = make_photographs(tmp_path / "many", count=5, side=100)
    report = measure(make_package(tmp_path / "p"), None, settings(images=3, crop=64), NOISE, folder)
    assert len(set(report.images)) == 3
    assert report.images == tuple(f"{number:016x}" for number in (0, 1, 3))


def test_the_centre_crop_is_measured(tmp_path):
    """Pixels outside of the centre crop change nothing; those at its edge do."""
    package, limits = make_package(tmp_path / "p"), settings(crop=64)

    def gain(name: str, start: int, end: int) -> float:
        """The gain on a photograph of 100 pixels whose pixels outside of the square from start to end are black."""
        (path,) = make_photographs(tmp_path / name, count=1, side=100).iterdir()
        image = read_image(path).pixels
        kept = np.zeros_like(image)
        kept[start:end, start:end] = image[start:end, start:end]
        save_image(path, kept)
        return value(measure(package, None, limits, NOISE, path.parent), "gain over the noisy input, sigma 50")

    whole = gain("whole", 0, 100)
    assert gain("crop", 18, 82) == whole
    assert gain("less above", 19, 82) != whole
    assert gain("less below", 18, 81) != whole


def test_no_photographs(tmp_path):
    """Without held-out photographs nothing can be said, and the message gives the command."""
    with pytest.raises(UserError, match="dvc checkout"):
        measure(make_package(tmp_path / "p"), None, settings(), NOISE, tmp_path)


def test_a_file_that_is_no_onnx(tmp_path, photographs):
    """A broken ONNX file is one clear error."""
    with pytest.raises(ModelFormatError, match="ONNX file cannot be read"):
        measure(make_package(tmp_path / "p", onnx_bytes=b"not onnx"), None, settings(), NOISE, photographs)


def test_the_report_is_json_and_a_table(tmp_path, photographs):
    """The table has a line for each check, and the JSON states the verdict of each."""
    report = measure(make_package(tmp_path / "p", blur=0), None, settings(), NOISE, photographs)
    assert report.as_json()["passed"] is False
    assert len(report.table().splitlines()) == 1 + len(report.checks) + len(report.notes)
    assert "FAIL  gain over the noisy input, sigma 25" in report.table()


def test_settings_of_this_repository_load():
    """The release section of params.yaml is valid."""
    assert load_params().release.images > 0


def test_a_champion_that_restores_otherwise_is_noted(tmp_path, photographs):
    """What a gain is due to may be the tiles or orientations and not the network; the same plan is said once."""
    champion, candidate = make_package(tmp_path / "champion"), make_package(tmp_path / "candidate", tile=128)
    latency = Latency(where="served", candidate={("", 128): 4.0}, champion={("", 64): 2.0})
    report = measure(candidate, champion, settings(), NOISE, photographs, latency)
    assert report.notes == (
        "tiles of 128 pixels, halo 8, overlap 4 (linear); 86 runs of the network a megapixel, which take 0.34 s served",
        "the champion: tiles of 64 pixels, halo 8, overlap 4 (linear); 517 runs of the network a megapixel, which take"
        " 1 s served",
    )
    assert len(measure(candidate, candidate, settings(), NOISE, photographs).notes) == 1


def test_photographs_smaller_than_a_tile_are_noted(tmp_path, photographs):
    """A crop is as large as a tile where the photograph is, and the note counts those that are not."""
    report = measure(make_package(tmp_path / "p", tile=128), None, settings(crop=64), NOISE, photographs)
    (plan,) = report.notes
    assert plan.startswith("tiles of 128 pixels, halo 8, overlap 4 (linear); 86 runs of the network a megapixel, which")
    assert plan.endswith("s in process")
    small = tmp_path / "small"
    for path in photographs.glob("*.png"):
        save_image(small / path.name, read_image(path).pixels[:100])
    report = measure(make_package(tmp_path / "q", tile=128), None, settings(crop=64), NOISE, small)
    assert "2 of 2 photographs are smaller than a tile of 128 pixels" in report.notes[1]
    assert report.notes[1] in report.table()
    assert report.as_json()["notes"] == list(report.notes)


def test_a_recipe_for_sigma_50_is_judged_at_50_alone(tmp_path, photographs):
    """A model that gains too little at weak noise passes where its recipe is for strong noise, against the input and
    without a champion against non-local means at 50; with the levels of the task it is refused at 15."""
    strong, limits = make_package(tmp_path / "p", blur=1.6), settings(max_image_regression_db=9)
    limits.min_gain_over_input_db["clipped"] |= {15: 9.0}
    report = measure(strong, None, limits, task("denoise", sigma=(50,)), photographs)
    report.require_passed()
    assert [check.name for check in report.checks if check.name.startswith("gain")] == [
        "gain over the noisy input, sigma 50",
        "gain over non-local means, sigma 50",
    ]
    whole = measure(strong, None, limits, task("denoise"), photographs)
    assert "gain over the noisy input, sigma 15" in {check.name for check in whole.failed}


def test_held_out_pairs_are_judged_beside_the_levels(tmp_path, photographs):
    """Their gain is that of OpenCV's blur and scikit-image's PSNR on the real degraded image; too little is refused."""
    import cv2
    from skimage.metrics import peak_signal_noise_ratio

    folder = tmp_path / "test"
    shutil.copytree(photographs, folder)
    (folder / "degraded").mkdir()
    path = sorted(folder.glob("*.png"))[0]
    image = cv2.imread(str(path))
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "degraded" / path.name), noisy)
    restored = cv2.GaussianBlur(noisy[16:144, 16:144], (5, 5), 1.0, borderType=cv2.BORDER_REFLECT_101)
    clean = image[16:144, 16:144]
    gain = peak_signal_noise_ratio(clean, restored) - peak_signal_noise_ratio(clean, noisy[16:144, 16:144])
    package = make_package(tmp_path / "p", blur=1.0)
    report = measure(package, None, settings(), NOISE, folder)
    assert value(report, "gain over the noisy input, held-out pairs") == pytest.approx(gain, abs=0.05)
    assert value(report, "gain over the noisy input, sigma 25")
    refused = measure(package, None, settings(min_gain_over_pairs_db=gain + 1), NOISE, folder)
    assert [check.name for check in refused.failed] == ["gain over the noisy input, held-out pairs"]


def test_a_model_for_jpeg_is_judged_on_qualities(tmp_path, photographs):
    """Its gains are those of OpenCV's JPEG and scikit-image's PSNR, and non-local means are no matter."""
    import cv2
    from skimage.metrics import peak_signal_noise_ratio

    package = make_package(tmp_path / "p", blur=0.5, nlm_psnr=99.0, product="dejpeg")
    limits = settings(min_gain_over_input_db={"jpeg": {10: 0.0}})
    report = measure(package, None, limits, task("dejpeg", quality=(10, 40)), photographs)
    for quality in (10, 40):
        gains = []
        for path in sorted(photographs.glob("*.png")):
            clean = cv2.imread(str(path))[16:144, 16:144]
            coded = cv2.imencode(".jpg", clean, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
            restored = cv2.GaussianBlur(decoded, (5, 5), 0.5, borderType=cv2.BORDER_REFLECT_101)
            gains.append(peak_signal_noise_ratio(clean, restored) - peak_signal_noise_ratio(clean, decoded))
        assert value(report, f"gain over the decoded JPEG, quality {quality}") == pytest.approx(
            np.mean(gains), abs=0.03
        )
    assert not any("non-local" in check.name for check in report.checks)


def test_super_resolution_is_judged_on_luma_without_a_border_of_the_scale(tmp_path, photographs):
    """As its literature does: Y of scikit-image's YCbCr, the scale left out at each side."""
    from skimage.color import rgb2ycbcr

    from relume.degradations.resampling import downscale_bicubic, upscale_bicubic

    package = make_package(tmp_path / "p", blur=0.4, product="sr")
    report = measure(
        package,
        None,
        settings(min_gain_over_input_db={"sr": {3: -9.0}}),
        task("super-resolution", scale=(3,)),
        photographs,
    )

    def on_luma(image, clean):
        y, reference = (rgb2ycbcr(each)[3:-3, 3:-3, 0] for each in (image, clean))
        return 10 * np.log10(255**2 / np.square(y - reference).mean())

    gains = []
    for path in sorted(photographs.glob("*.png")):
        clean = read_image(path).pixels[16:142, 16:142]  # of the crop of 128 what is a multiple of 3
        small = downscale_bicubic(clean.transpose(2, 0, 1).astype(np.float32) / np.float32(255), 3)
        enlarged = np.rint(np.clip(upscale_bicubic(small, 3), 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        import cv2

        restored = cv2.GaussianBlur(enlarged, (5, 5), 0.4, borderType=cv2.BORDER_REFLECT_101)
        gains.append(on_luma(restored, clean) - on_luma(enlarged, clean))
    assert value(report, "gain over the bicubic enlargement, scale 3") == pytest.approx(np.mean(gains), abs=0.03)


def test_a_model_that_enlarges_is_judged_on_small_photographs(tmp_path, photographs):
    """Each is shrunk and restored to its size; bicubic interpolation, which is OpenCV's here, is what it must beat."""
    from skimage.color import rgb2ycbcr

    from relume.degradations.resampling import downscale_bicubic, upscale_bicubic

    plan = Inference(tile=64, halo=8, overlap=4, scale=2)
    package = make_package(tmp_path / "p", product="sr2", inference=plan, onnx_bytes=doubling(64))
    limits = settings(min_gain_over_input_db={"sr": {2: -9.0}})
    report = measure(package, None, limits, task("super-resolution", scale=(2,)), photographs)

    def on_luma(image, clean):
        y, reference = (rgb2ycbcr(each)[2:-2, 2:-2, 0] for each in (image, clean))
        return 10 * np.log10(255**2 / np.square(y - reference).mean())

    def eight_bits(planes):
        return np.rint(np.clip(planes, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)

    gains = []
    for path in sorted(photographs.glob("*.png")):
        clean = read_image(path).pixels[16:144, 16:144]
        small = downscale_bicubic(clean.transpose(2, 0, 1).astype(np.float32) / np.float32(255), 2)
        doubled = eight_bits(small).repeat(2, axis=0).repeat(2, axis=1)
        gains.append(on_luma(doubled, clean) - on_luma(eight_bits(upscale_bicubic(small, 2)), clean))
    assert value(report, "gain over the bicubic enlargement, scale 2") == pytest.approx(np.mean(gains), abs=0.01)
    with pytest.raises(ModelFormatError, match=r"evaluate\.levels has scale 3"):
        measure(package, None, limits, task("super-resolution", scale=(3,)), photographs)


def test_one_model_for_all_is_judged_on_each_degradation(tmp_path, photographs):
    """Each check names its protocol; a degradation that the recipe leaves out has none."""
    limits = settings(min_gain_over_input_db={name: {10: -99.0} for name in ("clipped", "rain", "haze", "jpeg")})
    given = task("all-in-one", sigma=(25,), length=())
    report = measure(make_package(tmp_path / "p"), None, limits, given, photographs)
    assert [check.name.removeprefix("gain over the degraded input, ") for check in report.checks][:7] == [
        "clipped, sigma 25",
        "rain, streaks 4",
        "haze, beta 1",
        *(f"jpeg, quality {quality}" for quality in (10, 20, 30, 40)),
    ]


def test_a_limit_lies_on_the_line_between_two_levels(tmp_path, photographs):
    """Of the levels 25 and 50, at 40 it is 3/5 of the way; beyond them it is that of the nearest."""
    levels = task("denoise", sigma=(10, 25, 40, 75))
    package = make_package(tmp_path / "p")
    report = measure(package, package, settings(), levels, photographs)
    limits = {check.name: check.limit for check in report.checks if "noisy input" in check.name}
    assert list(limits.values()) == pytest.approx([2.0, 2.0, 2.0 + 3.0 * 15 / 25, 5.0])


def test_from_five_photographs_on_the_interval_decides(tmp_path):
    """A gain counts with the lower end of the bootstrap's interval of the paired differences, which is shown."""
    from relume.evaluation.comparison import bootstrap_interval
    from relume.evaluation.held_out import noisy_photograph
    from relume.metrics import psnr, to_8_bit
    from relume.serving.onnx_restorer import OnnxRestorer

    folder = make_photographs(tmp_path / "six", count=6, side=128)
    champion, candidate = make_package(tmp_path / "champion", blur=0.8), make_package(tmp_path / "candidate", blur=0.9)
    restorers = [OnnxRestorer(package.folder / "serving") for package in (champion, candidate)]
    gains = []
    for path in sorted(folder.glob("*.png")):
        clean = read_image(path).pixels
        noisy = to_8_bit(noisy_photograph(clean, path.stem, 25, "clipped", 7))
        before, after = (psnr(restorer.restore(noisy).image, clean) for restorer in restorers)
        gains.append(after - before)
    low, high = bootstrap_interval(gains)
    assert low < np.mean(gains) < high
    for limit, refused in ((-low + 1e-6, False), (-low - 1e-6, True)):
        report = measure(candidate, champion, settings(images=6, max_regression_db=max(0, limit)), NOISE, folder)
        (check,) = [check for check in report.checks if check.name == "gain over the champion, sigma 25"]
        assert check.interval == pytest.approx((low, high))
        assert check.value == pytest.approx(np.mean(gains))
        if limit > 0:
            assert (check in report.failed) is refused
    assert f"({low:.2f} to {high:.2f})" in report.table()
