"""The registry against a real MLflow server process and against the SQLite store: the same behaviour in both."""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.processes import free_port
from flows.release.aliases import in_registry
from flows.release.registry import Registry
from relume.errors import ReleaseError, ServerUnreachableError
from relume.files import sha256_folder
from tests.flows.release.synthetic import make_package
from tests.real.mlflow_server import mlflow_server

BLURS = itertools.count(1, 0.25)
SECRET = "hunter2-do-not-log"
LINEAGE = {
    "run_commit": "c" * 40,
    "params": {"release": {"seed": 7}, "store": {"secret_key": SECRET}, "sources": [f"s3://user:{SECRET}@bucket/x"]},
    "files": {"dvc.lock": "stages: {}\n", "sources.json": f'{{"address": "https://me:{SECRET}@host/p.png"}}\n'},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of an MLflow server process with a store of its own."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow-server")) as address:
        yield address


@pytest.fixture(scope="module")
def sqlite_home(tmp_path_factory) -> Path:
    """A RELUME_HOME whose SQLite store is made once for this module, because making its tables takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(params=["sqlite", "server"])
def registry(request, sqlite_home, monkeypatch) -> Registry:
    """The registry on the SQLite store, and on a server process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry(sqlite_home, request.getfixturevalue("server") if request.param == "server" else None)


@pytest.fixture
def package(tmp_path):
    """A package of its own for each test, so that tests share a store and nothing else."""
    return make_package(tmp_path / "package", blur=next(BLURS))


@pytest.mark.slow
def test_registering_twice_gives_one_version(registry, package):
    """The second registration of the same bytes finds the first, in another registry object too."""
    first, new = registry.register(package, **LINEAGE)
    again, new_again = Registry(registry.home, registry.uri).register(package, **LINEAGE)
    assert (new, new_again) == (True, False)
    assert again == first
    assert first.package == package.sha256
    assert registry.find("denoise", package.sha256) == first
    assert registry.find("denoise", "0" * 64) is None


@pytest.mark.slow
def test_an_interrupted_registration_is_finished(registry, package, monkeypatch):
    """A registration cut off before its version exists is completed on the same run."""

    def cut(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_create_version", cut)
        with pytest.raises(KeyboardInterrupt):
            registry.register(package, **LINEAGE)
    assert registry.find("denoise", package.sha256) is None
    version, new = registry.register(package, **LINEAGE)
    assert new
    runs = registry._client.search_runs([registry._experiment], f"tags.package_sha256 = '{package.sha256}'")
    assert [run.info.run_id for run in runs] == [version.run_id]


@pytest.mark.slow
def test_what_a_version_holds(registry, package, tmp_path):
    """Lineage, figures and the whole package come back; the package byte for byte."""
    version, _ = registry.register(package, **LINEAGE)
    run = registry._client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["run_commit"] == "c" * 40
    assert run.data.params["lineage.data"] == "d" * 64
    assert run.data.params["release.seed"] == "7"
    assert run.data.metrics == {"final.psnr_50": 27.0}
    lock = registry._client.download_artifacts(version.run_id, "lineage/dvc.lock", str(tmp_path))
    assert Path(lock).read_text() == "stages: {}\n"
    fetched = registry.fetch(version, tmp_path / "fetched")
    assert sha256_folder(fetched.folder) == sha256_folder(package.folder)
    assert (fetched.folder / "evaluation" / "pictures" / "before_after.png").is_file()


@pytest.mark.slow
def test_a_changed_artifact_is_refused(registry, package, tmp_path):
    """A package that comes back with another hash than was registered never lands under its final name."""
    version, _ = registry.register(package, **LINEAGE)
    registry._client.log_text(version.run_id, "changed", "package/model/model.json")
    with pytest.raises(ReleaseError, match=r"another package|damaged"):
        registry.fetch(version, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert list(tmp_path.glob(".fetched*")) == []


@pytest.mark.slow
def test_aliases_move_and_go(registry, package, tmp_path):
    """Aliases are set, moved to another version, removed, and unknown ones stand for nothing; without MLflow they read
    the same."""
    first, _ = registry.register(package, **LINEAGE)
    second, _ = registry.register(make_package(tmp_path / "second", blur=next(BLURS)), **LINEAGE)
    registry.set_aliases("denoise", champion=first.number, candidate=second.number)
    assert registry.by_alias("denoise", "champion") == first
    registry.set_aliases("denoise", champion=second.number, previous=first.number, candidate=None)
    assert registry.by_alias("denoise", "champion") == second
    assert registry.by_alias("denoise", "previous") == first
    expected = {"champion": second.number, "previous": first.number}
    assert in_registry(registry.uri.replace("http://", "http://me:hunter2@"), "denoise") == expected
    assert registry.by_alias("denoise", "candidate") is None
    assert registry.by_alias("deblur", "champion") is None
    assert in_registry(registry.uri, "deblur") == {}
    registry.set_aliases("denoise", champion=None, previous=None)


@pytest.mark.slow
def test_no_secret_is_logged(registry, package, tmp_path, monkeypatch):
    """Neither parameters nor lineage files keep a password, and the environment is not logged at all."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    version, _ = registry.register(package, **LINEAGE)
    run = registry._client.get_run(version.run_id)
    assert SECRET not in str(run.to_dictionary())
    for name in ("lineage/sources.json", "lineage/dvc.lock"):
        assert SECRET not in Path(registry._client.download_artifacts(version.run_id, name, str(tmp_path))).read_text()
    assert run.data.params["sources"] == "['s3://bucket/x']"


def test_a_server_that_does_not_answer_is_one_clear_error(tmp_path):
    """A tracking server that is not there is named without its password, and the next command is given."""
    with pytest.raises(ServerUnreachableError) as caught:
        Registry(tmp_path, f"http://me:{SECRET}@127.0.0.1:{free_port()}")
    assert "MLflow server does not answer: http://127.0.0.1" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "relume up" in str(caught.value)


@pytest.mark.slow
def test_local_artifacts_lie_in_relume_home(sqlite_home, package, monkeypatch):
    """With the SQLite store the artifacts of a release go below RELUME_HOME, not beside the caller."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version, _ = Registry(sqlite_home).register(package, **LINEAGE)
    found = list((sqlite_home / "mlflow" / "artifacts").glob(f"{version.run_id}/artifacts/package/package.json"))
    assert len(found) == 1


@pytest.mark.slow
def test_a_home_that_was_moved_keeps_its_packages(sqlite_home, package, tmp_path, monkeypatch):
    """A home finds its packages where they are now, and keeps new ones there; the old place is not touched."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(sqlite_home, tmp_path / "old")
    version, _ = Registry(tmp_path / "old").register(package, **LINEAGE)
    (tmp_path / "old").rename(tmp_path / "new home")
    moved = Registry(tmp_path / "new home")
    assert moved.fetch(moved.find(package.product, package.sha256), tmp_path / "fetched").sha256 == version.package
    another = make_package(tmp_path / "another", blur=next(BLURS))
    moved.fetch(moved.register(another, **LINEAGE)[0], tmp_path / "fetched")
    assert not (tmp_path / "old").exists()


def test_importing_the_registry_does_not_import_mlflow():
    """MLflow takes seconds to import, so only using the registry does."""
    code = "import sys, flows.release.registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "uri", ["http://me:hunter2@127.0.0.1:{port}", "sqlite:////nowhere/mlflow.db", "postgresql://a/b"]
)
def test_aliases_that_cannot_be_read(uri):
    """A server that does not answer, a store that is not there and one of another kind give None, and no traceback."""
    assert in_registry(uri.format(port=free_port()), "denoise") is None
