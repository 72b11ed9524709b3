"""The data steps killed with SIGKILL, driver and workers: outs stay whole, and the next run gives the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from relume import parallel
from relume.files import sha256_folder
from relume.images import save_image
from relume.ingestion.sources import write_sources
from tests.relume.curation.photographs import skimage_photograph

ROOT = Path(__file__).parents[2]
OUT = {"ingest": "data/ingested", "curate": "data/curated"}
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "brick.png", "grass.png")


def start(folder, step, **environment):
    """A step as the graph starts it, in a session of its own."""
    command = [sys.executable, "-m", f"components.{step}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process):
    """Its output; it must have succeeded."""
    output = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkout in which both steps ran undisturbed, with the seconds that each took."""
    folder = tmp_path_factory.mktemp("whole")
    photographs = tmp_path_factory.mktemp("photographs")
    for name in NAMES:
        for part in range(2):  # two parts of each, which are photographs of their own
            pixels = skimage_photograph(name)
            height, width = (length // 2 for length in pixels.shape[:2])
            top, left = part // 2 * height, part % 2 * width
            save_image(photographs / f"{part}{Path(name).stem}.png", pixels[top : top + height, left : left + width])
    write_sources([photographs], folder / "sources.json")
    for name in ("params.yaml", "recipe.yaml"):
        settings = yaml.safe_load((ROOT / name).read_text())
        if "curate" in settings:
            smaller = {"patch": 96, "stride": 64, "min_sharpness": 1, "scenes": "hashes"}
            settings["curate"] |= {key: value for key, value in smaller.items() if key in settings["curate"]}
        if "ingest" in settings:
            settings["ingest"]["shard_megabytes"] = 0.2  # several shards, so that a killed run leaves some
        (folder / name).write_text(yaml.safe_dump(settings, sort_keys=False))
    seconds = {}
    for step in OUT:
        before = time.monotonic()
        finish(start(folder, step))
        seconds[step] = time.monotonic() - before
    return folder, seconds


def disturbed(whole, folder):
    """A copy of the checkout in which nothing was ingested yet."""
    for name in ("sources.json", "params.yaml", "recipe.yaml"):
        shutil.copyfile(whole / name, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("step", OUT)
def test_a_killed_driver_leaves_what_was_there_and_the_next_run_gives_the_same_bytes(whole, tmp_path, step):
    """At random moments of the step: no half of an out is ever seen under its name, and the old one survives."""
    undisturbed, took = whole
    seconds = took[step]
    folder, out = disturbed(undisturbed, tmp_path), Path(OUT[step])
    if step == "curate":
        shutil.copytree(undisturbed / OUT["ingest"], folder / OUT["ingest"])
    expected = sha256_folder(undisturbed / out)
    moments = random.Random(step)
    unfinished = 0
    for attempt in range(12):
        before = sha256_folder(folder / out) if (folder / out).exists() else None
        started, process = time.monotonic(), start(folder, step)
        try:
            process.wait(moments.uniform(0.3, 1.0) * seconds)
            seconds = time.monotonic() - started  # it ended before its kill: the machine has more time for it by now
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = sha256_folder(folder / out) if (folder / out).exists() else None
        assert now in (before, expected), f"attempt {attempt}"
        unfinished += process.returncode == -signal.SIGKILL
        if unfinished == 3:
            break
    assert unfinished == 3, "kills came after the end"
    finish(start(folder, step))
    assert sha256_folder(folder / out) == expected


@pytest.mark.exhaustive
def test_killed_workers_of_a_cluster_change_nothing(whole, tmp_path):
    """While a cluster of three worker processes measures, two are killed at random moments; the bytes are the same.

    Then the driver is killed as well, and the next one on the same cluster gives them again.
    """
    from distributed import LocalCluster

    undisturbed, seconds = whole
    folder, out = disturbed(undisturbed, tmp_path), OUT["curate"]
    shutil.copytree(undisturbed / OUT["ingest"], folder / OUT["ingest"])
    moments = random.Random("workers")
    with LocalCluster(n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        environment = {parallel.CLUSTER: cluster.scheduler_address}
        process = start(folder, "curate", **environment)
        deadline = time.monotonic() + 120
        while "measure_one" not in cluster.scheduler.task_prefixes and time.monotonic() < deadline:
            time.sleep(0.01)
        killed = 0
        for _ in range(2):
            time.sleep(moments.uniform(0, 0.15) * seconds["curate"])
            if process.poll() is None:
                worker = moments.choice([nanny for nanny in cluster.workers.values() if nanny.pid])
                os.kill(worker.pid, signal.SIGKILL)
                killed += 1
        finish(process)
        assert killed, "the step ended before a worker was killed"
        assert sha256_folder(folder / out) == sha256_folder(undisturbed / out)

        shutil.rmtree(folder / out)
        process = start(folder, "curate", **environment)
        time.sleep(moments.uniform(0.3, 0.8) * seconds["curate"])
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        finish(start(folder, "curate", **environment))
    assert sha256_folder(folder / out) == sha256_folder(undisturbed / out)
