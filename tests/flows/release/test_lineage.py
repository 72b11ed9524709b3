"""The lineage of a package that was made of the user's own list of sources."""

import pytest
from dvc.lock import make_lock

from flows.dvc_commands import DvcLockedError
from flows.release.lineage import read_lineage
from flows.release.package import Package
from relume.errors import UserError


def test_the_own_list_is_part_of_the_lineage(built, monkeypatch):
    """A package of the home's list is of this state of the checkout; of the tracked list or another one it is not."""
    package = Package(
        folder=built.root / "package", sha256="9" * 64, product="denoise", architecture="", metrics={}, lineage={}
    )
    own, tracked = built.home / "sources.json", built.root / "sources.json"
    listed = tracked.read_text()  # what dvc.lock names
    own.write_text(listed)
    tracked.write_text("{}\n")
    for name, value in built.environment.items():
        monkeypatch.setenv(name, value)
    lineage = read_lineage(built.root, package, built.home)
    assert lineage.files["sources.json"] == listed
    assert built.shell("git", "show", f"{lineage.run_commit}:sources.json").stdout == listed
    own.write_text("{}")
    with pytest.raises(UserError, match="relume pipeline run"):
        read_lineage(built.root, package, built.home)
    own.unlink()
    with pytest.raises(UserError, match="relume pipeline run"):
        read_lineage(built.root, package, built.home)
    own.write_text(listed)
    with (
        make_lock(str(built.root / ".dvc" / "tmp" / "lock")),
        pytest.raises(DvcLockedError, match=r"Another dvc command holds DVC's lock: .*/\.dvc/tmp/lock"),
    ):
        read_lineage(built.root, package, built.home)
    (built.root / "data/first/out.txt").unlink()
    with pytest.raises(UserError, match="relume pipeline run"):
        read_lineage(built.root, package, built.home)
