"""The model registry in MLflow: one version for each package, with what is needed to rebuild it.

A version is found again by the hash of its package, so registering twice gives one version. MLflow's
own stages and flavours are not used: a package is served as it is, so the whole folder is logged
and comes back byte for byte.
"""

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from components.tracking import connect
from flows.release.package import Package, open_package
from relume.errors import BrokenFileError, ReleaseError, ServerUnreachableError
from relume.files import atomic_folder
from relume.home import tracking_uri

EXPERIMENT = "releases"
_HASH_TAG = "package_sha256"
_ANCHOR_TAG = "ledger"
_BATCH = 100  # MLflow's limit of parameters and tags in one call
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s\"']+@")
_SECRET_NAME = re.compile(r"secret|password|passwd|token|access_key|credential", re.IGNORECASE)
_SECRET_LINE = re.compile(rf"(?im)^(.*(?:{_SECRET_NAME.pattern})[^:=\n]*[:=]\s*)(\S.*)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """One registered version.

    Attributes:
        product: Registered model, such as `denoise`.
        number: Version number, given by MLflow.
        run_id: Run that holds its lineage and artifacts.
        package: SHA-256 of its package.
    """

    product: str
    number: str
    run_id: str
    package: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackageRun:
    """A run of the registry that holds a package, with or without a version.

    Attributes:
        id: Of the run.
        package: SHA-256 of its package.
        seconds: When it began, since 1970.
        artifacts: Where its files are, when that is a folder of this machine.
    """

    id: str
    package: str
    seconds: float
    artifacts: Path | None


class Registry:
    """The registry of one tracking server or SQLite store.

    Args:
        home: RELUME_HOME, for locks and for the artifacts of a store on SQLite.
        uri: Tracking address; `relume.home.tracking_uri(home)` when None.

    Raises:
        ServerUnreachableError: The server does not answer.
    """

    def __init__(self, home: Path, uri: str | None = None):
        self.home, self.uri = home, uri or tracking_uri(home)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        with self._reaching():
            self._client, self._experiment = connect(home, self.uri, EXPERIMENT)

    def register(
        self, package: Package, *, run_commit: str, params: Mapping[str, Any], files: Mapping[str, str]
    ) -> tuple[Version, bool]:
        """Registers a package once.

        Args:
            package: The package, opened and checked.
            run_commit: Commit that it was built from.
            params: The parameters of the run, as in params.yaml.
            files: Text files of the lineage by name, such as `dvc.lock`; addresses lose user and password.

        Returns:
            Its version, and whether it is new.
        """
        lock = self.home / "mlflow" / "register.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), self._reaching():
            if known := self.find(package.product, package.sha256):
                return known, False
            run_id = self._unfinished_run(package) or self._start_run(package, run_commit)
            self._log(run_id, package, run_commit, params, files)
            return self._create_version(run_id, package, run_commit), True

    def find(self, product: str, sha256: str) -> Version | None:
        """The version whose package has this hash, or None."""
        with self._reaching():
            found = self._client.search_model_versions(f"name = '{product}' and tag.{_HASH_TAG} = '{sha256}'")
        return _version(found[0]) if found else None

    def by_alias(self, product: str, alias: str) -> Version | None:
        """The version that an alias points to, or None."""
        from mlflow.exceptions import MlflowException

        with self._reaching():
            try:
                return _version(self._client.get_model_version_by_alias(product, alias))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def set_aliases(self, product: str, **numbers: str | None) -> None:
        """Points aliases to version numbers; None removes one. An alias that is right already is not touched.

        Example:
            `registry.set_aliases("denoise", champion="4", previous="3", candidate=None)`
        """
        with self._reaching():
            for alias, number in numbers.items():
                now = self.by_alias(product, alias)
                if number is None and now is not None:
                    self._client.delete_registered_model_alias(product, alias)
                elif number is not None and (now is None or now.number != number):
                    self._client.set_registered_model_alias(product, alias, number)

    def anchor(self, product: str, text: str) -> None:
        """Keeps a text with a product that is registered, in place of the one before."""
        with self._reaching():
            self._client.set_registered_model_tag(product, _ANCHOR_TAG, text)

    def anchors(self) -> dict[str, str]:
        """The texts that `anchor` keeps, by product."""
        with self._reaching():
            found = self._client.search_registered_models()
        return {model.name: model.tags[_ANCHOR_TAG] for model in found if _ANCHOR_TAG in model.tags}

    def note(self, version: Version, *, tags: Mapping[str, str], texts: Mapping[str, str] | None = None) -> None:
        """Adds tags to a version and text artifacts, such as the gate's report, to its run."""
        with self._reaching():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.product, version.number, key, value)
            for name, text in (texts or {}).items():
                self._client.log_text(version.run_id, text, name)

    def fetch(self, version: Version, destination: Path) -> Package:
        """Downloads a version's package and checks its hash.

        Args:
            version: The version.
            destination: Folder that will be the package; replaced as a whole.

        Raises:
            ReleaseError: What came back is not what was registered; `destination` is untouched.
        """
        with atomic_folder(destination) as folder:
            with self._reaching(), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download.") as download:
                fetched = Path(self._client.download_artifacts(version.run_id, "package", download))
                for item in fetched.iterdir():
                    item.rename(folder / item.name)
            found = open_package(folder).sha256
            if found != version.package:
                raise ReleaseError(
                    "The registry returned another package than was registered",
                    where=f"{version.product} version {version.number}",
                    why=f"its hash is {found[:16]}, but {version.package[:16]} was registered",
                    next_step="restore the artifact store from a backup, or release the package again",
                )
        return open_package(destination)

    def packages(self) -> list[PackageRun]:
        """Every run that holds a package, also of a registration that was cut short."""
        found, token = [], None
        with self._reaching():
            while True:
                page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
                found += [
                    PackageRun(
                        id=run.info.run_id,
                        package=run.data.tags[_HASH_TAG],
                        seconds=run.info.start_time / 1000,
                        artifacts=_folder(run.info.artifact_uri),
                    )
                    for run in page
                    if _HASH_TAG in run.data.tags
                ]
                if not (token := page.token):
                    return found

    def forget(self, run_id: str) -> None:
        """Deletes a run with its versions and files; of a store that is not on this machine, as MLflow does it.

        A server only marks the run: `mlflow gc` on it frees the room.
        """
        with self._reaching():
            run = self._client.get_run(run_id)
            for version in self._client.search_model_versions(f"run_id = '{run_id}'"):
                self._client.delete_model_version(version.name, version.version)
            if folder := _folder(run.info.artifact_uri):
                shutil.rmtree(folder, ignore_errors=True)
            self._client.delete_run(run_id)

    def _unfinished_run(self, package: Package) -> str | None:
        """A run that an earlier, interrupted registration of this package left."""
        found = self._client.search_runs([self._experiment], f"tags.{_HASH_TAG} = '{package.sha256}'", max_results=1)
        return found[0].info.run_id if found else None

    def _start_run(self, package: Package, run_commit: str) -> str:
        tags = {
            _HASH_TAG: package.sha256,
            "product": package.product,
            "architecture": package.architecture,
            "mlflow.source.type": "PROJECT",
            "mlflow.source.git.commit": run_commit,
        }
        name = f"{package.product}-{package.sha256[:8]}"
        return self._client.create_run(self._experiment, tags=tags, run_name=name).info.run_id

    def _log(
        self, run_id: str, package: Package, run_commit: str, params: Mapping[str, Any], files: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, 0) for key, value in _numbers(package.metrics).items()]
        flat = {"run_commit": run_commit} | {f"lineage.{k}": v for k, v in _leaves(package.lineage).items()}
        flat |= _leaves(params)
        pairs = [Param(key, _shown(key, value)) for key, value in flat.items()]
        for start in range(0, max(len(metrics), len(pairs)), _BATCH):
            part = slice(start, start + _BATCH)
            self._client.log_batch(run_id, metrics=metrics[part], params=pairs[part], synchronous=True)
        for name, text in files.items():
            self._client.log_text(run_id, redacted(text), f"lineage/{name}")
        self._client.log_artifacts(run_id, str(package.folder), "package")
        self._client.log_batch(run_id, tags=[RunTag("complete", "true")], synchronous=True)
        self._client.set_terminated(run_id, "FINISHED")

    def _create_version(self, run_id: str, package: Package, run_commit: str) -> Version:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(package.product)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {_HASH_TAG: package.sha256, "architecture": package.architecture, "run_commit": run_commit}
        source = f"{self._client.get_run(run_id).info.artifact_uri}/package"
        return _version(self._client.create_model_version(package.product, source, run_id=run_id, tags=tags))

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns MLflow's errors into one message that does not show a password."""
        import requests
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (requests.ConnectionError, MlflowException, SQLAlchemyError, CommandError) as error:
            # A database of another MLflow, or a full or read-only disk; MLflow packs some of SQLAlchemy's errors.
            if isinstance(error, SQLAlchemyError | CommandError) or "(sqlite3." in str(error):
                raise BrokenFileError(
                    "MLflow's database cannot be used",
                    where=redacted(self.uri),
                    why=redacted(str(getattr(error, "orig", None) or error)).splitlines()[0][:300],
                    next_step="restore it from a backup, or move it aside to begin an empty registry; if the disk is"
                    " full, free some space",
                ) from error
            if not self.uri.startswith("http") or "API request to" not in str(error):
                raise ReleaseError(
                    "MLflow refused the request",
                    where=redacted(self.uri),
                    why=redacted(str(error)).splitlines()[0][:300],
                    next_step="check MLFLOW_TRACKING_URI and the store it names",
                ) from error
            raise ServerUnreachableError(
                "The MLflow server does not answer",
                where=redacted(self.uri),
                why=redacted(str(error)).splitlines()[0][:200],
                next_step="start it with `relume up`, or unset MLFLOW_TRACKING_URI to use the local store",
            ) from None


def redacted(text: str) -> str:
    """The text without user names and passwords in addresses, and without values of lines named like a secret."""
    return _SECRET_LINE.sub(r"\1(removed)", _USER_IN_ADDRESS.sub("", text))


def _folder(address: str) -> Path | None:
    """The folder of an address of files, None for one elsewhere."""
    parts = urlsplit(address)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def _version(found: Any) -> Version:
    return Version(
        product=found.name, number=str(found.version), run_id=found.run_id, package=found.tags.get(_HASH_TAG, "")
    )


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted name; lists count as leaves."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    leaves = _leaves(metrics)
    return {k: float(v) for k, v in leaves.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _shown(key: str, value: Any) -> str:
    return "(removed)" if _SECRET_NAME.search(key) else redacted(str(value))[:6000]
