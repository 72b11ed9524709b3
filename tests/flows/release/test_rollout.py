"""What ends the trial of a candidate on live images, by what the gateway noted."""

import contextlib

import pytest
from click.testing import CliRunner

from flows.monitoring.requests import Requests
from flows.release.ledger import Ledger, Release
from flows.release.package import open_package
from flows.release.rollout import RolloutError, watch
from relume.cli import main
from relume.monitoring.statistics import Statistics
from relume.params import RolloutSettings
from tests.real.releases import make_checkout, put_package

SETTINGS = RolloutSettings(min_requests=20, max_failed=0.1, max_latency_ratio=2.0, min_agreement_db=25)


@pytest.fixture
def requests(tmp_path):
    with contextlib.closing(Requests(tmp_path)) as requests:
        yield requests


def restored(requests, release, count, seconds=0.1, now=100.0):
    row = Statistics(seconds=seconds, noise=1.0, sharpness=1.0, clipped=0.0, removed=1.0, seams=0.0)
    for _ in range(count):
        requests.add(release, row, now=now)


def look(requests, since=0.0):
    return watch(requests, "denoise-a", "denoise-b", SETTINGS, since=since)


def test_a_candidate_within_its_limits(requests):
    """What was seen is said."""
    restored(requests, "denoise-a", 30)
    restored(requests, "denoise-b", 25, seconds=0.19)
    for _ in range(5):
        requests.add_shadow("denoise-b", psnr=31, slower=1.5)
    requests.add_failure("denoise-b")
    assert look(requests) == "25 images, 5 in the shadow, 1 failed"


def test_too_many_failures(requests):
    """Three of twenty are more than a tenth; one of the first two is not, since it may be chance."""
    restored(requests, "denoise-b", 1)
    requests.add_failure("denoise-b")
    look(requests)
    restored(requests, "denoise-b", 16)
    for _ in range(2):
        requests.add_failure("denoise-b")
    with pytest.raises(RolloutError, match=r"denoise-b\n.*could not restore 3 of 20"):
        look(requests)


@pytest.mark.parametrize("shadowed", [False, True])
def test_a_slow_candidate(requests, shadowed):
    """By its own requests beside the champion's, or in the shadow; not before it has had as many as it takes."""
    restored(requests, "denoise-a", 30)

    def add(count):
        if shadowed:
            for _ in range(count):
                requests.add_shadow("denoise-b", psnr=40, slower=2.5)
        else:
            restored(requests, "denoise-b", count, seconds=0.25)

    add(19)
    look(requests)
    add(1)
    with pytest.raises(RolloutError, match=r"takes 2\.5 times as long"):
        look(requests)


def test_a_candidate_that_restores_otherwise(requests):
    """The median of the agreement counts, not a single image."""
    for psnr in (20, *[30] * 19):
        requests.add_shadow("denoise-b", psnr=psnr, slower=1)
    look(requests)
    for _ in range(20):
        requests.add_shadow("denoise-b", psnr=21, slower=1)
    with pytest.raises(RolloutError, match=r"21\.0 dB from the champion"):
        look(requests)


def test_what_was_before_does_not_count(requests):
    """An earlier trial of the same release says nothing of this one."""
    for _ in range(30):
        requests.add_failure("denoise-b")
        requests.add_shadow("denoise-b", psnr=5, slower=9)
    assert look(requests, since=4e9) == "0 images, 0 in the shadow, 0 failed"


def test_what_would_happen(tmp_path, monkeypatch):
    """`--dry-run` names the steps, with the shares and times that were asked for, and writes nothing. A first release
    has no champion to be tried beside; one that serves already is not released."""
    root, home = make_checkout(tmp_path / "checkout"), tmp_path / "home"
    put_package(root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("RELUME_HOME", str(home))

    def shown(*options):
        result = CliRunner().invoke(main, ["release", "--dry-run", *options])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    assert [line.split()[0] for line in shown("--canary", "5")] == ["register", "gate", "load", "serve"]
    assert not home.exists()
    champion = Release(product="denoise", package="0" * 64, version="1", model="denoise-00000000")
    for event in ("promoting", "promoted"):
        Ledger(home).append(event, champion)
    for hold in ("15", "15m", "900s", "0.25h"):
        lines = shown("--shadow", "10", "--canary", "2.5", "--hold", hold)
        assert "shadow 10 % of the images for 15 minutes" in " ".join(lines[3].split())
    assert "against denoise-00000000" in lines[1]
    assert [" ".join(line.split()) for line in lines[3:5]] == [
        "shadow 10 % of the images for 15 minutes",
        "canary 2.5 % of the images for 15 minutes",
    ]
    package = open_package(root / "package")
    for event in ("promoting", "promoted"):
        Ledger(home).append(event, Release(product="denoise", package=package.sha256, version="2", model=package.model))
    assert shown() == [f"{package.model} serves denoise already; nothing would be done"]
    put_package(root, product="dejpeg")
    refused = CliRunner().invoke(main, ["release", "--dry-run"])
    assert (refused.exit_code, "of another product" in refused.stderr) == (2, True)
    assert "'x' is not a valid float" in CliRunner().invoke(main, ["release", "--hold", "xm"]).stderr
