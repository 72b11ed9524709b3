"""The aliases in the registry against the ledger, read without MLflow, whose import takes seconds."""

import base64
import contextlib
import http.client
import json
import os
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from flows.release.ledger import Ledger
from relume.home import sqlite_file

ALIASES = ("champion", "previous", "candidate")
_SECONDS = 3.0


def by_ledger(ledger: Ledger, product: str) -> dict[str, str]:
    """The version numbers that the aliases of a product should have, by alias.

    Raises:
        LedgerError: The ledger is broken.
    """
    candidate = ledger.candidate(product)
    releases = {
        "champion": ledger.current(product),
        "previous": ledger.previous(product),
        "candidate": candidate.release if candidate else None,
    }
    return {alias: release.version for alias, release in releases.items() if release}


def in_registry(uri: str, product: str) -> dict[str, str] | None:
    """The version numbers that the aliases of a product have in the registry; None where they cannot be read.

    Args:
        uri: The address of MLflow's tracking store: a SQLite file or a server. Other stores are not read.
        product: The registered model.
    """
    if database := sqlite_file(uri):
        return _in_file(database, product)
    return _on_server(uri, product) if uri.startswith("http") else None


def _in_file(path: Path, product: str) -> dict[str, str] | None:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_SECONDS)) as db:
            rows = db.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", (product,))
            return {alias: str(version) for alias, version in rows}
    except sqlite3.Error:  # it is not there yet, or is no store of MLflow
        return None


def _on_server(uri: str, product: str) -> dict[str, str] | None:
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    place = urlunsplit(parts._replace(netloc=host, path=f"{parts.path.rstrip('/')}/api/2.0/mlflow"))
    request = urllib.request.Request(f"{place}/registered-models/get?name={quote(product)}")
    name, word = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user := unquote(user) or (f"{name}:{word}" if name and word else ""):
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            aliases = json.load(response)["registered_model"].get("aliases", [])
            return {each["alias"]: str(each["version"]) for each in aliases}
    except urllib.error.HTTPError as error:
        return {} if error.code == 404 else None  # 404: nothing was registered yet
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
