"""Training from a real S3 server: the same bits as from the folder, killed or not, and every trouble named."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from relume import s3 as relume_s3
from relume.errors import SourceError
from relume.training.batches import StepBatches, TrainingCrops
from relume.training.patches import PatchShards
from relume.training.streaming import open_streamed, upload
from tests.components.test_training_steps import ROOT, Checkout
from tests.real.object_store import CuttingProxy
from tests.relume.training.mixed import SIDE, write_mixed
from tests.relume.training.test_loop import STAGE, TRAINING

SECRET = "wrong-and-not-to-be-printed"


@pytest.fixture
def environment(s3, monkeypatch):
    """What a user has set; a fresh client before and after."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    relume_s3._make_client.cache_clear()
    yield s3
    relume_s3._make_client.cache_clear()


@pytest.fixture
def curated(tmp_path):
    """A curated folder: shards of 5 and 3 random patches of 64 x 64, and a file in a folder of its own."""
    folder = tmp_path / "curated"
    (folder / "held_out" / "validation").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for shard, count in enumerate((5, 3)):
        np.save(folder / f"train-{shard:05d}.npy", rng.integers(0, 256, (count, 64, 64, 3), np.uint8))
    (folder / "held_out" / "validation" / "a.png").write_bytes(b"some bytes")
    return folder


@pytest.fixture
def address(environment, curated, request):
    """Where that folder was copied to."""
    address = f"s3://dvc/{request.node.name}"
    assert upload(curated, address, progress=lambda *_: None) == 3
    return address


def test_patches_from_s3_are_those_of_the_shards(address, curated, tmp_path):
    """Every patch, with none, some and all kept on disk, read once and again; the file stays within its bound."""
    local, record = PatchShards(curated), 64 * 64 * 3 + 4
    for kept in (0, 3, 100):
        streamed = open_streamed(address).patches(tmp_path / f"cache{kept}", (kept * record + 1) / 1e6)
        assert (len(streamed), streamed.side) == (8, 64)
        for order in (range(8), [7, 0, 7, 2]):
            for index, patch in zip(order, streamed.read(order), strict=True):
                assert np.array_equal(patch, local[index])
        (file,) = (tmp_path / f"cache{kept}").glob("*/patches")
        assert file.stat().st_size == min(kept, 8) * record


def test_pairs_and_the_table_come_from_s3_too(environment, tmp_path, request):
    """Patches of photographs and of pairs, kept on disk or not, and the tables of sets and scores are those here."""
    (tmp_path / "curated").mkdir()
    local = write_mixed(tmp_path / "curated", {"a": 3}, {"real": 2})
    scores = {"image_id": [f"{n:016x}" for n in range(3)], "niqe": [5.0, 4.0, 3.0]}
    parquet.write_table(pa.table(scores), tmp_path / "curated" / "scores.parquet")
    address = f"s3://dvc/{request.node.name}"
    upload(tmp_path / "curated", address, progress=lambda *_: None)
    for megabytes in (0.0, 1.0):
        streamed = open_streamed(address).patches(tmp_path / f"cache{megabytes}", megabytes)
        assert (len(streamed), streamed.side, streamed.pairs) == (5, SIDE, 2)
        for _ in range(2):
            for ours, theirs in zip(streamed.read(range(5)), local.read(range(5)), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert streamed.table().set.tolist() == ["a"] * 3 + ["real"] * 2
        for patches in (streamed, local):
            assert [patches.scores()["niqe"].tolist() for _ in range(2)] == [[5, 5, 4, 4, 3]] * 2


def test_kept_patches_spare_requests_and_a_damaged_one_is_read_again(address, curated, tmp_path, monkeypatch):
    """Patches on disk ask the server nothing; one whose bytes were damaged there is asked for, and mended."""
    asked, read_range = [], relume_s3.read_range
    monkeypatch.setattr(relume_s3, "read_range", lambda *a: asked.append(a) or read_range(*a))
    cache, local = tmp_path / "cache", PatchShards(curated)
    open_streamed(address).patches(cache, 1).read(range(8))
    assert len(asked) == 8
    open_streamed(address).patches(cache, 1).read(range(8))
    assert len(asked) == 8
    (file,) = cache.glob("*/patches")
    content = bytearray(file.read_bytes())
    content[3 * (64 * 64 * 3 + 4) + 100] ^= 1
    file.write_bytes(content)
    for _ in range(2):
        patches = open_streamed(address).patches(cache, 1).read(range(8))
        assert all(np.array_equal(patch, local[index]) for index, patch in enumerate(patches))
    assert len(asked) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_bits(address, curated, tmp_path, workers):
    """Step by step, over two epochs and a phase border, by no or two workers: equal to the folder's."""
    streamed = open_streamed(address).patches(tmp_path / "cache", 0.05)
    streamed.read([0])  # so that the workers are forked from a process with open connections
    local = StepBatches(TrainingCrops(PatchShards(curated), seed=3), STAGE.resolved(TRAINING))
    remote = StepBatches(TrainingCrops(streamed, seed=3), STAGE.resolved(TRAINING))
    loader = torch.utils.data.DataLoader(remote, batch_size=None, num_workers=workers)
    count = 0
    for step, batch in enumerate(loader):
        assert torch.equal(batch.degraded, local[step].degraded)
        assert torch.equal(batch.clean, local[step].clean)
        count += 1
    assert count == STAGE.steps


def test_a_patch_that_breaks_off_is_read_again(environment, address, curated, tmp_path, monkeypatch):
    """Two answers cut short within the patch cost two more attempts, and the bytes come out whole."""
    folder = open_streamed(address)
    with CuttingProxy(environment.endpoint, cuts=2, after=5_000) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        relume_s3._make_client.cache_clear()
        (patch,) = folder.patches(tmp_path / "cache", 0).read([6])
    assert np.array_equal(patch, PatchShards(curated)[6])
    assert proxy.connections >= 3


@pytest.mark.parametrize("after", [15, 40, 70])
def test_an_answer_that_ends_within_its_head_is_asked_for_again(environment, address, curated, monkeypatch, after):
    """boto3 takes it for a whole answer: of a listing without files, of an upload without an ETag."""
    with CuttingProxy(environment.endpoint, cuts=3, after=after) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        relume_s3._make_client.cache_clear()
        assert len(relume_s3.listing(address)) == 4
        assert proxy.connections == 4
    content = curated / "train-00001.npy"
    with CuttingProxy(environment.endpoint, cuts=3, after=after) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        relume_s3._make_client.cache_clear()
        relume_s3.write(f"{address}/again", content)
        assert relume_s3.read(f"{address}/again")[0] == content.read_bytes()


def test_an_upload_that_the_server_lists_otherwise_is_refused(environment, curated, monkeypatch):
    """ETags of the answers that are not those of the listing: the upload says so, not a training elsewhere."""
    write = relume_s3.write
    monkeypatch.setattr(relume_s3, "write", lambda *arguments: write(*arguments)[::-1])
    with pytest.raises(SourceError, match="has changed since it was uploaded"):
        upload(curated, "s3://dvc/forged", progress=lambda *_: None)


def refused(address):
    """The refusal of a prefix, which never holds the secret."""
    relume_s3._make_client.cache_clear()
    with pytest.raises(SourceError) as caught:
        open_streamed(address)
    assert caught.value.exit_code == 2
    assert caught.value.next_step
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_prefix_that_holds_no_folder_is_refused(environment, address):
    """A missing bucket, an empty prefix, and one whose copy broke off before the manifest are told apart."""
    assert "bucket or key does not exist" in refused("s3://nosuchbucket/prefix")
    assert "there is no object below it" in refused("s3://dvc/nosuchprefix")
    environment.client().delete_object(Bucket="dvc", Key=f"{address.removeprefix('s3://dvc/')}/manifest.json")
    assert "there is no manifest.json" in refused(address)


def test_a_prefix_that_has_changed_is_refused(environment, address, tmp_path):
    """An overwritten shard is refused when the prefix is opened, and while a training reads it."""
    patches = open_streamed(address).patches(tmp_path / "cache", 0)
    key = f"{address.removeprefix('s3://dvc/')}/train-00001.npy"
    body = environment.client().get_object(Bucket="dvc", Key=key)["Body"].read()
    environment.client().put_object(Bucket="dvc", Key=key, Body=body[:-1] + b"\0")
    with pytest.raises(SourceError, match="has changed since it was listed"):
        patches.read([7])
    assert "1 of 3 files are missing or have changed" in refused(address)


def test_a_wrong_secret_is_refused(address, monkeypatch):
    """The message says which settings to check."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    text = refused(address)
    assert "S3 refused the credentials" in text
    assert "AWS_SECRET_ACCESS_KEY" in text


def test_a_secret_that_is_withdrawn_ends_the_training_with_its_message(address, tmp_path, monkeypatch):
    """What a worker is refused is raised by the loader's side as it is, not as a traceback of a worker."""
    streamed = open_streamed(address).patches(tmp_path / "cache", 0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    relume_s3._make_client.cache_clear()
    steps = StepBatches(TrainingCrops(streamed, seed=3), STAGE.resolved(TRAINING))
    error = next(iter(torch.utils.data.DataLoader(steps, batch_size=None, num_workers=1)))
    assert isinstance(error, SourceError)
    assert str(error).startswith("S3 refused the credentials: s3://dvc/")


@pytest.mark.slow
def test_a_machine_without_the_data_trains_the_same_model(environment, tmp_path):
    """Copied by the command, streamed with workers, killed and started again: the artifact is that of the folder."""
    here, there = Checkout(tmp_path / "here"), Checkout(tmp_path / "there")
    here.run("pretrain nafnet")
    code = "from relume.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "upload", "s3://dvc/trained"],
        cwd=here.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "s3://dvc/trained: 2 files\n", done.stderr
    shutil.rmtree(there.folder / "data")
    there.change("training", patches="s3://dvc/trained", workers=2)
    process = there.start("pretrain nafnet")
    while not there.checkpoints() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (there.folder / "models").exists()
    assert "resumed from step" in there.run("pretrain nafnet")
    assert there.result("pretrain nafnet") == here.result("pretrain nafnet")
    assert not (there.folder / "data").exists()


@pytest.mark.slow
def test_a_step_with_a_wrong_secret_ends_with_exit_code_2(environment, tmp_path, monkeypatch):
    """The step, as DVC runs it, says what was refused; no traceback, no secret."""
    checkout = Checkout(tmp_path)
    checkout.change("training", patches="s3://dvc/any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    process = checkout.start("pretrain nafnet")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "error: S3 refused the credentials: s3://dvc/any" in output
    assert "Traceback" not in output
    assert SECRET not in output
