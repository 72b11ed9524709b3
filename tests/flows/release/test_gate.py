"""The gate: what it measures, and what it refuses."""

import numpy as np
import pytest

from flows.release.gate import measure
from relume.errors import GateRefusedError, ModelFormatError, UserError
from relume.params import ParityLimits, ReleaseSettings, load_params
from relume.serving.levels import LevelRange
from tests.flows.release.synthetic import make_package, make_photographs


def settings(**changes) -> ReleaseSettings:
    """Limits that the blur keeps."""
    values = {
        "seed": 7,
        "images": 4,
        "crop": 128,
        "min_gain_over_noisy_db": {25: 2.0, 50: 5.0},
        "min_gain_over_nlm_db": {50: 0.0},
        "max_regression_db": 0.05,
        "max_image_regression_db": 0.5,
        "latency_ms_per_tile": 5000,
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
    report = measure(make_package(tmp_path / "p"), None, settings(), photographs)
    report.require_passed()
    assert report.champion is None
    assert value(report, "gain over non-local means, sigma 50") == pytest.approx(27.0 - 20.0)


def test_the_gain_is_that_of_an_independent_computation(tmp_path, photographs):
    """The measured gain equals PSNR computed here from scipy's filter and scikit-image's PSNR, on other noise."""
    import cv2
    from scipy.ndimage import convolve
    from skimage.metrics import peak_signal_noise_ratio

    from tests.flows.release.synthetic import gaussian

    report = measure(make_package(tmp_path / "p", blur=1.0), None, settings(), photographs)
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
    given = measure(adjustable, None, settings(), photographs)
    blind = measure(plain, None, settings(), photographs)
    for sigma in (25, 50):
        name = f"gain over the noisy input, sigma {sigma}"
        assert value(given, f"{name} (given to it)") == pytest.approx(value(blind, name), abs=0.01)
    against = measure(plain, adjustable, settings(), photographs)
    assert value(against, "gain over the champion, sigma 50") == pytest.approx(0, abs=0.01)


def test_the_identity_is_refused_and_the_message_says_by_how_much(tmp_path, photographs):
    """A model that returns its input gains exactly 0 dB, and the refusal names check, value and limit."""
    report = measure(make_package(tmp_path / "p", blur=0), None, settings(), photographs)
    assert value(report, "gain over the noisy input, sigma 25") == 0.0
    with pytest.raises(GateRefusedError) as caught:
        report.require_passed()
    assert "gain over the noisy input, sigma 50: 0.00 dB, must be ≥ 5.00 dB" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_worse_candidate_is_refused_against_the_champion(tmp_path, photographs):
    """A weaker blur beats the noisy input but loses to the champion on the same noisy images; the same one does not."""
    champion = make_package(tmp_path / "champion", blur=1.0)
    weaker = make_package(tmp_path / "weaker", blur=0.6)
    loose = settings(min_gain_over_noisy_db={50: 1.0})
    report = measure(weaker, champion, loose, photographs)
    assert {check.name for check in report.failed} == {
        "gain over the champion, sigma 50",
        "gain over the champion, worst photograph",
    }
    same = measure(champion, champion, loose, photographs)
    assert value(same, "gain over the champion, sigma 50") == 0.0
    same.require_passed()


def test_non_local_means_matters_only_without_a_champion(tmp_path, photographs):
    """Losing to non-local means refuses a first release; with a champion the champion is the measure."""
    package = make_package(tmp_path / "p", nlm_psnr=28.0)
    first = measure(package, None, settings(), photographs)
    assert [check.name for check in first.failed] == ["gain over non-local means, sigma 50"]
    measure(package, package, settings(), photographs).require_passed()


def test_broken_export_parity_is_refused(tmp_path, photographs):
    """A package whose own parity report exceeds the limit does not pass."""
    report = measure(make_package(tmp_path / "p", export_difference=3), None, settings(), photographs)
    assert [check.name for check in report.failed] == ["PyTorch against ONNX, largest difference"]


def test_too_slow_is_refused(tmp_path, photographs):
    """The latency is measured, and a budget that nothing can keep refuses."""
    report = measure(make_package(tmp_path / "p"), None, settings(latency_ms_per_tile=1e-6), photographs)
    assert [check.name for check in report.failed] == ["latency of one tile of 64 pixels"]
    assert report.failed[0].value > 0


def test_the_noise_does_not_depend_on_order_or_company(tmp_path, photographs):
    """The same photograph gets the same noise however many others are measured with it."""
    package = make_package(tmp_path / "p")
    alone = make_photographs(tmp_path / "alone", count=1)
    again = make_photographs(tmp_path / "again", count=1)
    name = "gain over the noisy input, sigma 50"
    first = value(measure(package, None, settings(), alone), name)
    assert first == value(measure(package, None, settings(), again), name)
    assert first != value(measure(package, None, settings(), photographs), name)


def test_images_and_crop_bound_the_work(tmp_path):
    """Of many photographs as many as asked for are used, each once, spread over the folder."""
    folder = make_photographs(tmp_path / "many", count=5, side=100)
    report = measure(make_package(tmp_path / "p"), None, settings(images=3, crop=64), folder)
    assert len(set(report.images)) == 3


def test_no_photographs(tmp_path):
    """Without held-out photographs nothing can be said, and the message gives the command."""
    with pytest.raises(UserError, match="dvc checkout"):
        measure(make_package(tmp_path / "p"), None, settings(), tmp_path)


def test_a_file_that_is_no_onnx(tmp_path, photographs):
    """A broken ONNX file is one clear error."""
    with pytest.raises(ModelFormatError, match="Cannot read the ONNX file"):
        measure(make_package(tmp_path / "p", onnx_bytes=b"not onnx"), None, settings(), photographs)


def test_the_report_is_json_and_a_table(tmp_path, photographs):
    """The table has a line for each check, and the JSON states the verdict of each."""
    report = measure(make_package(tmp_path / "p", blur=0), None, settings(), photographs)
    assert report.as_json()["passed"] is False
    assert len(report.table().splitlines()) == 1 + len(report.checks)
    assert "FAIL  gain over the noisy input, sigma 25" in report.table()


def test_settings_of_this_repository_load():
    """The release section of params.yaml is valid."""
    assert load_params().release.images > 0
