"""Real servers that several test files share; each is started once, on free loopback ports."""

import pytest

from tests.real.object_store import object_store


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """A SeaweedFS server with the empty buckets `photos`, `dvc` and `mlflow`: a tests.real.object_store.ObjectStore."""
    folder = tmp_path_factory.mktemp("s3") / "data"
    folder.mkdir()
    with object_store(folder, "photos", "dvc", "mlflow") as store:
        yield store
