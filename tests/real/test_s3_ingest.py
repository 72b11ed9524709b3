"""Photographs on a real S3 server: listed, ingested, and every trouble named without a secret."""

import hashlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from relume import s3 as relume_s3
from relume.errors import SourceError
from relume.ingestion.ingest import read_manifest
from relume.ingestion.sources import open_source, read_sources, scan, write_sources
from tests.real.object_store import CuttingProxy

CHECKOUT = Path(__file__).parents[2]
DATA = Path(importlib.util.find_spec("skimage").submodule_search_locations[0], "data")


@pytest.fixture
def bucket(s3, monkeypatch):
    """The store with photographs below `raw/` and the environment that a user would set; a fresh client each time."""
    client = s3.client()
    for key in ("raw/coffee.png", "raw/deep/été 1.png", "other/chelsea.png"):
        name = "chelsea.png" if "chelsea" in key else "coffee.png"
        client.put_object(Bucket="photos", Key=key, Body=(DATA / name).read_bytes() + key.encode())
    client.put_object(Bucket="photos", Key="raw/notes.txt", Body=b"no picture")
    client.put_object(Bucket="photos", Key="raw/broken.jpg", Body=b"")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    relume_s3._make_client.cache_clear()
    yield client
    relume_s3._make_client.cache_clear()


def message(source="s3://photos/raw"):
    """The refusal of a scan, which must never hold the secret."""
    relume_s3._make_client.cache_clear()
    with pytest.raises(SourceError) as caught:
        scan([source])
    assert caught.value.exit_code == 2
    assert caught.value.next_step
    for secret in (os.environ.get("AWS_SECRET_ACCESS_KEY"), "a-secret-of-this-test"):
        assert not secret or secret not in str(caught.value)
    return str(caught.value)


def test_lists_the_images_below_a_prefix(bucket):
    """Only images below the prefix are listed, with the size and ETag that the server states."""
    listing = scan(["s3://photos/raw"])
    keys = ["raw/broken.jpg", "raw/coffee.png", "raw/deep/été 1.png"]
    assert [entry["address"] for entry in listing["files"]] == [f"s3://photos/{key}" for key in keys]
    for entry, key in zip(listing["files"], keys, strict=True):
        stated = bucket.head_object(Bucket="photos", Key=key)
        assert entry["bytes"] == stated["ContentLength"]
        assert entry["hash"] == "etag:" + stated["ETag"].strip('"')


def test_the_listing_goes_on_over_pages(bucket):
    """More objects than one page of the server holds are all listed."""
    for number in range(1005):
        bucket.put_object(Bucket="photos", Key=f"many/{number:04d}.png", Body=b"x")
    assert len(scan(["s3://photos/many/"])["files"]) == 1005


def test_ingest_takes_photographs_from_a_prefix(bucket, tmp_path):
    """The step, run as DVC runs it, makes photographs of what the bucket holds and quarantines the empty one."""
    write_sources(["s3://photos/raw"], tmp_path / "sources.json")
    for name in ("params.yaml", "recipe.yaml"):
        (tmp_path / name).write_text((CHECKOUT / name).read_text())
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-m", "components.ingest"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "1 quarantined as empty_file" in done.stdout
    manifest = read_manifest(tmp_path / "data" / "ingested")
    expected = [f"s3://photos/{key}" for key in ("raw/coffee.png", "raw/deep/été 1.png")]
    assert [photograph.address for photograph in manifest] == expected
    for photograph in manifest:
        body = bucket.get_object(Bucket="photos", Key=photograph.address.removeprefix("s3://photos/"))["Body"].read()
        assert photograph.sha256 == hashlib.sha256(body).hexdigest()


def test_new_and_changed_objects_change_the_list(bucket, tmp_path):
    """An object that is added or overwritten is seen by the next scan, and nothing else is."""
    path = tmp_path / "sources.json"
    write_sources(["s3://photos/other"], path)
    assert not write_sources(None, path)
    bucket.put_object(Bucket="photos", Key="other/new.png", Body=b"new")
    bucket.put_object(Bucket="photos", Key="other/chelsea.png", Body=b"other bytes")
    change = write_sources(None, path)
    assert change.added == ("s3://photos/other/new.png",)
    assert change.modified == ("s3://photos/other/chelsea.png",)
    bucket.delete_object(Bucket="photos", Key="other/new.png")
    assert write_sources(None, path).removed == ("s3://photos/other/new.png",)
    assert len(read_sources(path)["files"]) == 1


def test_an_object_that_changed_after_the_scan_is_refused(bucket):
    """Overwritten bytes are not taken for the listed ones."""
    entry = scan(["s3://photos/raw/coffee.png"])["files"][0]
    assert open_source(entry["address"], expect=entry["hash"]).startswith((DATA / "coffee.png").read_bytes())
    bucket.put_object(Bucket="photos", Key="raw/coffee.png", Body=b"other")
    with pytest.raises(SourceError, match="changed after it was listed"):
        open_source(entry["address"], expect=entry["hash"])


def test_a_wrong_secret_is_refused(bucket, monkeypatch):
    """The real server refuses a wrong secret and an unknown key; the message says which settings to check."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-not-to-be-printed")
    assert "S3 refused the credentials" in (text := message())
    assert "AWS_SECRET_ACCESS_KEY" in text
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "S3 refused the credentials" in message()


def test_missing_credentials_are_named(bucket, monkeypatch, tmp_path):
    """Without any credentials the message says which variables to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "There are no S3 credentials" in message()
    monkeypatch.setenv("AWS_PROFILE", "nosuchprofile")
    assert "configuration of S3 cannot be used" in message()


def test_a_bucket_or_prefix_without_images_is_named(bucket):
    """A bucket that does not exist and a prefix that holds nothing are told apart."""
    assert "bucket or key does not exist" in message("s3://nosuchbucket/raw")
    assert "contains no image" in message("s3://photos/nosuchprefix")


def test_a_server_that_does_not_answer_is_named(bucket, monkeypatch):
    """With nobody listening the message names the endpoint, without the user and password in it."""
    monkeypatch.setattr(relume_s3, "_ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hidden@127.0.0.1:{port}")
    text = message()
    assert "S3 does not answer" in text
    assert f"http://127.0.0.1:{port}" in text
    assert "hidden" not in text


def test_a_body_that_breaks_off_is_read_again(bucket, s3, monkeypatch):
    """A proxy that cuts the first two answers short costs two more attempts, and the bytes come out whole."""
    entry = scan(["s3://photos/raw/coffee.png"])["files"][0]
    with CuttingProxy(s3.endpoint, cuts=2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        relume_s3._make_client.cache_clear()
        data = open_source(entry["address"], expect=entry["hash"])
    assert len(data) == entry["bytes"]
    assert proxy.connections >= 3
